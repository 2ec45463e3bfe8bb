//! Which new directories are filled in the stage, and which files are made in them: the planner's part.

use std::sync::Arc;

use common::rel_path::RelPath;
use tree::{Dir, Name};

use super::Again;
use super::plan::{Planner, weight_of};
use crate::assembly::{Assembly, Seat};

/// Directories that were made and whose listings have not come yet; of a directory that holds more of them, the rest
/// gets its files one by one.
const AHEAD_MAX: usize = 8192;

impl Planner<'_> {
    /// Has a directory that was just staged filled there.
    pub(super) fn assemble(&mut self, wanted: &Again, bench: &Dir, name: &Name) -> Option<Arc<Assembly>> {
        let is_new = wanted.source.kind.is_directory() && wanted.seen.is_none();
        if !is_new || self.open.is_none() || self.ahead.len() >= AHEAD_MAX {
            return None;
        }
        let assembly = Assembly::new(bench.clone(), name.clone(), self.pass.held.clone());
        self.ahead.insert(wanted.path.clone(), Arc::clone(&assembly));
        Some(assembly)
    }

    /// Returns the directory whose listing begins, if it is filled in the stage.
    pub(super) fn assembly_of(&mut self, path: &RelPath) -> Option<Arc<Assembly>> {
        self.ahead.remove(path).filter(|assembly| !assembly.is_closed())
    }

    /// Returns the place of a small file in the directory that is being listed.
    pub(super) fn seat(&self, wanted: &Again) -> Option<Seat> {
        let assembly = self.open.as_ref()?.assembly.as_ref()?;
        let Again { path, domain: _, source, seen, is_anchor, times_asked: _ } = wanted;
        // What takes unusual room waits on its way to the committer, which waits for what was begun.
        let is_usual = weight_of(path, source, None) == 0;
        (seen.is_none() && !is_anchor && is_usual).then(|| assembly.seat())
    }
}
