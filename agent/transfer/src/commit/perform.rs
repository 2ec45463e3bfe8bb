//! Carrying out one task, each effect checked against what the scan saw.

use common::failure::Failure;
use sync::entry::Entry;
use tree::{Dir, Kind, Metadata, Name, Stat, TreeError, Xattrs};

use super::{Committer, Effect, Outcome, Seen, Slot, Staged, Task};
use crate::domain::Domain;
use crate::standing::{is_empty, is_same_content, is_untouched, metadata, time};
use crate::trouble::{is_fatal, of_stage};

/// Why a task was not carried out.
enum Stop {
    /// The whole commit ends here.
    Fatal(Failure),
    Outcome(Outcome),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Self {
        if is_fatal(&error) { Self::Fatal(of_stage(&error)) } else { Self::Outcome(Outcome::Failed(error)) }
    }
}

const CONFLICT: Stop = Stop::Outcome(Outcome::Conflict);

/// Passes on how it went after the tree was changed: an error is about the whole commit then. Told as one of the entry
/// it would be recorded as a change that was never made; as it is, the next opening decides by inode.
fn changed<T>(result: Result<T, Stop>) -> Result<T, Stop> {
    result.map_err(|stop| match stop {
        Stop::Outcome(Outcome::Failed(error)) => Stop::Fatal(of_stage(&error)),
        stop => stop,
    })
}

/// A name at which something stood that a task takes away, and where that is put.
struct Site<'a> {
    slot: &'a Slot<'a>,
    parent: &'a Dir,
    name: &'a Name,
    seen: &'a Seen,
}

impl Committer {
    /// Carries out one task.
    pub(super) fn perform(&mut self, seq: u64, task: &Task) -> Result<Outcome, Failure> {
        let domain = self.stage.domains.get(task.domain)?;
        self.is_noting = domain.disk.durable.is_by_file();
        let slot = Slot::new(&domain, seq);
        let outcome = match &task.effect {
            Effect::Install { staged, new, seen: None, .. } => self.create(&domain, task, staged, new),
            Effect::Install { staged, new, seen: Some(seen), .. } => {
                self.replace(&slot, task, staged, new, seen)
            }
            Effect::Remove { seen } => self.remove(&slot, task, seen),
            Effect::Metadata { seen, wanted } => self.set_metadata(task, seen, wanted),
            Effect::Touch { .. } => Ok(Outcome::Done { ctime: None, problems: Vec::new() }),
        };
        match outcome {
            Ok(outcome) | Err(Stop::Outcome(outcome)) => Ok(outcome),
            Err(Stop::Fatal(failure)) => Err(failure),
        }
    }

    fn create(
        &mut self,
        domain: &Domain,
        task: &Task,
        staged: &Staged,
        new: &Entry,
    ) -> Result<Outcome, Stop> {
        let is_directory = new.kind.is_directory();
        if !is_directory && staged.assembly.as_ref().is_some_and(|assembly| assembly.is_live()) {
            // It came with its directory, and has been as it is since it was staged.
            return Ok(Outcome::Done { ctime: Some(new.ctime), problems: Vec::new() });
        }
        let (parent, name) = self.parent(&task.path)?;
        self.open_for_writing(&parent)?;
        self.kill.pass()?;
        if staged.is_anchor {
            staged.dir.hard_link(&staged.name, &parent, &name).map_err(conflict_if_exists)?;
        } else {
            self.rename_new(domain, staged, &parent, &name, new)?;
        }
        if let Some(assembly) = staged.assembly.as_ref().filter(|_assembly| is_directory) {
            assembly.set_live();
        }
        changed(done(&parent, &name))
    }

