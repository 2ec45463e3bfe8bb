//! Earlier versions: what a migration replaced or removed goes below a directory of the root when its way back ends,
//! under the path that it had, instead of away.
//!
//! Until then it is in the stage, so an undo gives back everything as ever. Each entry is moved by one rename that
//! replaces nothing; where a version stands already the name gets a number, as `file.~1~`. A kill in between leaves
//! what was moved where it is, and the next settling moves the rest. Directories are made as they are needed, with the
//! owner and mode of the one that was removed or still stands at that path.
//!
//! A rename reaches as far as the root's rename domain, so with a backup directory nothing below is changed in others.

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;
use common::rules::{BackupDir, Rules};
use sync::entry::Entry;
use tree::{Dir, Name, TreeError};

use crate::domain::HOME;
use crate::kept::{Place, dress_kept, move_kept, place_of};
use crate::ledger::{Histories, read_settled};
use crate::stage::{Stage, restore_times};
use crate::standing::{look_at_self, metadata};
use crate::trouble::of_stage;

/// A directory of versions is nobody's but the agent's, unless one like it stands in the tree.
const MODE: u32 = 0o700;
/// Versions of one path; more than a lifetime of nightly runs.
const VERSIONS_MAX: u32 = 100_000;
/// The longest name of a file system.
const NAME_BYTES_MAX: usize = 255;

/// Checks that a root can have this backup directory, before anything is changed.
pub(crate) fn check(root: &Dir, backup: &BackupDir) -> Result<(), Failure> {
    let own = root.rename_domain().map_err(|error| of_stage(&error))?;
    let refused = |why: &str| {
        Failure::new(FailureKind::Invalid, format!("`{backup}` cannot be the backup directory: {why}"))
            .hint("Name another one in `backup_dir`; one that does not exist yet is made.")
    };
    // As much of it as is there already.
    let mut path = backup.path();
    loop {
        match root.open_beneath(path.as_bytes()) {
            Ok(dir) if dir.rename_domain().map_err(|error| of_stage(&error))? == own => return Ok(()),
            Ok(_) => {
                return Err(refused("another file system, subvolume or project begins there or above it"));
            }
            Err(error) if error.is_not_found() => {
                path = path.split().map(|(parent, _name)| parent).unwrap_or_default();
            }
            Err(error) if error.is_wrong_kind() => {
                return Err(refused("something stands there, or above it, that is no directory"));
            }
            Err(error) => return Err(of_stage(&error)),
        }
    }
}

/// Whether a path is the backup directory or one that it is in: that stays, whatever the source has.
pub(crate) fn stays(rules: &Rules, path: &RelPath) -> bool {
    rules.backup_dir.as_ref().is_some_and(|backup| backup.path().is_within(path))
}

/// Moves all that the stage keeps below the backup directory.
pub(crate) fn keep(stage: &Stage, backup: &BackupDir) -> Result<(), Failure> {
    let mut histories = Histories::sort(read_settled(&stage.dir)?, &stage.spill, "backup")?;
    let versions = Versions { root: &stage.root, path: backup.path() };
    while let Some(history) = histories.next()? {
        let first = history.kept();
        for (kept, old) in history.all_kept() {
            let Some(place) = place_of(stage, kept)? else { continue };
            if kept.domain != HOME {
                let message =
                    format!("an earlier version of `{}` is kept on another file system", history.path);
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .hint("Take it out of the stage there, or settle without a backup directory."));
            }
            // What was there first is known best by its first change.
            let entry = first.filter(|(first, _entry)| *first == kept).map_or(old, |(_kept, entry)| entry);
            if entry.kind.is_directory() {
                versions.directory(&history.path, Some(entry))?;
            } else {
                versions.add(&history.path, &place, entry)?;
            }
        }
    }
    stage.root.sync_fs().map_err(|error| of_stage(&error))
}

/// The backup directory.
struct Versions<'a> {
    root: &'a Dir,
    path: RelPath,
}

impl Versions<'_> {
    /// Moves one entry to its place.
    fn add(&self, path: &RelPath, place: &Place, entry: &Entry) -> Result<(), Failure> {
        let (parent, name) = path.split().unwrap_or_default();
        let dir = self.directory(&parent, None)?;
        dress_kept(place, entry)?;
        for number in 0..VERSIONS_MAX {
            match move_kept(place, &dir, &numbered(name, number)?) {
                Err(error) if error.is_exists() => {}
                moved => return moved.map_err(|error| of_stage(&error)),
            }
        }
        Err(Failure::new(FailureKind::Conflict, format!("`{path}` has too many versions in `{}`", self.path))
            .hint("Move some of them away, then settle again."))
    }

    /// Opens the directory of a path of the tree, making what is missing of it.
    fn directory(&self, path: &RelPath, removed: Option<&Entry>) -> Result<Dir, Failure> {
        let mut dir = self.root.clone();
        for name in self.path.components() {
            dir = open_or_make(&dir, name, || None)?;
        }
        let mut above = RelPath::root();
        for name in path.components() {
            above = above.join(name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
            let standing =
                || self.root.open_beneath(above.as_bytes()).and_then(|dir| look_at_self(&dir)).ok();
            let model = || removed.filter(|_removed| above == *path).cloned().or_else(standing);
            dir = open_or_make(&dir, name, model)?;
        }
        Ok(dir)
    }
}

/// Opens a directory, or makes it like another one; the times of the one that holds it stay.
fn open_or_make(parent: &Dir, name: &[u8], model: impl FnOnce() -> Option<Entry>) -> Result<Dir, Failure> {
    let name = Name::new(name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    match parent.open_dir(&name) {
        Err(error) if error.is_not_found() => {}
        opened => return opened.map_err(|error| of_stage(&error)),
    }
    let before = look_at_self(parent).map_err(|error| of_stage(&error))?;
    let dir = parent.create_dir(&name, MODE).map_err(|error| of_stage(&error))?;
    if let Some(model) = model() {
        resemble(&dir, &model).map_err(|error| of_stage(&error))?;
    }
    restore_times(parent, &before)?;
    Ok(dir)
}

/// Gives a directory the owner and mode of another one; it stays writable for its owner, for more is to come.
fn resemble(dir: &Dir, model: &Entry) -> Result<(), TreeError> {
    let present = look_at_self(dir)?;
    let wanted = Entry { uid: model.uid, gid: model.gid, mode: model.mode | MODE, ..present };
    // What only root may set is left out where the agent is not root: the directory is closed all the same.
    if let Ok(wanted) = metadata(&wanted) {
        drop(dir.apply_self(&wanted)?);
    }
    Ok(())
}

/// Returns the name of a version: that of the file, or with a number.
fn numbered(name: &[u8], number: u32) -> Result<Name, Failure> {
    let ending = if number == 0 { String::new() } else { format!(".~{number}~") };
    let room = NAME_BYTES_MAX - ending.len();
    let name = [&name[..name.len().min(room)], ending.as_bytes()].concat();
    Name::new(name).map_err(|error| Failure::of(FailureKind::Bug, &error))
}
