//! Giving a directory back where the migration made another one after it had removed the first.
//!
//! What the second holds goes into the first before anything below is looked at; so all that is below is undone as in
//! a directory that never left. Killed anywhere, it is ended by the next undo: the second directory stands in `undo/`
//! under a name of its own until it is empty, and what was moved is still known for ours when that is gone.

use common::failure::Failure;
use tree::{Dir, Kind, Name};

use crate::commit::kept_name;
use crate::domain::Domain;
use crate::findings::FindingSink;
use crate::kill_point::KillPoint;
use crate::ledger::History;
use crate::opened::Opened;
use crate::stage::Stage;
use crate::trouble::of_stage;
use crate::undo::{is_original, keep_aside};

/// What a swap needs.
pub(crate) struct Swap<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) findings: &'a FindingSink,
    pub(crate) kill: &'a KillPoint,
}

/// How it stands with a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// There is none.
    No,
    /// It was begun: what the made directory holds is to be given to the kept one, once that is back.
    Begun,
    /// An undo before this one ended it.
    Before,
}

impl Swap<'_> {
    /// Takes a directory that the migration made out of the way of a kept one, if that is how it stands.
    pub(crate) fn begin(&self, history: &History, parent: &Dir, name: &Name) -> Result<Swapped, Failure> {
        let Some((domain, seq)) = self.kept_directory(history)? else { return Ok(Swapped::No) };
        let (kept, made) = (kept_name(seq), made_name(seq));
        let stands = |name: &Name| domain.undo.stat_if_exists(name).map_err(|error| of_stage(&error));
        if stands(&made)?.is_some() {
            return Ok(Swapped::Begun);
        }
        let now = parent.stat_if_exists(name).map_err(|error| of_stage(&error))?;
        if stands(&kept)?.is_none() {
            // Only an undo gives it back.
            let is_back = now.is_some_and(|now| is_original(history, &now));
            return Ok(if is_back { Swapped::Before } else { Swapped::No });
        }
        let is_made = now.is_some_and(|now| now.kind == Kind::Directory && history.is_made(now.ino));
        if !is_made {
            return Ok(Swapped::No);
        }
        let dir = parent.open_dir(name).map_err(|error| of_stage(&error))?;
        if dir.holds_mounts().map_err(|error| of_stage(&error))? {
            return Ok(Swapped::No);
        }
        self.kill.pass()?;
        dir.open_for_writing()
            .and_then(|_modes| parent.rename_over(name, &domain.undo, &made))
            .map_err(|error| of_stage(&error))?;
        Ok(Swapped::Begun)
    }

    /// Gives what it holds to the one that is back, if that is still to be done; says whether there was a swap, by
    /// which all below has another change time.
    pub(crate) fn end(
        &self,
        swapped: Swapped,
        history: &History,
        parent: &Dir,
        name: &Name,
    ) -> Result<bool, Failure> {
        if swapped == Swapped::Begun {
            self.give(history, parent, name)?;
        }
        Ok(swapped != Swapped::No)
    }

    fn give(&self, history: &History, parent: &Dir, name: &Name) -> Result<(), Failure> {
        let Some((domain, seq)) = self.kept_directory(history)? else { return Ok(()) };
        let made = made_name(seq);
        let (from, to) = domain
            .undo
            .open_dir(&made)
            .and_then(|from| parent.open_dir(name).map(|to| (from, to)))
            .map_err(|error| of_stage(&error))?;
        let is_back = to.stat_self().map(|now| is_original(history, &now));
        if !is_back.map_err(|error| of_stage(&error))? {
            // Something that cannot be moved took its place; that was told, and this undo does not end well.
            return Ok(());
        }
        for dir in [&from, &to] {
            dir.open_for_writing().map_err(|error| of_stage(&error))?;
        }
        for entry in from.list().map_err(|error| of_stage(&error))? {
            let entry = entry.map_err(|error| of_stage(&error))?;
            let mut opened = Opened::default();
            if let Ok(dir) = from.open_dir(&entry.name) {
                opened.open(&dir).map_err(|error| of_stage(&error))?;
            }
            self.kill.pass()?;
            let is_taken = to.stat_if_exists(&entry.name).map_err(|error| of_stage(&error))?.is_some();
            if is_taken {
                let Ok(path) = history.path.join(entry.name.as_bytes()) else { continue };
                keep_aside(&domain, &from, &entry.name, &path, self.findings)?;
            } else {
                from.rename_over(&entry.name, &to, &entry.name).map_err(|error| of_stage(&error))?;
            }
            opened.close().map_err(|error| of_stage(&error))?;
        }
        self.kill.pass()?;
        domain.undo.remove_dir(&made).map_err(|error| of_stage(&error))
    }

    /// Returns where a directory that stood there is kept.
    fn kept_directory(&self, history: &History) -> Result<Option<(std::sync::Arc<Domain>, u64)>, Failure> {
        match history.kept() {
            Some((kept, original)) if original.kind.is_directory() => {
                Ok(Some((self.stage.domains.get(kept.domain)?, kept.seq)))
            }
            Some(_) | None => Ok(None),
        }
    }
}

fn made_name(seq: u64) -> Name {
    Name::new(format!("{seq:016x}-made")).expect("digits and letters are a name")
}