    /// Renames to a name at which nothing may stand.
    fn rename_new(
        &self,
        domain: &Domain,
        staged: &Staged,
        parent: &Dir,
        name: &Name,
        new: &Entry,
    ) -> Result<(), Stop> {
        if self.renames(domain)?.noreplace {
            return staged.dir.rename_noreplace(&staged.name, parent, name).map_err(conflict_if_exists);
        }
        if new.kind.is_directory() {
            // Without the flag an empty directory could be replaced; its loss is the loss of an empty directory.
            if parent.stat_if_exists(name)?.is_some() {
                return Err(CONFLICT);
            }
            return Ok(staged.dir.rename_over(&staged.name, parent, name)?);
        }
        staged.dir.hard_link(&staged.name, parent, name).map_err(conflict_if_exists)?;
        self.kill.pass()?;
        Ok(staged.dir.unlink(&staged.name)?)
    }

    fn replace(
        &mut self,
        slot: &Slot<'_>,
        task: &Task,
        staged: &Staged,
        new: &Entry,
        seen: &Seen,
    ) -> Result<Outcome, Stop> {
        let (parent, name) = self.parent(&task.path)?;
        expect(&parent, &name, &seen.entry)?;
        // An exchange takes what no rename could give back on some file systems.
        parent.check_project(&name)?;
        let is_directory = seen.entry.kind.is_directory() || new.kind.is_directory();
        if is_directory {
            self.forget_parents();
        }
        expect_empty(&parent, &name, &seen.entry)?;
        self.open_place(&parent, &name, &seen.entry)?;
        let site = Site { slot, parent: &parent, name: &name, seen };
        if self.renames(slot.domain)?.exchange {
            self.exchange(&site, staged)?;
        } else if is_directory {
            self.replace_in_two(&site, staged, new)?;
        } else {
            self.replace_by_link(&site, staged)?;
        }
        changed(done(&parent, &name))
    }

    /// Puts the new one at the place in `undo/` where the old one shall be, then lets them change places.
    fn exchange(&self, site: &Site<'_>, staged: &Staged) -> Result<(), Stop> {
        let Site { slot, parent, name, seen: _ } = *site;
        let (undo, kept) = (slot.undo(), &slot.name);
        self.kill.pass()?;
        if staged.is_anchor {
            staged.dir.hard_link(&staged.name, undo, kept)?;
        } else {
            staged.dir.rename_noreplace(&staged.name, undo, kept)?;
        }
        self.kill.pass()?;
        if let Err(error) = undo.rename_exchange(kept, parent, name) {
            self.kill.pass()?;
            drop_entry(undo, kept)?;
            return Err(if error.is_not_found() { CONFLICT } else { error.into() });
        }
        changed(self.look_at_exchanged(site))
    }

    fn look_at_exchanged(&self, site: &Site<'_>) -> Result<(), Stop> {
        let Site { slot, parent, name, seen } = *site;
        let (undo, kept) = (slot.undo(), &slot.name);
        if !is_what_was_seen(undo, kept, &seen.entry)? {
            self.kill.pass()?;
            undo.rename_exchange(kept, parent, name)?;
            self.kill.pass()?;
            drop_entry(undo, kept)?;
            return Err(CONFLICT);
        }
        self.settle_old(slot, seen)
    }

    /// Links the old one into `undo/` and renames the new one over it.
    fn replace_by_link(&self, site: &Site<'_>, staged: &Staged) -> Result<(), Stop> {
        let Site { slot, parent, name, seen } = *site;
        let (undo, kept) = (slot.undo(), &slot.name);
        if !seen.is_ours {
            self.kill.pass()?;
            parent.hard_link(name, undo, kept)?;
            if !is_same_content(&seen.entry, &undo.stat(kept)?) {
                self.kill.pass()?;
                undo.unlink(kept)?;
                return Err(CONFLICT);
            }
        }
        let mut from = (staged.dir.clone(), staged.name.clone());
        if staged.is_anchor {
            // A rename would take the anchor's own name.
            from = (slot.domain.new.clone(), kept.clone());
            self.kill.pass()?;
            staged.dir.hard_link(&staged.name, &from.0, &from.1)?;
        }
        self.kill.pass()?;
        from.0.rename_over(&from.1, parent, name)?;
        if seen.is_ours { Ok(()) } else { changed(self.settle_old(slot, seen)) }
    }

