//! How what is written to a file system becomes durable.
//!
//! Usually by one `syncfs` for each group, which is cheap for many small files; large files are synced by themselves
//! when they are whole, so that a group does not wait for them. Where `syncfs` reports no write errors (before Linux
//! 5.8), or has to write what somebody else made dirty as well, every file and every directory is synced by itself.
//!
//! A sync that failed is never repeated in the hope that it succeeds: the kernel has dropped what it could not write
//! and says so once. The step fails, and what was not known to be durable is written anew by the next attempt.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use common::clock;
use common::failure::Failure;
use tree::{Dir, NewFile, Pinned, TreeError};

use crate::trouble::of_stage;

/// Files of at least this size are synced by themselves.
const BY_ITSELF_BYTES: u64 = 1024 * 1024;
/// A group has at most a third of 64 MiB, which takes no disk this long: somebody else's pages were written.
const SLOW: Duration = Duration::from_secs(2);
/// Groups that are synced file by file after that, before `syncfs` is tried again.
const GROUPS_BY_FILE: u32 = 32;
/// Directories that are remembered for one sync; more are synced at once, so that descriptors do not run out.
const PLACES_MAX: usize = 256;

/// How one file system is synced.
#[derive(Debug)]
pub(crate) struct Durable {
    /// Opened before the first write, so that it is told of every write error.
    held: Dir,
    /// Whether a `syncfs` that failed to write says so.
    tells_errors: bool,
    /// Groups that are still synced file by file.
    by_file: AtomicU32,
}

impl Durable {
    /// Learns how the file system of a directory is synced; it must be open before anything of ours is written there.
    pub(crate) fn of(held: Dir) -> Result<Self, TreeError> {
        let tells_errors = held.features()?.syncfs_reports_errors;
        Ok(Self { held, tells_errors, by_file: AtomicU32::new(0) })
    }

    /// Has everything synced by itself for so many groups, as on a kernel before 5.8 or after a slow `syncfs`.
    #[cfg(test)]
    pub(crate) fn force_by_file(&self, groups: u32) {
        self.by_file.store(groups, Relaxed);
    }

    /// Whether every file is synced by itself at present.
    pub(crate) fn is_by_file(&self) -> bool {
        !self.tells_errors || self.by_file.load(Relaxed) > 0
    }

    /// Syncs a staged file that has its content and its metadata, if it is to be synced by itself; says whether it was.
    pub(crate) fn staged(&self, file: &NewFile, size_bytes: u64) -> Result<bool, TreeError> {
        let is_wanted = size_bytes >= BY_ITSELF_BYTES || self.is_by_file();
        if is_wanted {
            file.sync()?;
        }
        Ok(is_wanted)
    }

    /// Makes a group durable, after the names that were noted: with a `syncfs`, unless all of it was synced by itself and
    /// nothing else is needed.
    pub(crate) fn group(&self, is_each_synced: bool) -> Result<(), Failure> {
        let is_by_file = self.is_by_file();
        if !is_by_file || !is_each_synced {
            self.all()?;
        }
        if is_by_file {
            self.by_file.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok();
        }
        Ok(())
    }

    /// Writes everything dirty of the file system.
    pub(crate) fn all(&self) -> Result<(), Failure> {
        let began = clock::boot();
        self.held.sync_fs().map_err(|error| of_sync(&error))?;
        self.took(clock::boot().since(began));
        Ok(())
    }

    /// Notes how long a `syncfs` took.
    fn took(&self, time: Duration) {
        if time > SLOW {
            tracing::debug!(?time, "syncfs is slow; files are synced one by one for a while");
            self.by_file.store(GROUPS_BY_FILE, Relaxed);
        }
    }
}

/// Where names were changed since the last sync, while everything is synced by itself.
#[derive(Debug, Default)]
pub(crate) struct Names {
    places: Vec<Dir>,
    known: BTreeSet<(u64, u64)>,
    /// Whether something was changed that cannot be synced by itself.
    has_others: bool,
}

