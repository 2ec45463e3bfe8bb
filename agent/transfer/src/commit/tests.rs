//! Kills between any two effects, on real directories.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::clock;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::MigrationId;
use common::rel_path::RelPath;
use tokio_util::sync::CancellationToken;
use tree::{Dir, Name, Root};

use super::{Committer, Effect, Outcome, Seen, Staged, Task};
use crate::context::{LeaseKeeper, hold_lease};
use crate::findings::FindingSink;
use crate::kill_point::KillPoint;
use crate::ledger::Histories;
use crate::memory::Memory;
use crate::stage::Stage;
use crate::standing::{look, look_at_self};
use crate::undo::undo_all;

/// Everything of a tree but change times: what an undo must bring back.
type Snapshot = BTreeMap<PathBuf, String>;

fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut groups: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let body = if metadata.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else if metadata.is_file() {
            format!("{:?}", String::from_utf8_lossy(&std::fs::read(&path).unwrap()))
        } else {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().starts_with(".drover-") {
                    stack.push(entry.path());
                }
            }
            String::new()
        };
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, names.as_mut_slice()).unwrap();
        let mut attributes = BTreeMap::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 4096];
            let count = rustix::fs::lgetxattr(&path, name, value.as_mut_slice()).unwrap();
            attributes.insert(name.to_vec(), value[..count].to_vec());
        }
        if !metadata.is_dir() {
            groups.entry(metadata.ino()).or_default().push(path.clone());
        }
        let line = format!(
            "{:o} {}:{} {}.{} nlink {} {attributes:?} {body}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_dir() { 0 } else { metadata.nlink() },
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    for mut names in groups.into_values() {
        names.sort();
        let group: Vec<_> = names.iter().map(|name| name.strip_prefix(root).unwrap().to_owned()).collect();
        for name in &group {
            found.get_mut(name).unwrap().push_str(&format!(" {group:?}"));
        }
    }
    found
}