    /// The stated exception: without an exchange, a directory and a file change places by two renames.
    fn replace_in_two(&self, site: &Site<'_>, staged: &Staged, new: &Entry) -> Result<(), Stop> {
        let Site { slot, parent, name, seen: _ } = *site;
        self.kill.pass()?;
        parent.rename_over(name, slot.undo(), &slot.name)?;
        changed(self.fill_gap(site, staged, new))
    }

    fn fill_gap(&self, site: &Site<'_>, staged: &Staged, new: &Entry) -> Result<(), Stop> {
        let Site { slot, parent, name, seen } = *site;
        let (undo, kept) = (slot.undo(), &slot.name);
        if !is_what_was_seen(undo, kept, &seen.entry)? {
            self.kill.pass()?;
            undo.rename_over(kept, parent, name)?;
            return Err(CONFLICT);
        }
        self.kill.pass()?;
        if staged.is_anchor {
            staged.dir.hard_link(&staged.name, parent, name).map_err(conflict_if_exists)?;
        } else {
            self.rename_new(slot.domain, staged, parent, name, new)?;
        }
        self.settle_old(slot, seen)
    }

    fn remove(&mut self, slot: &Slot<'_>, task: &Task, seen: &Seen) -> Result<Outcome, Stop> {
        let (parent, name) = self.parent(&task.path)?;
        expect(&parent, &name, &seen.entry)?;
        if seen.entry.kind.is_directory() {
            self.forget_parents();
        }
        expect_empty(&parent, &name, &seen.entry)?;
        self.open_place(&parent, &name, &seen.entry)?;
        self.kill.pass()?;
        parent.rename_over(&name, slot.undo(), &slot.name)?;
        changed(self.look_at_removed(&Site { slot, parent: &parent, name: &name, seen }))
    }

    fn look_at_removed(&self, site: &Site<'_>) -> Result<Outcome, Stop> {
        let Site { slot, parent, name, seen } = *site;
        let (undo, kept) = (slot.undo(), &slot.name);
        if !is_what_was_seen(undo, kept, &seen.entry)? {
            self.kill.pass()?;
            return match put_back(undo, kept, parent, name, self.renames(slot.domain)?.noreplace) {
                Ok(()) => Err(CONFLICT),
                // The name was taken meanwhile. What was taken away stays in `undo/`, and the record with it.
                Err(_taken) => Ok(Outcome::Done { ctime: None, problems: Vec::new() }),
            };
        }
        self.settle_old(slot, seen)?;
        Ok(Outcome::Done { ctime: None, problems: Vec::new() })
    }

    /// Makes way for taking something away: a directory changes, too, when it gets another parent.
    fn open_place(&mut self, parent: &Dir, name: &Name, seen: &Entry) -> Result<(), TreeError> {
        self.open_for_writing(parent)?;
        if self.can_chown || !seen.kind.is_directory() {
            return Ok(());
        }
        let taken = parent.open_dir(name)?;
        self.open_for_writing(&taken)
    }

    /// Drops an old one that this migration made; takes a kept one out of its owner's quota.
    fn settle_old(&self, slot: &Slot<'_>, seen: &Seen) -> Result<(), Stop> {
        let (undo, kept) = (slot.undo(), &slot.name);
        if seen.is_ours {
            self.kill.pass()?;
            return drop_entry(undo, kept);
        }
        let entry = &seen.entry;
        if self.can_chown && entry.kind.is_file() && entry.nlink == 1 && entry.uid != 0 {
            self.kill.pass()?;
            let wanted = Metadata {
                uid: 0,
                gid: 0,
                mode: 0o600,
                mtime: tree::Time { seconds: entry.mtime.seconds, nanos: entry.mtime.nanos },
                xattrs: Xattrs::default(),
            };
            // Only the quota suffers from a failure here.
            drop(undo.apply(kept, &wanted, Some((entry.dev, entry.ino))));
        }
        Ok(())
    }

