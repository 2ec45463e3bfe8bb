//! One rename domain of the tree, and the stage in it: entries can be renamed and linked between the two.
//!
//! The root's own domain is number 0, and its stage is the one that holds ledger and fence. The others (mounts, bind
//! mounts, subvolumes, directories that hand on another project id) have numbers in the order in which they were met,
//! see [`crate::domains`]; their stages hold what is staged and what is kept, and nothing else.

use std::sync::{Arc, OnceLock};

use common::failure::Failure;
use tree::{Dir, Name, RenameDomain};

use crate::commit::durable::Durable;
use crate::stage::MODE;
use crate::trouble::of_stage;

/// The number of a domain, the same for the whole migration.
pub(crate) type DomainId = u32;

/// The number of the root's own domain.
pub(crate) const HOME: DomainId = 0;

/// A rename domain with its open stage.
#[derive(Debug)]
pub(crate) struct Domain {
    /// Its number.
    pub(crate) id: DomainId,
    /// The path of its stage below the root, for people.
    pub(crate) shown: String,
    /// Staged entries; every worker has a directory of its own in it.
    pub(crate) new: Dir,
    /// What stood there before.
    pub(crate) undo: Dir,
    /// What an undo found to be changed since.
    pub(crate) after: Dir,
    /// One name for each group of hard links that is not complete.
    pub(crate) anchors: Dir,
    /// Large files of which a part has come.
    pub(crate) large: Dir,
    /// The file system that it is a part of.
    pub(crate) disk: Arc<Disk>,
    key: RenameDomain,
}

/// A file system that is written to, shared by its domains.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Tells it from others, until the next boot.
    pub(crate) id: String,
    /// A directory of it, held to the end.
    dir: Dir,
    /// How it is synced.
    pub(crate) durable: Durable,
    renames: OnceLock<Renames>,
}

/// Which of the newer renames a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renames {
    pub(crate) exchange: bool,
    pub(crate) noreplace: bool,
}

impl Domain {
    /// Opens the parts of a stage, making those that are missing.
    pub(crate) fn open(
        id: DomainId,
        shown: String,
        dir: &Dir,
        key: RenameDomain,
        disk: Arc<Disk>,
    ) -> Result<Self, tree::TreeError> {
        let part = |part: &str| {
            let name = Name::new(part).expect("a constant without slash");
            match dir.open_dir(&name) {
                Err(error) if error.is_not_found() => dir.create_dir(&name, MODE),
                opened => opened,
            }
        };
        let (new, undo, after) = (part("new")?, part("undo")?, part("after")?);
        let (anchors, large) = (part("anchors")?, part("large")?);
        Ok(Self { id, shown, new, undo, after, anchors, large, disk, key })
    }

    /// Returns what tells this domain from others, until the next boot.
    pub(crate) fn key(&self) -> RenameDomain {
        self.key
    }

    /// Returns which of the newer renames can be used, trying them the first time.
    pub(crate) fn renames(&self) -> Result<Renames, Failure> {
        if let Some(known) = self.disk.renames.get() {
            return Ok(*known);
        }
        // On a full disk the probe has no room; an undo must run there all the same, by the renames that need none.
        let features = match self.new.features_by_writing() {
            Err(error) if error.is_no_space() || error.is_quota() => self.new.features(),
            probed => probed,
        };
        let features = features.map_err(|error| of_stage(&error))?;
        let found = Renames {
            exchange: features.rename_exchange == Some(true),
            noreplace: features.rename_noreplace == Some(true),
        };
        Ok(*self.disk.renames.get_or_init(|| found))
    }

    /// Returns what is only of use to an attempt that goes on: what has no name in the tree yet.
    pub(crate) fn unfinished(&self) -> [&Dir; 3] {
        [&self.new, &self.anchors, &self.large]
    }
}

impl Disk {
    /// Holds the file system of a directory.
    pub(crate) fn of(dir: &Dir) -> Result<Self, tree::TreeError> {
        let id = disk_id(dir)?;
        let durable = Durable::of(dir.clone())?;
        Ok(Self { id, dir: dir.clone(), durable, renames: OnceLock::new() })
    }

    /// Returns a directory of it.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// Returns what tells the file system of a directory from others, until the next boot.
pub(crate) fn disk_id(dir: &Dir) -> Result<String, tree::TreeError> {
    match dir.file_system()? {
        Some(found) => Ok(found.id),
        // A mount of another namespace: then each of its devices counts as a file system, and is synced by itself.
        None => Ok(format!("device {}", dir.stat_self()?.dev)),
    }
}
