//! A source that is watched: what changed since a scan of it began, so that the next pass looks at nothing else.
//!
//! A scan that shall be followed puts a watch on each directory before it lists it. From then on a task gathers the
//! names that change; a pass takes them, and those that change while it runs are for the next one. Whoever asks for
//! them names the watch that his scan began: after anything was missed, or the agent has started again, there is no such
//! watch, and the whole tree is scanned. Why, is told to whoever asked.
//!
//! A watch does not see everything: stores through mappings, changes by names outside of the tree, file systems that
//! others change too. So it only makes passes over a live source cheap; the pass under the freeze believes none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::id::{MigrationId, TenantId};
use common::rel_path::{RelPath, escape};
use common::shutdown::Shutdown;
use sync::only::{LOOKS_MAX, Look, Only};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tree::{Dir, Kind, Name, TreeError, WatchEvent, WatchId, Watcher};

use crate::scan::look::describe;

/// Directories that one watch may stand on: about a kibibyte of the kernel's memory each, and as much of ours.
const DIRECTORIES_MAX: usize = 100_000;
/// Names of hard links, which every pass looks at: a write by one of them shows by that one only.
const LINKS_MAX: usize = 16_384;
/// Trees that are watched at once; further ones are scanned whole.
const WATCHED_MAX: usize = 16;
/// A watch that nobody asked for so long is given up: longer than a destination pauses between two passes.
const UNASKED_MAX: Duration = Duration::from_secs(1_800);

/// How often what changed is taken from the kernel, whose queue holds 16 384 changes unless somebody says otherwise:
/// room for 800 000 in a second.
const GATHER_EVERY: Duration = Duration::from_millis(20);

/// Whose tree is watched.
pub(crate) type Whose = (TenantId, MigrationId);

/// The trees that an agent watches.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    all: Arc<Mutex<HashMap<Whose, Arc<Watched>>>>,
    /// What gathers changes runs as long as the agent.
    tasks: Shutdown,
}

/// One tree that is watched.
#[derive(Debug)]
pub(crate) struct Watched {
    /// What the destination names it by.
    pub(crate) number: u64,
    /// Device and inode of the root.
    root: (u64, u64),
    watcher: Watcher,
    seen: Mutex<Seen>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Seen {
    directories: BTreeMap<WatchId, RelPath>,
    /// What changed since it was asked for last, and whether all below it did.
    changed: BTreeMap<RelPath, bool>,
    /// Names of files that have several, as the present or the last pass sees them.
    links: BTreeSet<RelPath>,
    /// Those that the pass before saw; none while the first one sees everything.
    links_before: Option<BTreeSet<RelPath>>,
    asked: BootTime,
    /// Why it is not trusted any more.
    doubt: Option<String>,
}

impl Watches {
    /// Watches nothing yet.
    pub(crate) fn new(tasks: Shutdown) -> Self {
        Self { all: Arc::default(), tasks }
    }

    /// Begins to watch a tree; says why that cannot be.
    pub(crate) fn begin(&self, whose: &Whose, root: &Dir) -> Result<Arc<Watched>, String> {
        let identity = identity_of(root)?;
        refuse_mounts(root)?;
        let mut all = self.lock();
        if all.len() >= WATCHED_MAX {
            return Err(format!("its agent watches {WATCHED_MAX} trees already"));
        }
        let watcher = Watcher::new().map_err(|error| of_new(&error))?;
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|error| error.to_string())?;
        let watched = Arc::new(Watched {
            number: u64::from_le_bytes(number),
            root: identity,
            watcher,
            seen: Mutex::new(Seen {
                directories: BTreeMap::new(),
                changed: BTreeMap::new(),
                links: BTreeSet::new(),
                links_before: None,
                asked: clock::boot(),
                doubt: None,
            }),
            stop: CancellationToken::new(),
        });
        if let Some(earlier) = all.insert(whose.clone(), Arc::clone(&watched)) {
            earlier.stop.cancel();
        }
        self.tasks.spawn(self.clone().gather(whose.clone(), Arc::clone(&watched)));
        Ok(watched)
    }

