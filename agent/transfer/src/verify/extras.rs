//! What only the destination has, where both sides are compared as they are now.
//!
//! The topmost entry stands for all below it. Without `--delete` it is as asked for, and worth knowing only.

use common::failure::Failure;
use common::rel_path::RelPath;
use common::rules::Rules;
use sync::entry::Entry;

use super::check::Checker;
use super::{Job, join};
use crate::backup;
use crate::standing::look_at_self;
use crate::trouble::of_stage;

/// Entries of one directory that wait until it is known whether the source listed it whole; of further ones their
/// number is told.
const NAMES_MAX: usize = 10_000;

/// Extra entries of the open directory.
pub(super) struct Extras {
    /// Whether they are told at all.
    is_told: bool,
    /// Whether the source should have none of them.
    are_wrong: bool,
    rules: Rules,
    /// The device of the root, where others are no part of the tree.
    only_device: Option<u64>,
    is_at_source: bool,
    names: Vec<Vec<u8>>,
    further: u64,
}

impl Extras {
    pub(super) fn new(job: &Job) -> Result<Self, Failure> {
        let only_device = match job.params.rules.one_file_system {
            true => Some(look_at_self(&job.root.dir()).map_err(|error| of_stage(&error))?.dev),
            false => None,
        };
        Ok(Self {
            is_told: job.params.compares_now,
            are_wrong: job.params.delete,
            rules: job.params.rules.clone(),
            only_device,
            is_at_source: false,
            names: Vec::new(),
            further: 0,
        })
    }

    /// Begins with a directory.
    pub(super) fn enter(&mut self, is_at_source: bool) {
        (self.is_at_source, self.further) = (is_at_source, 0);
        self.names.clear();
    }

    /// Takes an entry of it.
    pub(super) fn push(&mut self, entry: Entry) {
        let is_elsewhere = self.only_device.is_some_and(|device| device != entry.dev);
        if !self.is_told || !self.is_at_source || is_elsewhere {
            return;
        }
        if self.names.len() < NAMES_MAX { self.names.push(entry.name) } else { self.further += 1 }
    }

    /// Tells them, for the source has listed the directory whole.
    pub(super) fn tell(&mut self, directory: &RelPath, checker: &mut Checker<'_>) -> Result<(), Failure> {
        for name in self.names.drain(..) {
            let path = join(directory, &name)?;
            if !backup::stays(&self.rules, &path) {
                checker.extra(&path, self.are_wrong);
            }
        }
        if self.further > 0 {
            checker.more_extras(directory, self.further, self.are_wrong);
        }
        Ok(())
    }
}
