//! A destination to work on: trees on real directories and mounts, a small synchroniser, and an independent look.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::clock;
use common::digest::Digest;
use common::failure::Failure;
use common::fence::FencingToken;
use common::id::MigrationId;
use common::rel_path::RelPath;
use tokio_util::sync::CancellationToken;
use tree::{Dir, Name, Root};

use super::super::{Committer, Effect, Outcome, Seen, Staged, Task};
use crate::context::{LeaseKeeper, hold_lease};
use crate::domain::Domain;
use crate::domains::Refusal;
use crate::findings::FindingSink;
use crate::kill_point::{KillPoint, Sync};
use crate::ledger::Histories;
use crate::memory::Memory;
use crate::stage::Stage;
use crate::standing::{look, look_at_self};
use crate::undo::undo_all;

/// Everything of a tree but change times: what an undo must bring back.
pub(super) type Snapshot = BTreeMap<PathBuf, String>;

pub(super) fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut groups: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
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
            groups.entry((metadata.dev(), metadata.ino())).or_default().push(path.clone());
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
pub(super) enum Wanted {
    File(&'static str, u32),
    Directory(u32),
    Symlink(&'static str),
    /// A further name of the group's anchor.
    Link(&'static str),
    Absent,
}

/// What kind of destination.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ground {
    /// Without the newer renames.
    pub(super) is_old_kernel: bool,
    /// With another file system and a bind mount below the root.
    pub(super) has_domains: bool,
    /// How everything is synced.
    pub(super) sync: Sync,
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Whether file systems can be mounted here; says so aloud if not.
pub(super) fn can_mount() -> bool {
    let folder = tempfile::tempdir().unwrap();
    match mount_tmpfs(folder.path()) {
        Ok(_mounted) => true,
        Err(errno) => {
            eprintln!("skipped: cannot mount: {errno}");
            false
        }
    }
}

fn mount_tmpfs(point: &Path) -> rustix::io::Result<Mounted> {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", point, "tmpfs", flags, None).map(|()| Mounted(point.to_owned()))
}

/// Makes the folder of a world. Where there are many file systems it is in memory if that can be: then a sync costs
/// nothing, and every effect can be tried.
fn folder(ground: Ground) -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok().filter(|folder| {
        let flags = rustix::fs::XattrFlags::empty();
        ground.has_domains && rustix::fs::setxattr(folder.path(), "user.probe", b"", flags).is_ok()
    });
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

pub(super) struct World {
    // They go before the directory that they stand in.
    mounts: Vec<Mounted>,
    _folder: tempfile::TempDir,
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    token: u64,
    pub(super) keepers: Vec<LeaseKeeper>,
    ground: Ground,
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::try_from(text.as_bytes().to_vec()).unwrap()
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

impl World {
    pub(super) fn new(ground: Ground) -> Self {
        let folder = folder(ground);
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
        let mut mounts = Vec::new();
        if ground.has_domains {
            let elsewhere = folder.path().join("elsewhere");
            for directory in [&elsewhere, &root.join("disk"), &root.join("kept/bound")] {
                std::fs::create_dir(directory).unwrap();
            }
            mounts.push(mount_tmpfs(&root.join("disk")).unwrap());
            rustix::mount::mount_bind(&elsewhere, root.join("kept/bound")).unwrap();
            mounts.push(Mounted(root.join("kept/bound")));
            for directory in ["disk/gone", "disk/becomes-file/inner", "kept/bound/deep"] {
                std::fs::create_dir_all(root.join(directory)).unwrap();
            }
            write("disk/replaced", "old on the disk", 0o4751);
            write("disk/metadata", "same content", 0o600);
            write("disk/gone/file", "to be removed", 0o444);
            write("disk/becomes-file/inner/x", "below", 0o600);
            write("disk/linked-1", "alone so far", 0o644);
            write("kept/bound/replaced", "old and bound", 0o644);
            write("kept/bound/deep/untouched", "as ever", 0o644);
        }
        let mut world = Self { mounts, _folder: folder, root, state, token: 1, keepers: Vec::new(), ground };
        world.set_times_of_directories();
        world
    }

    fn set_times_of_directories(&mut self) {
        let mut stack = vec![self.root.clone()];
        while let Some(directory) = stack.pop() {
            set_mtime(&directory, 900_000_000, 5);
            let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap());
            stack.extend(
                entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()),
            );
        }
    }

    /// Takes a mount away, as a reboot without it would.
    pub(super) fn unmount_last(&mut self) {
        drop(self.mounts.pop());
    }

    /// Returns the names of all stages in the tree, of whatever domain.
    pub(super) fn stages(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut stack = vec![self.root.clone()];
        while let Some(directory) = stack.pop() {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if is_stage(&path) {
                    found.push(path);
                } else if path.is_dir() && !path.is_symlink() {
                    stack.push(path);
                }
            }
        }
        found.sort();
        found
    }

    pub(super) fn open(&mut self, kill: &KillPoint) -> Result<Committer, Failure> {
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
        Ok(if self.ground.is_old_kernel { committer.without_exchange() } else { committer })
    }

    pub(super) fn undo(&mut self, kill: &KillPoint) -> Result<u64, Failure> {
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
pub(super) fn first_pass(ground: Ground) -> Vec<(&'static str, Wanted)> {
    use Wanted::{Absent, Directory, File, Link, Symlink};
    let mut wanted = vec![
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
    ];
    if ground.has_domains {
        wanted.extend([
            ("disk/becomes-file", File("was a directory", 0o644)),
            ("disk/gone/file", Absent),
            ("disk/gone", Absent),
            ("disk/linked-1", Link("anchor-d")),
            ("disk/linked-2", Link("anchor-d")),
            ("kept/bound/deep/new", File("new, deep and bound", 0o755)),
            ("disk/metadata", File("same content", 0o2755)),
            ("disk/new", File("brand new", 0o640)),
            ("new-too", File("brand new too", 0o640)),
            ("disk/new-directory", Directory(0o711)),
            ("disk/new-directory/a", File("a", 0o600)),
            ("disk/replaced", File("new on the disk", 0o600)),
            ("kept/bound/replaced", Symlink("new/target")),
        ]);
    }
    wanted
}

/// What a later pass finds changed at the source.
pub(super) fn second_pass(ground: Ground) -> Vec<(&'static str, Wanted)> {
    use Wanted::{Absent, Directory, File};
    let mut wanted = vec![
        ("becomes-file", Directory(0o755)),
        ("kept/deep/new", File("changed since", 0o755)),
        ("metadata", File("other content", 0o600)),
        ("new", Absent),
        ("new-directory/a", File("b", 0o600)),
        ("new-directory/b", Directory(0o755)),
    ];
    if ground.has_domains {
        wanted.extend([
            ("disk/becomes-file", Directory(0o755)),
            ("disk/metadata", File("other content", 0o600)),
            ("kept/bound/deep/new", File("changed since", 0o755)),
            ("disk/new", Absent),
            ("disk/replaced", File("newer on the disk", 0o600)),
        ]);
    }
    wanted
}

/// A small synchroniser: compares each wanted path with what stands there, and commits in groups of four.
pub(super) fn bring(
    world: &mut World,
    kill: &KillPoint,
    wanted: &[(&'static str, Wanted)],
) -> Result<(), Failure> {
    let mut committer = world.open(kill)?;
    let pass = committer.last_pass() + 1;
    let stage = committer.stage().clone();
    crate::pull::clear_leftovers(&stage)?;
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
        let domain = match stage.domains.ensure(&parent) {
            Ok(id) => stage.domains.get(id)?,
            Err(Refusal::Failure(failure)) => return Err(failure),
            Err(Refusal::NoStage { why, .. }) => panic!("{path}: {why}"),
        };
        let parent_dir = stage.root.open_beneath(parent.as_bytes());
        let seen = parent_dir.as_ref().ok().and_then(|dir| look(dir, &name).unwrap());
        if let Ok(dir) = &parent_dir
            && touched.insert(parent.clone())
        {
            let mut entry = look_at_self(dir).unwrap();
            entry.name = parent.split().map(|(_, name)| name.to_vec()).unwrap_or_default();
            let effect = Effect::Touch { seen: Box::new(entry) };
            group.push(Task { path: parent.clone(), domain: domain.id, effect });
        }
        let is_ours = seen
            .as_ref()
            .is_some_and(|seen| ours.get(&path).is_some_and(|inodes| inodes.contains(&seen.ino)));
        let seen = seen.map(|entry| Box::new(Seen { entry, is_ours }));
        group.extend(task(&domain, number, &path, wanted, seen));
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

pub(super) fn task(
    domain: &Domain,
    number: usize,
    path: &RelPath,
    wanted: &Wanted,
    seen: Option<Box<Seen>>,
) -> Option<Task> {
    let name = Name::new(format!("{number}")).unwrap();
    let mut staged =
        Staged { dir: domain.new.clone(), name: name.clone(), is_anchor: false, is_synced: false };
    let mut digest = None;
    let mtime = tree::Time { seconds: 1_500_000_000, nanos: 7 };
    match wanted {
        Wanted::Absent => {
            let seen = seen?;
            return Some(Task { path: path.clone(), domain: domain.id, effect: Effect::Remove { seen } });
        }
        Wanted::Directory(mode) => {
            if let Some(seen) = &seen
                && seen.entry.kind.is_directory()
            {
                return None;
            }
            domain.new.create_dir(&name, *mode).unwrap();
        }
        Wanted::Symlink(target) => {
            domain.new.create_symlink(&name, target.as_bytes()).unwrap();
            let look = look(&domain.new, &name).unwrap().unwrap();
            let wanted = tree::Metadata { mtime, ..crate::standing::metadata(&look).unwrap() };
            drop(domain.new.apply(&name, &wanted, None).unwrap());
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
                return Some(Task { path: path.clone(), domain: domain.id, effect });
            }
            write(&domain.new, &name, content, *mode);
            digest = Some(Digest::of(content.as_bytes()));
        }
        Wanted::Link(anchor) => {
            let anchor = Name::new(*anchor).unwrap();
            if domain.anchors.stat_if_exists(&anchor).unwrap().is_none() {
                write(&domain.anchors, &anchor, "group", 0o600);
            }
            digest = Some(Digest::of(b"group"));
            staged = Staged { dir: domain.anchors.clone(), name: anchor, is_anchor: true, is_synced: true };
        }
    }
    let mut new = look(&staged.dir, &staged.name).unwrap().unwrap();
    new.name = path.split().unwrap().1.to_vec();
    new.nlink = if staged.is_anchor { 2 } else { 1 };
    Some(Task {
        path: path.clone(),
        domain: domain.id,
        effect: Effect::Install { staged, new: Box::new(new), digest, seen },
    })
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
pub(super) fn undisturbed(passes: &[Vec<(&'static str, Wanted)>], ground: Ground) -> Snapshot {
    let mut world = World::new(ground);
    for pass in passes {
        bring(&mut world, &KillPoint::default(), pass).unwrap();
    }
    without_times_of_directories(snapshot(&world.root))
}

/// The harness does not set directories' times after a pass; the real one does.
pub(super) fn without_times_of_directories(snapshot: Snapshot) -> Snapshot {
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

pub(super) fn assert_same(found: &Snapshot, expected: &Snapshot, what: &str) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{what}: {}", path.display());
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{what}: {} should not be there", path.display());
    }
}

pub(super) fn is_stage(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with(".drover-m1-")
}