impl Names {
    /// Notes a directory in which a name is changed.
    pub(crate) fn note(&mut self, dir: &Dir) -> Result<(), TreeError> {
        if !dir.is_readable() {
            self.has_others = true;
            return Ok(());
        }
        let stat = dir.stat_self()?;
        if !self.known.insert((stat.dev, stat.ino)) {
            return Ok(());
        }
        self.places.push(dir.clone());
        if self.places.len() >= PLACES_MAX { self.sync_places() } else { Ok(()) }
    }

    /// Syncs something whose metadata was changed in place.
    pub(crate) fn changed(&mut self, pinned: &Pinned) -> Result<(), TreeError> {
        self.has_others |= !pinned.sync()?;
        Ok(())
    }

    /// Syncs what was noted; says whether something remains that only its file system's sync makes durable.
    pub(crate) fn sync(&mut self) -> Result<bool, Failure> {
        self.sync_places().map_err(|error| of_sync(&error))?;
        Ok(std::mem::take(&mut self.has_others))
    }

    fn sync_places(&mut self) -> Result<(), TreeError> {
        self.known.clear();
        self.places.drain(..).try_for_each(|place| place.sync_dir())
    }
}

/// Makes a failure out of a sync that failed.
pub(crate) fn of_sync(error: &TreeError) -> Failure {
    let failure = of_stage(error);
    if !error.is_io() {
        return failure;
    }
    failure.hint(
        "The destination's disk did not take what was written to it: see the kernel's log and the disk. When it is sound \
         again, retry: what is not known to be there is brought anew.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(tells_errors: bool) -> (tempfile::TempDir, Durable) {
        let folder = tempfile::tempdir().unwrap();
        let dir = tree::Root::open(folder.path()).unwrap().dir();
        (folder, Durable { tells_errors, ..Durable::of(dir).unwrap() })
    }

    #[test]
    fn an_old_kernel_has_every_file_synced_for_ever() {
        let (_folder, old) = durable(false);
        for _group in 0..GROUPS_BY_FILE * 2 {
            assert!(old.is_by_file());
            old.group(true).unwrap();
        }
        assert!(old.is_by_file());
    }

    #[test]
    fn a_slow_syncfs_has_files_synced_one_by_one_for_a_while() {
        let (_folder, durable) = durable(true);
        durable.took(SLOW);
        assert!(!durable.is_by_file());
        durable.took(SLOW + Duration::from_millis(1));
        for _group in 0..GROUPS_BY_FILE {
            assert!(durable.is_by_file());
            durable.group(true).unwrap();
        }
        assert!(!durable.is_by_file(), "syncfs is tried again");
    }

    #[test]
    fn a_large_file_is_synced_by_itself_and_a_small_one_with_its_group() {
        let (_folder, durable) = durable(true);
        let file = durable.held.create_file(&tree::Name::new("f").unwrap(), 0o600).unwrap();
        assert!(!durable.staged(&file, BY_ITSELF_BYTES - 1).unwrap());
        assert!(durable.staged(&file, BY_ITSELF_BYTES).unwrap());
        durable.force_by_file(1);
        assert!(durable.staged(&file, 1).unwrap());
    }

    #[test]
    fn what_was_noted_is_synced_in_the_end_however_much_it_is() {
        let (folder, durable) = durable(false);
        let mut names = Names::default();
        for number in 0..PLACES_MAX + 7 {
            std::fs::create_dir(folder.path().join(number.to_string())).unwrap();
            let dir = durable.held.open_dir(&tree::Name::new(number.to_string()).unwrap()).unwrap();
            names.note(&dir).unwrap();
        }
        names.note(&durable.held).unwrap();
        names.note(&durable.held).unwrap();
        assert_eq!(names.places.len(), 8);
        std::os::unix::fs::symlink("x", folder.path().join("link")).unwrap();
        names.changed(&durable.held.pin(&tree::Name::new("link").unwrap()).unwrap()).unwrap();
        assert!(names.has_others, "a link cannot be synced by itself");
        assert!(names.sync().unwrap());
        assert!(names.places.is_empty() && !names.sync().unwrap());
    }
}