    fn set_metadata(&mut self, task: &Task, seen: &Entry, wanted: &Entry) -> Result<Outcome, Stop> {
        let Ok(wanted) = metadata(wanted) else { return Err(CONFLICT) };
        if task.path.is_root() {
            self.kill.pass()?;
            let applied = self.stage.root.apply_self(&wanted)?;
            let root = self.stage.root.clone();
            self.note(&root)?;
            let ctime = time(self.stage.root.stat_self()?.ctime);
            return Ok(Outcome::Done { ctime: Some(ctime), problems: applied.problems });
        }
        let (parent, name) = self.parent(&task.path)?;
        let pinned = parent.pin(&name)?;
        if !is_untouched(seen, &pinned.stat()?) {
            return Err(CONFLICT);
        }
        self.kill.pass()?;
        let applied = pinned.apply(&wanted, Some((seen.dev, seen.ino)))?;
        if self.is_noting {
            self.names.changed(&pinned)?;
        }
        let ctime = time(pinned.stat()?.ctime);
        Ok(Outcome::Done { ctime: Some(ctime), problems: applied.problems })
    }
}

/// Makes sure that what the scan saw stands there, untouched.
fn expect(parent: &Dir, name: &Name, seen: &Entry) -> Result<(), Stop> {
    match parent.stat_if_exists(name)? {
        Some(now) if is_untouched(seen, &now) => Ok(()),
        Some(_) | None => Err(CONFLICT),
    }
}

/// Makes sure that a directory holds nothing: whatever it holds would go with it.
fn expect_empty(parent: &Dir, name: &Name, seen: &Entry) -> Result<(), Stop> {
    if seen.kind.is_directory() && !is_empty(&parent.open_dir(name)?)? {
        return Err(CONFLICT);
    }
    Ok(())
}

/// Whether what was taken away is what the scan saw, and nothing went with it.
fn is_what_was_seen(undo: &Dir, kept: &Name, seen: &Entry) -> Result<bool, TreeError> {
    Ok(is_same_content(seen, &undo.stat(kept)?)
        && (!seen.kind.is_directory() || is_empty(&undo.open_dir(kept)?)?))
}

fn done(parent: &Dir, name: &Name) -> Result<Outcome, Stop> {
    // Whoever took it away again meanwhile is noticed by the verification.
    let ctime = parent.stat_if_exists(name)?.map(|now: Stat| time(now.ctime));
    Ok(Outcome::Done { ctime, problems: Vec::new() })
}

fn conflict_if_exists(error: TreeError) -> Stop {
    if error.is_exists() { CONFLICT } else { error.into() }
}

/// Removes something of ours, whatever it is.
fn drop_entry(dir: &Dir, name: &Name) -> Result<(), Stop> {
    match dir.stat_if_exists(name)? {
        Some(stat) if stat.kind == Kind::Directory => {
            dir.remove_tree(name)?;
        }
        Some(_) => dir.unlink(name)?,
        None => {}
    }
    Ok(())
}

/// Gives something in `undo/` its old name back, unless something stands there.
pub(super) fn put_back(
    undo: &Dir,
    kept: &Name,
    parent: &Dir,
    name: &Name,
    has_noreplace: bool,
) -> Result<(), TreeError> {
    if has_noreplace {
        return undo.rename_noreplace(kept, parent, name);
    }
    if undo.stat(kept)?.kind == Kind::Directory {
        // Over an empty directory this would succeed, and lose nothing but that.
        return undo.rename_over(kept, parent, name);
    }
    undo.hard_link(kept, parent, name)?;
    undo.unlink(kept)
}