    /// Takes what changed since the watch of this number was asked last, as what is to be looked at; says why
    /// everything is.
    pub(crate) fn take(
        &self,
        whose: &Whose,
        number: u64,
        root: &Dir,
    ) -> Result<(Arc<Watched>, Only), String> {
        let found = self.lock().get(whose).filter(|watched| watched.number == number).cloned();
        let found =
            found.ok_or("its agent does not know the watch: it has started again, or nobody asked")?;
        if identity_of(root)? != found.root {
            return Err("its root is another directory than the one that was watched".to_owned());
        }
        refuse_mounts(root)?;
        let only = found.take(root)?;
        Ok((found, only))
    }

    /// Gives a watch up.
    pub(crate) fn end(&self, whose: &Whose) {
        if let Some(watched) = self.lock().remove(whose) {
            watched.stop.cancel();
        }
    }

    /// Empties the kernel's queue as it fills, until the watch is given up.
    async fn gather(self, whose: Whose, watched: Arc<Watched>) {
        let mut tick = tokio::time::interval(GATHER_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.tasks.cancelled() => return,
                () = watched.stop.cancelled() => return,
                _ = tick.tick() => watched.take_in(),
            }
            let asked = watched.lock().asked;
            if clock::boot().since(asked) >= UNASKED_MAX {
                let mut all = self.lock();
                if all.get(&whose).is_some_and(|present| present.number == watched.number) {
                    all.remove(&whose);
                }
                return;
            }
        }
    }

    /// Whole values are put in and taken out, so a poisoned lock holds whole ones too.
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Arc<Watched>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Watches a directory, from before it is listed.
    pub(crate) fn add(&self, path: &RelPath, directory: &Dir) {
        // Under the lock: an event of this watch must find its path.
        let mut seen = self.lock();
        if seen.doubt.is_some() {
            return;
        }
        match self.watcher.add(directory) {
            Ok(watch) => {
                seen.directories.insert(watch, path.clone());
                if seen.directories.len() > DIRECTORIES_MAX {
                    seen.distrust(format!("it has more than {DIRECTORIES_MAX} directories"));
                }
            }
            // It is gone, which its parent tells.
            Err(error) if error.is_not_found() => {}
            Err(error) => seen.distrust(of_add(&error)),
        }
    }

    /// Notes a name of a file that has several. What is written by one of them shows by that one only, so each pass
    /// looks at all; a name that the pass before did not know means that others may be unknown, too.
    pub(crate) fn note_link(&self, path: RelPath) {
        let mut seen = self.lock();
        if seen.doubt.is_some() {
            return;
        }
        if seen.links_before.as_ref().is_some_and(|before| !before.contains(&path)) {
            return seen.distrust("a file got a further name (hard link)");
        }
        seen.links.insert(path);
        if seen.links.len() > LINKS_MAX {
            seen.distrust(format!("its files have more than {LINKS_MAX} further names (hard links)"));
        }
    }

    fn take(&self, root: &Dir) -> Result<Only, String> {
        self.take_in();
        let (changed, links) = {
            let mut seen = self.lock();
            seen.asked = clock::boot();
            if let Some(doubt) = &seen.doubt {
                return Err(doubt.clone());
            }
            let links = std::mem::take(&mut seen.links);
            seen.links_before = Some(links.clone());
            (std::mem::take(&mut seen.changed), links)
        };
        let mut only = Only::default();
        let links = links.into_iter().map(|path| Look { path, is_deep: false });
        // What is no directory any more may be one at the destination, with all that was in it.
        let looks = changed.into_iter().map(|(path, is_deep)| {
            let is_deep = is_deep || !is_directory(root, &path);
            Look { path, is_deep }
        });
        if links.chain(looks).all(|look| only.add(&look)) {
            return Ok(only);
        }
        self.lock().distrust(TOO_MUCH);
        Err(TOO_MUCH.to_owned())
    }

    /// Takes in what waits in the kernel.
    fn take_in(&self) {
        loop {
            match self.watcher.read() {
                Ok(events) if events.is_empty() => return,
                Ok(events) => self.lock().take(events),
                Err(error) => return self.lock().distrust(format!("its events cannot be read: {error}")),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const TOO_MUCH: &str = "more names changed than are remembered";

impl Seen {
    fn take(&mut self, events: Vec<WatchEvent>) {
        for event in events {
            match event {
                _ if self.doubt.is_some() => return,
                WatchEvent::Name { watch, name, is_other_directory } => {
                    let Some(path) = self.directories.get(&watch).and_then(|path| path.join(&name).ok())
                    else {
                        continue;
                    };
                    *self.changed.entry(path).or_default() |= is_other_directory;
                    if self.changed.len() > LOOKS_MAX {
                        self.distrust(TOO_MUCH);
                    }
                }
                WatchEvent::Ended(watch) => {
                    self.directories.remove(&watch);
                }
                WatchEvent::Overflowed => {
                    self.distrust("the kernel's queue of changes was full (fs.inotify.max_queued_events)");
                }
                WatchEvent::Unmounted => self.distrust("a file system in it was unmounted"),
            }
        }
    }

    fn distrust(&mut self, why: impl Into<String>) {
        if self.doubt.is_none() {
            let why = why.into();
            tracing::info!(why, "a source is not watched any more");
            self.doubt = Some(why);
        }
        self.changed.clear();
        self.links.clear();
        self.directories.clear();
    }
}

fn identity_of(root: &Dir) -> Result<(u64, u64), String> {
    let stat = root.stat_self().map_err(|error| describe(&error))?;
    Ok((stat.dev, stat.ino))
}

/// What is mounted later hides what was watched, and no watch tells of it.
fn refuse_mounts(root: &Dir) -> Result<(), String> {
    match root.mounted_below() {
        Ok(None) => Ok(()),
        Ok(Some(point)) => Err(format!("something is mounted in it, at {}", escape(&point))),
        Err(error) => Err(describe(&error)),
    }
}

fn of_new(error: &io::Error) -> String {
    format!("its agent can watch nothing more (fs.inotify.max_user_instances): {error}")
}

fn of_add(error: &TreeError) -> String {
    if error.is_no_space() {
        return "the host's limit of watches is reached (fs.inotify.max_user_watches)".to_owned();
    }
    format!("a directory cannot be watched: {}", describe(error))
}

fn is_directory(root: &Dir, path: &RelPath) -> bool {
    let Some((parent, name)) = path.split() else { return true };
    let Ok(name) = Name::new(name) else { return false };
    let stat = root.open_beneath(parent.as_bytes()).and_then(|dir| dir.stat(&name));
    stat.is_ok_and(|stat| stat.kind == Kind::Directory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tree::Root;

    use super::*;

    fn whose() -> Whose {
        (TenantId::default_tenant(), "m1".parse().unwrap())
    }

    fn dir(path: &Path) -> Dir {
        Root::open(path).unwrap().dir()
    }

    /// What is to be looked at, as `name` or, with all below it, `name/`.
    fn looks(watches: &Watches, watched: &Watched, root: &Path) -> Result<Vec<String>, String> {
        let (_, only) = watches.take(&whose(), watched.number, &dir(root))?;
        let shown = |look: Look| format!("{}{}", look.path, if look.is_deep { "/" } else { "" });
        Ok(only.looks().map(shown).collect())
    }

    struct Tree {
        folder: tempfile::TempDir,
        watches: Watches,
        watched: Arc<Watched>,
    }

    impl Tree {
        /// A root with a directory `a` that holds a `file`, watched.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("root");
            fs::create_dir_all(root.join("a")).unwrap();
            fs::create_dir_all(folder.path().join("elsewhere/deep")).unwrap();
            fs::write(root.join("a/file"), "1").unwrap();
            let watches = Watches::new(Shutdown::new());
            let watched = watches.begin(&whose(), &dir(&root)).unwrap();
            let tree = Self { folder, watches, watched };
            tree.watched.add(&RelPath::root(), &dir(&root));
            tree.watched.add(&path("a"), &dir(&root.join("a")));
            assert_eq!(tree.looks(), Ok(Vec::new()));
            tree
        }

        fn root(&self) -> std::path::PathBuf {
            self.folder.path().join("root")
        }

        fn looks(&self) -> Result<Vec<String>, String> {
            looks(&self.watches, &self.watched, &self.root())
        }

        fn doubt(&self) -> String {
            let why = self.looks().unwrap_err();
            // It stays so.
            assert_eq!(self.looks().as_ref(), Err(&why));
            why
        }
    }

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_changes_is_told_once_and_what_came_or_went_with_all_below_it() {
        let tree = Tree::new();
        let root = tree.root();
        fs::write(root.join("a/file"), "2").unwrap();
        fs::create_dir(root.join("made")).unwrap();
        fs::rename(tree.folder.path().join("elsewhere"), root.join("moved-in")).unwrap();
        assert_eq!(tree.looks().unwrap(), ["made/", "moved-in/", "a/file/"]);
        assert_eq!(tree.looks(), Ok(Vec::new()));
        fs::remove_file(root.join("a/file")).unwrap();
        fs::rename(root.join("made"), tree.folder.path().join("gone")).unwrap();
        assert_eq!(tree.looks().unwrap(), ["made/", "a/file/"]);
    }

    #[tokio::test]
    async fn names_of_one_inode_are_always_looked_at_and_a_further_one_ends_the_watch() {
        let tree = Tree::new();
        fs::hard_link(tree.root().join("a/file"), tree.root().join("b")).unwrap();
        tree.watched.lock().links_before = None;
        for name in ["a/file", "b"] {
            tree.watched.note_link(path(name));
        }
        assert_eq!(tree.looks().unwrap(), ["b/", "a/file"]);
        for name in ["a/file", "b"] {
            tree.watched.note_link(path(name));
        }
        assert_eq!(tree.looks().unwrap(), ["b", "a/file"]);
        tree.watched.note_link(path("c"));
        assert!(tree.doubt().contains("further name"));
    }

    #[tokio::test]
    async fn whoever_missed_something_says_what() {
        let tree = Tree::new();
        assert!(tree.watches.take(&whose(), tree.watched.number ^ 1, &dir(&tree.root())).is_err());
        // Nobody empties the kernel's queue meanwhile.
        let room = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        for number in 0..=room.trim().parse::<u32>().unwrap() {
            fs::write(tree.root().join(format!("{number}")), "").unwrap();
        }
        assert!(tree.doubt().contains("max_queued_events"));

        let tree = Tree::new();
        for number in 0..=LOOKS_MAX {
            let name = format!("{number}").into_bytes();
            let watch = *tree.watched.lock().directories.keys().next().unwrap();
            let event = WatchEvent::Name { watch, name, is_other_directory: false };
            tree.watched.lock().take(vec![event]);
            if tree.watched.lock().doubt.is_some() {
                break;
            }
        }
        assert_eq!(tree.doubt(), TOO_MUCH);
    }

    #[tokio::test]
    async fn another_root_is_not_the_one_that_was_watched() {
        let tree = Tree::new();
        fs::rename(tree.root(), tree.folder.path().join("renamed")).unwrap();
        fs::create_dir(tree.root()).unwrap();
        assert!(tree.doubt().contains("another directory"));
    }

    #[tokio::test]
    async fn a_watch_that_was_given_up_is_not_known_any_more() {
        let tree = Tree::new();
        let again = tree.watches.begin(&whose(), &dir(&tree.root())).unwrap();
        assert!(tree.doubt().contains("does not know the watch"));
        assert_ne!(again.number, tree.watched.number);
        tree.watches.end(&whose());
        assert!(looks(&tree.watches, &again, &tree.root()).is_err());
    }
}
