//! A small synchroniser.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::digest::Digest;
use common::failure::Failure;
use common::rel_path::RelPath;
use tree::{Dir, Name};

use super::super::{Committer, Effect, Outcome, Seen, Staged, Task};
use super::wanted::{Step, Wanted};
use super::world::{Ground, World, path};
use crate::assembly::{Assembly, Held};
use crate::domain::Domain;
use crate::domains::Refusal;
use crate::kill_point::KillPoint;
use crate::ledger::Histories;
use crate::snapshot::{Snapshot, snapshot};
use crate::standing::{look, look_at_self};

/// Compares each wanted path with what stands there, and commits in groups of four.
pub(super) fn bring(world: &mut World, kill: &KillPoint, wanted: &[Step]) -> Result<(), Failure> {
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
    // A new directory is filled in the stage, and comes in one group with the files that follow it.
    let mut filled: Option<(RelPath, Arc<Assembly>)> = None;
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
        if let (Some((directory, assembly)), Wanted::File(content, mode)) = (&filled, wanted)
            && *directory == parent
        {
            group.push(file_within(&domain, &path, assembly, content, *mode));
            continue;
        }
        if filled.take().is_some() {
            commit(&mut committer, pass, &mut group)?;
        }
        let is_new = seen.is_none();
        group.extend(task(&domain, number, &path, wanted, seen));
        if let (true, Wanted::Directory(_), Some(Task { effect: Effect::Install { staged, .. }, .. })) =
            (is_new, wanted, group.last_mut())
        {
            let assembly = Assembly::new(staged.dir.clone(), staged.name.clone(), Held::default());
            staged.assembly = Some(Arc::clone(&assembly));
            filled = Some((path, assembly));
            continue;
        }
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

/// Makes a file in a directory that is still in the stage.
fn file_within(domain: &Domain, path: &RelPath, assembly: &Arc<Assembly>, content: &str, mode: u32) -> Task {
    let name = Name::new(path.split().unwrap().1).unwrap();
    let dir = assembly.seat().take().unwrap().unwrap();
    write(&dir, &name, content, mode);
    let new = Box::new(look(&dir, &name).unwrap().unwrap());
    let assembly = Some(Arc::clone(assembly));
    let staged = Staged { dir, name, is_anchor: false, is_synced: false, assembly };
    let digest = Some(Digest::of(content.as_bytes()));
    let effect = Effect::Install { staged, new, digest, seen: None };
    Task { path: path.clone(), domain: domain.id, effect }
}

pub(super) fn task(
    domain: &Domain,
    number: usize,
    path: &RelPath,
    wanted: &Wanted,
    seen: Option<Box<Seen>>,
) -> Option<Task> {
    let name = Name::new(format!("{number}")).unwrap();
    let mut staged = Staged {
        dir: domain.new.clone(),
        name: name.clone(),
        is_anchor: false,
        is_synced: false,
        assembly: None,
    };
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
            staged = Staged {
                dir: domain.anchors.clone(),
                name: anchor,
                is_anchor: true,
                is_synced: true,
                assembly: None,
            };
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
pub(super) fn undisturbed(passes: &[Vec<Step>], ground: Ground) -> Snapshot {
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
