//! Removing stages without a trace, whatever was cut short before.

use common::failure::Failure;
use tree::{Dir, Name, TreeError};

use super::Domains;
use super::registry::Registry;
use crate::begun::MARKER_NEW;
use crate::domain::{DomainId, HOME};
use crate::kill_point::KillPoint;
use crate::stage::{empty, marker_name, restore_mtime};
use crate::standing::look_at_self;
use crate::trouble::of_stage;

impl Domains {
    /// Removes all stages but the root's. The times of the directories that hold them stay.
    ///
    /// Those in which something is kept aside stay too, if asked for; says whether there are such. What is not there any
    /// more is passed over: its file system is gone, and the way back with it.
    pub(crate) fn remove(&self, keeps_aside: bool, kill: &KillPoint) -> Result<bool, Failure> {
        let mut state = self.lock();
        state.registry = Registry::read(&self.0.stage)?;
        let mut has_kept = false;
        for id in state.registry.ids() {
            has_kept |= self.remove_one(&mut state.registry, id, keeps_aside, kill)?;
        }
        state.held.clear();
        state.known.retain(|_key, id| *id == HOME);
        state.directories.clear();
        Ok(has_kept)
    }

    fn remove_one(
        &self,
        registry: &mut Registry,
        id: DomainId,
        keeps_aside: bool,
        kill: &KillPoint,
    ) -> Result<bool, Failure> {
        let Some(record) = registry.get(id).cloned() else { return Ok(false) };
        let failed = |error: TreeError| of_stage(&error);
        let Some(top) = self.top_of(&record).map_err(failed)? else { return Ok(false) };
        let mut mtime = record.mtime;
        if let Some(dir) = self.open_stage(&top, &record).map_err(failed)? {
            if keeps_aside && holds_kept(&dir).map_err(failed)? {
                return Ok(true);
            }
            empty(&dir).map_err(failed)?;
            if record.ino.is_some() {
                mtime = look_at_self(&top).map_err(failed)?.mtime;
            }
            kill.pass()?;
            registry.leaving(&self.0.stage, id, mtime)?;
            kill.pass()?;
            dir.unlink(&marker_name()).map_err(failed)?;
            kill.pass()?;
        } else if record.ino.is_some() && !record.is_leaving {
            return Ok(false);
        }
        // Here it has no marker: it is to be gone, or was about to be made when an attempt was killed.
        remove_unmarked(&top, &record.name()).map_err(failed)?;
        kill.pass()?;
        restore_mtime(&top, mtime).and_then(|()| top.sync_dir()).map_err(failed)?;
        kill.pass()?;
        registry.left(&self.0.stage, id)?;
        Ok(false)
    }
}

/// Whether something is kept aside in a stage that was undone; then the rest of it goes.
fn holds_kept(stage: &Dir) -> Result<bool, TreeError> {
    let part = |part: &str| stage.open_dir(&Name::new(part).expect("a constant without slash"));
    match part("after") {
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
        Ok(after) => match after.list()?.next() {
            None => return Ok(false),
            Some(first) => drop(first?),
        },
    }
    for name in ["undo", "new", "anchors", "large"] {
        for entry in part(name)?.list()? {
            part(name)?.remove_tree(&entry?.name)?;
        }
    }
    Ok(true)
}

/// Removes a directory of ours that has no marker: it holds a half written one at most. Anything else is not ours.
fn remove_unmarked(top: &Dir, name: &Name) -> Result<(), TreeError> {
    let Ok(dir) = top.open_dir(name) else { return Ok(()) };
    if dir.stat_self()?.uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    match dir.unlink(&Name::new(MARKER_NEW).expect("a constant without slash")) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    match top.remove_dir(name) {
        Err(error) if !error.is_not_empty() && !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