/// What the source has.
#[derive(Clone, Debug)]
enum Wanted {
    File(&'static str, u32),
    Directory(u32),
    Symlink(&'static str),
    /// A further name of the group's anchor.
    Link(&'static str),
    Absent,
}

struct World {
    _folder: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    token: u64,
    keepers: Vec<LeaseKeeper>,
    is_old_kernel: bool,
}

fn path(text: &str) -> RelPath {
    RelPath::try_from(text.as_bytes().to_vec()).unwrap()
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

impl World {
    fn new(is_old_kernel: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, state) = (folder.path().join("root"), folder.path().join("state"));
        std::fs::create_dir_all(root.join("kept/deep")).unwrap();
        std::fs::create_dir_all(root.join("becomes-file/inner")).unwrap();
        std::fs::create_dir_all(root.join("gone/below")).unwrap();
        let write = |name: &str, content: &str, mode: u32| {
            let path = root.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            set_mtime(&path, 1_000_000_000, 123_456_789);
        };
        write("replaced", "old content", 0o4751);
        write("untouched", "as ever", 0o600);
        write("metadata", "same content", 0o600);
        write("becomes-directory", "a file", 0o640);
        write("becomes-file/inner/x", "below", 0o600);
        write("gone/below/file", "to be removed", 0o444);
        write("kept/deep/replaced", "deep and old", 0o644);
        write("linked-1", "two names", 0o644);
        std::fs::hard_link(root.join("linked-1"), root.join("linked-2")).unwrap();
        rustix::fs::chown(
            root.join("replaced"),
            Some(rustix::fs::Uid::from_raw(1234)),
            Some(rustix::fs::Gid::from_raw(77)),
        )
        .unwrap();
        std::fs::set_permissions(root.join("replaced"), PermissionsExt::from_mode(0o4751)).unwrap();
        rustix::fs::setxattr(root.join("replaced"), "user.note", b"of old", rustix::fs::XattrFlags::empty())
            .unwrap();
        std::os::unix::fs::symlink("old/target", root.join("link")).unwrap();
        for directory in ["kept/deep", "kept", "becomes-file/inner", "becomes-file", "gone/below", "gone", ""]
        {
            set_mtime(&root.join(directory), 900_000_000, 5);
        }
        Self { _folder: folder, root, state, token: 1, keepers: Vec::new(), is_old_kernel }
    }

    fn open(&mut self, kill: &KillPoint) -> Result<Committer, Failure> {
        self.token += 1;
        let token = FencingToken { epoch: 1, index: self.token };
        let (keeper, lease) = hold_lease(token, clock::boot(), &CancellationToken::new());
        self.keepers.push(keeper);
        let migration: MigrationId = "m1".parse().unwrap();
        let memory = Memory::open(&self.state, &migration)?;
        let root = Root::open(&self.root).unwrap();
        let stage = match Stage::find(&root, &migration, &memory)? {
            Some(stage) => stage,
            None => Stage::make(&self.root, &migration, &memory, &KillPoint::default())?,
        };
        let committer = Committer::open(stage, token, lease, kill.clone())?;
        Ok(if self.is_old_kernel { committer.without_exchange() } else { committer })
    }

    fn undo(&mut self, kill: &KillPoint) -> Result<u64, Failure> {
        let mut committer = self.open(kill)?;
        let (findings, mut receiver) = FindingSink::new();
        let undone = undo_all(&mut committer, &findings, kill).map(|preview| preview.kept_aside);
        while let Ok(finding) = receiver.try_recv() {
            println!("{finding:?}");
        }
        undone
    }
}

/// The wanted tree of the first pass, parents before children.
fn first_pass() -> Vec<(&'static str, Wanted)> {
    use Wanted::{Absent, Directory, File, Link, Symlink};
    vec![
        ("becomes-directory", Directory(0o750)),
        ("becomes-directory/child", File("in a new directory", 0o600)),
        ("becomes-file", File("was a directory", 0o644)),
        ("gone/below/file", Absent),
        ("gone/below", Absent),
        ("gone", Absent),
        ("kept/deep/new", File("new and deep", 0o755)),
        ("kept/deep/replaced", File("deep and new", 0o600)),
        ("link", Symlink("new/target")),
        ("linked-1", Link("anchor-a")),
        ("linked-3", Link("anchor-a")),
        ("metadata", File("same content", 0o2755)),
        ("new", File("brand new", 0o640)),
        ("new-directory", Directory(0o711)),
        ("new-directory/a", File("a", 0o600)),
        ("replaced", File("new content", 0o600)),
    ]
}

/// What a later pass finds changed at the source.
fn second_pass() -> Vec<(&'static str, Wanted)> {
    use Wanted::{Absent, Directory, File};
    vec![
        ("becomes-file", Directory(0o755)),
        ("kept/deep/new", File("changed since", 0o755)),
        ("metadata", File("other content", 0o600)),
        ("new", Absent),
        ("new-directory/a", File("b", 0o600)),
        ("new-directory/b", Directory(0o755)),
    ]
}

/// A small synchroniser: compares each wanted path with what stands there, and commits in groups of four.
fn bring(world: &mut World, kill: &KillPoint, wanted: &[(&'static str, Wanted)]) -> Result<(), Failure> {
    let mut committer = world.open(kill)?;
    let pass = committer.last_pass() + 1;
    let stage = committer.stage().clone();
    crate::stage::clear(&stage.new)?;
    crate::stage::clear(&stage.anchors)?;
    let mut ours: BTreeMap<RelPath, Vec<u64>> = BTreeMap::new();
    let mut histories = Histories::sort(Some(committer.settled()?), &stage.spill, "test")?;
    while let Some(history) = histories.next()? {
        let inodes = history
            .changes
            .iter()
            .filter(|settled| settled.intent.change.old().is_none_or(|_old| !is_metadata(settled)))
            .filter_map(|settled| settled.intent.change.standing().map(|new| new.ino));
        ours.insert(history.path.clone(), inodes.collect());
    }
    let mut touched = std::collections::BTreeSet::new();
    let mut group = Vec::new();
    for (number, (text, wanted)) in wanted.iter().enumerate() {
        let path = path(text);
        let (parent, name) = path.split().unwrap();
        let name = Name::new(name).unwrap();
        let parent_dir = stage.root.open_beneath(parent.as_bytes());
        let seen = parent_dir.as_ref().ok().and_then(|dir| look(dir, &name).unwrap());
        if let Ok(dir) = &parent_dir
            && touched.insert(parent.clone())
        {
            let mut entry = look_at_self(dir).unwrap();
            entry.name = parent.split().map(|(_, name)| name.to_vec()).unwrap_or_default();
            group.push(Task { path: parent.clone(), effect: Effect::Touch { seen: Box::new(entry) } });
        }
        let is_ours = seen
            .as_ref()
            .is_some_and(|seen| ours.get(&path).is_some_and(|inodes| inodes.contains(&seen.ino)));
        let seen = seen.map(|entry| Box::new(Seen { entry, is_ours }));
        group.extend(task(&stage, number, &path, wanted, seen));
        // A directory must stand before what is in it is compared; four keep several tasks in one group.
        if group.len() >= 4 || matches!(wanted, Wanted::Directory(_)) {
            commit(&mut committer, pass, &mut group)?;
        }
    }
    commit(&mut committer, pass, &mut group)?;
    committer.finish()
}

fn is_metadata(settled: &crate::ledger::Settled) -> bool {
    matches!(settled.intent.change, crate::ledger::Change::Metadata { .. })
}

fn commit(committer: &mut Committer, pass: u32, group: &mut Vec<Task>) -> Result<(), Failure> {
    let paths: Vec<_> = group.iter().map(|task| task.path.clone()).collect();
    for (outcome, path) in committer.commit(pass, std::mem::take(group))?.iter().zip(paths) {
        assert!(matches!(outcome, Outcome::Done { .. }), "{path}: {outcome:?}");
    }
    Ok(())
}

fn task(
    stage: &Stage,
    number: usize,
    path: &RelPath,
    wanted: &Wanted,
    seen: Option<Box<Seen>>,
) -> Option<Task> {
    let name = Name::new(format!("{number}")).unwrap();
    let mut staged = Staged { dir: stage.new.clone(), name: name.clone(), is_anchor: false };
    let mut digest = None;
    let mtime = tree::Time { seconds: 1_500_000_000, nanos: 7 };
    match wanted {
        Wanted::Absent => {
            let seen = seen?;
            return Some(Task { path: path.clone(), effect: Effect::Remove { seen } });
        }
        Wanted::Directory(mode) => {
            if let Some(seen) = &seen
                && seen.entry.kind.is_directory()
            {
                return None;
            }
            stage.new.create_dir(&name, *mode).unwrap();
        }
        Wanted::Symlink(target) => {
            stage.new.create_symlink(&name, target.as_bytes()).unwrap();
            let look = look(&stage.new, &name).unwrap().unwrap();
            let wanted = tree::Metadata { mtime, ..crate::standing::metadata(&look).unwrap() };
            drop(stage.new.apply(&name, &wanted, None).unwrap());
        }
        Wanted::File(content, mode) => {
            let present = seen.as_ref().filter(|seen| seen.entry.size() == content.len() as u64);
            if let Some(seen) = present
                && *content == "same content"
            {
                let mut wanted = seen.entry.clone();
                wanted.mode = *mode;
                wanted.mtime = crate::standing::time(mtime);
                let effect =
                    Effect::Metadata { seen: Box::new(seen.entry.clone()), wanted: Box::new(wanted) };
                return Some(Task { path: path.clone(), effect });
            }
            write(&stage.new, &name, content, *mode);
            digest = Some(Digest::of(content.as_bytes()));
        }
        Wanted::Link(anchor) => {
            let anchor = Name::new(*anchor).unwrap();
            if stage.anchors.stat_if_exists(&anchor).unwrap().is_none() {
                write(&stage.anchors, &anchor, "group", 0o600);
            }
            digest = Some(Digest::of(b"group"));
            staged = Staged { dir: stage.anchors.clone(), name: anchor, is_anchor: true };
        }
    }
    let mut new = look(&staged.dir, &staged.name).unwrap().unwrap();
    new.name = path.split().unwrap().1.to_vec();
    new.nlink = if staged.is_anchor { 2 } else { 1 };
    Some(Task { path: path.clone(), effect: Effect::Install { staged, new: Box::new(new), digest, seen } })
}

fn write(dir: &Dir, name: &Name, content: &str, mode: u32) {
    let file = dir.create_file(name, 0o600).unwrap();
    file.write_at(content.as_bytes(), 0).unwrap();
    drop(
        file.set_metadata(&tree::Metadata {
            uid: 0,
            gid: 0,
            mode,
            mtime: tree::Time { seconds: 1_500_000_000, nanos: 7 },
            xattrs: tree::Xattrs::default(),
        })
        .unwrap(),
    );
}

/// What the passes leave when nothing stops them.
fn undisturbed(passes: &[Vec<(&'static str, Wanted)>], is_old_kernel: bool) -> Snapshot {
    let mut world = World::new(is_old_kernel);
    for pass in passes {
        bring(&mut world, &KillPoint::default(), pass).unwrap();
    }
    without_times_of_directories(snapshot(&world.root))
}

/// The harness does not set directories' times after a pass; the real one does.
fn without_times_of_directories(snapshot: Snapshot) -> Snapshot {
    let blank = |line: String| {
        if !line.starts_with('4') {
            return line;
        }
        let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        words[2] = "-".to_owned();
        words.join(" ")
    };
    snapshot.into_iter().map(|(path, line)| (path, blank(line))).collect()
}

fn assert_same(found: &Snapshot, expected: &Snapshot, what: &str) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{what}: {}", path.display());
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{what}: {} should not be there", path.display());
    }
}

fn kills_at_every_effect(is_old_kernel: bool) {
    let expected = undisturbed(&[first_pass(), second_pass()], is_old_kernel);
    let mut number = 0;
    loop {
        let kill = KillPoint::at(number);
        let mut world = World::new(is_old_kernel);
        let original = snapshot(&world.root);
        let mut killed = bring(&mut world, &kill, &first_pass()).is_err();
        killed = killed || bring(&mut world, &kill, &second_pass()).is_err();
        assert_eq!(killed, kill.was_hit());
        // The live tree never holds half a file, wherever it stopped.
        for (path, line) in snapshot(&world.root) {
            assert!(line.starts_with('4') || !line.contains("\"\""), "{number}: {}", path.display());
        }
        if number % 2 == 0 {
            bring(&mut world, &KillPoint::default(), &first_pass()).unwrap();
            bring(&mut world, &KillPoint::default(), &second_pass()).unwrap();
            let found = without_times_of_directories(snapshot(&world.root));
            assert_same(&found, &expected, &format!("continued after effect {number}"));
        }
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0, "after effect {number}");
        assert_same(&snapshot(&world.root), &original, &format!("undone after effect {number}"));
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
        assert_same(&snapshot(&world.root), &original, &format!("undone twice after effect {number}"));
        if !killed {
            break;
        }
        number += 1;
    }
    assert!(number > 60, "only {number} effects");
}

#[test]
fn a_kill_at_any_effect_can_be_continued_and_undone() {
    kills_at_every_effect(false);
}

#[test]
fn so_it_is_without_the_newer_renames() {
    kills_at_every_effect(true);
}

#[test]
fn an_undo_killed_at_any_effect_is_run_again() {
    let mut number = 0;
    loop {
        let mut world = World::new(false);
        let original = snapshot(&world.root);
        bring(&mut world, &KillPoint::default(), &first_pass()).unwrap();
        bring(&mut world, &KillPoint::default(), &second_pass()).unwrap();
        let kill = KillPoint::at(number);
        let killed = world.undo(&kill).is_err();
        assert_eq!(killed, kill.was_hit());
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
        assert_same(&snapshot(&world.root), &original, &format!("undo killed at effect {number}"));
        if !killed {
            break;
        }
        number += 1;
    }
    assert!(number > 20, "only {number} effects");
}

#[test]
fn what_changed_between_scan_and_commit_is_a_conflict_and_stays() {
    for is_old_kernel in [false, true] {
        let mut world = World::new(is_old_kernel);
        let mut committer = world.open(&KillPoint::default()).unwrap();
        let stage = committer.stage().clone();
        let seen = |name: &str| {
            let entry = look(&stage.root, &Name::new(name).unwrap()).unwrap().unwrap();
            Some(Box::new(Seen { entry, is_ours: false }))
        };
        let wanted = Wanted::File("ours", 0o600);
        let group = vec![
            task(&stage, 1, &path("replaced"), &wanted, seen("replaced")).unwrap(),
            task(&stage, 2, &path("fresh"), &wanted, None).unwrap(),
            task(&stage, 3, &path("untouched"), &Wanted::Absent, seen("untouched")).unwrap(),
            task(&stage, 4, &path("metadata"), &Wanted::File("same content", 0o755), seen("metadata"))
                .unwrap(),
        ];
        std::fs::write(world.root.join("replaced"), "somebody else's").unwrap();
        std::fs::write(world.root.join("fresh"), "somebody else's").unwrap();
        std::fs::write(world.root.join("untouched"), "somebody else's").unwrap();
        std::fs::write(world.root.join("metadata"), "somebody else's").unwrap();
        let before = snapshot(&world.root);
        for outcome in committer.commit(1, group).unwrap() {
            assert!(matches!(outcome, Outcome::Conflict), "{outcome:?}");
        }
        let mut after = snapshot(&world.root);
        for (path, line) in &before {
            if !line.starts_with('4') {
                assert_eq!(after.remove(path).as_ref(), Some(line));
            }
        }
        drop(committer);
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
    }
}

#[test]
fn an_older_attempt_changes_nothing_once_a_newer_one_is_there() {
    let mut world = World::new(false);
    let mut old = world.open(&KillPoint::default()).unwrap();
    let stage = old.stage().clone();
    let group = vec![task(&stage, 1, &path("fresh"), &Wanted::File("late", 0o600), None).unwrap()];
    let new = world.open(&KillPoint::default()).unwrap();
    let before = snapshot(&world.root);
    assert_eq!(old.commit(1, group).unwrap_err().kind, FailureKind::Fenced);
    assert_same(&snapshot(&world.root), &before, "after the refusal");
    drop(new);
    // The ledger is whole: nothing of the older one is in it.
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
}

#[test]
fn a_lost_lease_stops_the_group() {
    let mut world = World::new(false);
    let mut committer = world.open(&KillPoint::default()).unwrap();
    let stage = committer.stage().clone();
    let group = vec![task(&stage, 1, &path("fresh"), &Wanted::File("late", 0o600), None).unwrap()];
    world.keepers.last().unwrap().lose("revoked");
    assert_eq!(committer.commit(1, group).unwrap_err().kind, FailureKind::Fenced);
    assert!(!world.root.join("fresh").exists());
}

fn is_stage(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with(".drover-m1-")
}

#[test]
fn what_was_changed_after_the_commit_is_kept_aside() {
    let mut world = World::new(false);
    let mut expected = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass()).unwrap();
    std::fs::write(world.root.join("replaced"), "edited since").unwrap();
    std::fs::write(world.root.join("new-directory/added"), "added since").unwrap();
    std::fs::remove_file(world.root.join("new")).unwrap();
    std::fs::write(world.root.join("new"), "made again").unwrap();
    std::fs::remove_file(world.root.join("kept/deep/new")).unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 3);
    assert_same(&snapshot(&world.root), &expected, "undone");
    let after = std::fs::read_dir(&world.root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| is_stage(path))
        .unwrap()
        .join("after");
    let mut kept: Vec<_> = std::fs::read_dir(after)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["added since", "edited since", "made again"]);
    expected.clear();
}

#[test]
fn a_torn_end_of_the_ledger_is_cut() {
    let mut world = World::new(false);
    let original = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass()).unwrap();
    let stage = world.open(&KillPoint::default()).unwrap().stage().clone();
    let mut file = stage.dir.open_append(&Name::new("ledger").unwrap()).unwrap();
    file.append(&[7; 33]).unwrap();
    drop(file);
    bring(&mut world, &KillPoint::default(), &second_pass()).unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
    assert_same(&snapshot(&world.root), &original, "undone");
}

#[test]
fn making_a_stage_leaves_the_root_as_it_was() {
    let mut world = World::new(false);
    let original = snapshot(&world.root);
    let committer = world.open(&KillPoint::default()).unwrap();
    assert_same(&snapshot(&world.root), &original, "with a stage");
    let stage = committer.stage().clone();
    drop(committer);
    let migration: MigrationId = "m1".parse().unwrap();
    stage.remove(&Memory::open(&world.state, &migration).unwrap(), &KillPoint::default()).unwrap();
    assert_same(&snapshot(&world.root), &original, "after settling");
    assert!(std::fs::read_dir(&world.root).unwrap().all(|entry| !is_stage(&entry.unwrap().path())));
}
