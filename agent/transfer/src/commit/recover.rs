//! Settling intents whose end is not in the ledger: an earlier attempt was killed between intent and end.
//!
//! Each is decided by inode: what stands at the path, and what stands in `undo/` under the record's number.

use common::failure::Failure;
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{Dir, Name, Stat, TreeError};

use super::perform::put_back;
use super::{Committer, Slot};
use crate::domain::{Domain, DomainId};
use crate::ledger::{Change, Intent, Settled};
use crate::standing::{is_empty, is_recorded, is_same_content, time};
use crate::trouble::of_stage;

/// How an intent ended.
enum End {
    /// It was carried out.
    Done(Option<Time>),
    /// It was not, and what it left in `undo/` is dealt with.
    Abandoned,
    /// It was not, and the old one was given its name back, which changed its change time.
    PutBack(Option<Time>),
}

/// Why an intent could not be settled.
enum Broken {
    Failure(Failure),
    Tree(TreeError),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<TreeError> for Broken {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// What stands at a path and in `undo/`.
struct Found {
    at_path: Option<Stat>,
    kept: Option<Stat>,
}

impl Found {
    fn stands(&self, entry: &Entry) -> bool {
        is_inode(self.at_path.as_ref(), entry)
    }

    fn keeps(&self, entry: &Entry) -> bool {
        is_inode(self.kept.as_ref(), entry)
    }

    fn ctime(&self) -> Option<Time> {
        self.at_path.as_ref().map(|stat| time(stat.ctime))
    }
}

fn is_inode(stat: Option<&Stat>, entry: &Entry) -> bool {
    stat.is_some_and(|stat| is_recorded(entry, stat))
}

impl Committer {
    /// Settles intents in their order; to be called inside of the fence.
    pub(super) fn recover(&mut self, unsettled: Vec<Settled>) -> Result<(), Failure> {
        if unsettled.is_empty() {
            return Ok(());
        }
        self.is_noting = true;
        for Settled { intent, domain, .. } in unsettled {
            match self.decide(&intent, domain)? {
                End::Done(ctime) => self.ledger.done(intent.seq, ctime)?,
                End::Abandoned => self.ledger.abandon(intent.seq)?,
                End::PutBack(ctime) => {
                    self.ledger.abandon(intent.seq)?;
                    let Some(old) = intent.change.old().cloned() else { continue };
                    let change = Change::Metadata { old: old.clone(), new: old };
                    let noted = self.ledger.intend(intent.pass, domain, intent.path, change)?;
                    self.ledger.done(noted, ctime)?;
                }
            }
        }
        self.opened.close().map_err(|error| of_stage(&error))?;
        self.kill.pass()?;
        self.names.sync()?;
        self.stage.domains.sync_all()?;
        self.kill.pass()?;
        self.ledger.append()?;
        self.kill.pass()?;
        self.ledger.sync()
    }

    fn decide(&mut self, intent: &Intent, domain: DomainId) -> Result<End, Failure> {
        if matches!(intent.change, Change::Metadata { .. }) {
            // Perhaps some of it was set: the next pass compares, an undo sets everything back.
            return Ok(End::Done(None));
        }
        let domain = self.stage.domains.get(domain)?;
        let place = match self.parent(&intent.path) {
            Ok(place) => {
                self.open_for_writing(&place.0).map_err(|error| of_stage(&error))?;
                Some(place)
            }
            Err(error) if error.is_not_found() || error.is_wrong_kind() => None,
            Err(error) => return Err(of_stage(&error)),
        };
        self.decide_at(&domain, intent, place).map_err(|broken| match broken {
            Broken::Failure(failure) => failure,
            Broken::Tree(error) => of_stage(&error),
        })
    }

    fn decide_at(&self, domain: &Domain, intent: &Intent, place: Option<(Dir, Name)>) -> Result<End, Broken> {
        let slot = Slot::new(domain, intent.seq);
        let at_path = match &place {
            Some((parent, name)) => parent.stat_if_exists(name)?,
            None => None,
        };
        let found = Found { at_path, kept: slot.undo().stat_if_exists(&slot.name)? };
        match &intent.change {
            Change::Create { new, .. } => {
                Ok(if found.stands(new) { End::Done(found.ctime()) } else { End::Abandoned })
            }
            Change::Replace { old, is_kept, new, .. } => {
                self.decide_replaced(&slot, &found, old, *is_kept, new, place.as_ref())
            }
            Change::Remove { old, is_kept } => {
                self.decide_removed(&slot, &found, old, *is_kept, place.as_ref())
            }
            Change::Metadata { .. } => Ok(End::Done(None)),
        }
    }

    fn decide_replaced(
        &self,
        slot: &Slot<'_>,
        found: &Found,
        old: &Entry,
        is_kept: bool,
        new: &Entry,
        place: Option<&(Dir, Name)>,
    ) -> Result<End, Broken> {
        if found.stands(new) {
            let is_as_seen = match &found.kept {
                Some(kept) => is_same_content(old, kept) && !holds_entries(slot, old)?,
                None => true,
            };
            return match &found.kept {
                // An exchange took what was not to be taken: it goes back.
                Some(_) if !is_as_seen && !found.keeps(new) => {
                    let Some((parent, name)) = place else { return Ok(End::Abandoned) };
                    self.kill.pass()?;
                    slot.undo().rename_exchange(&slot.name, parent, name)?;
                    self.drop_kept(slot)
                }
                Some(_) if !is_kept => self.drop_kept(slot).map(|_dropped| End::Done(found.ctime())),
                Some(_) | None => Ok(End::Done(found.ctime())),
            };
        }
        if found.keeps(new) || found.stands(old) {
            // Before the exchange; or, without one, the old one only has a further name in `undo/`.
            return self.drop_kept(slot);
        }
        if found.keeps(old) {
            return self.decide_taken(slot, found, place, is_kept);
        }
        Ok(End::Abandoned)
    }

    fn decide_removed(
        &self,
        slot: &Slot<'_>,
        found: &Found,
        old: &Entry,
        is_kept: bool,
        place: Option<&(Dir, Name)>,
    ) -> Result<End, Broken> {
        match &found.kept {
            None => Ok(End::Abandoned),
            Some(kept) if is_same_content(old, kept) && !holds_entries(slot, old)? => {
                if is_kept {
                    return Ok(End::Done(None));
                }
                self.drop_kept(slot).map(|_dropped| End::Done(None))
            }
            Some(_other) => self.decide_taken(slot, found, place, is_kept),
        }
    }

    /// Something was taken away and nothing put in its place: it goes back, unless somebody else is there by now.
    fn decide_taken(
        &self,
        slot: &Slot<'_>,
        found: &Found,
        place: Option<&(Dir, Name)>,
        is_kept: bool,
    ) -> Result<End, Broken> {
        let Some((parent, name)) = place else { return Ok(End::Done(None)) };
        if found.at_path.is_some() {
            if is_kept {
                return Ok(End::Done(None));
            }
            return self.drop_kept(slot).map(|_dropped| End::Done(None));
        }
        self.kill.pass()?;
        put_back(slot.undo(), &slot.name, parent, name, self.renames(slot.domain)?.noreplace)?;
        Ok(End::PutBack(parent.stat_if_exists(name)?.map(|stat| time(stat.ctime))))
    }

    /// Removes what was left in `undo/` and is not to be kept.
    fn drop_kept(&self, slot: &Slot<'_>) -> Result<End, Broken> {
        self.kill.pass()?;
        slot.undo().remove_tree(&slot.name)?;
        Ok(End::Abandoned)
    }
}

fn holds_entries(slot: &Slot<'_>, old: &Entry) -> Result<bool, TreeError> {
    if !old.kind.is_directory() {
        return Ok(false);
    }
    Ok(!is_empty(&slot.undo().open_dir(&slot.name)?)?)
}
