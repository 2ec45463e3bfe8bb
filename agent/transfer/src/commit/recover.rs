//! Settling intents whose end is not in the ledger: an earlier attempt was killed between intent and end.
//!
//! Each is decided by inode: what stands at the path, and what stands in `undo/` under the record's number.

use common::failure::Failure;
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{Dir, Name, Stat, TreeError};

use super::perform::put_back;
use super::{Committer, kept_name};
use crate::ledger::{Change, Intent};
use crate::standing::{is_recorded, is_same_content, time};
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
    pub(super) fn recover(&mut self, unsettled: Vec<Intent>) -> Result<(), Failure> {
        if unsettled.is_empty() {
            return Ok(());
        }
        for intent in unsettled {
            match self.decide(&intent)? {
                End::Done(ctime) => self.ledger.done(intent.seq, ctime)?,
                End::Abandoned => self.ledger.abandon(intent.seq)?,
                End::PutBack(ctime) => {
                    self.ledger.abandon(intent.seq)?;
                    let Some(old) = intent.change.old().cloned() else { continue };
                    let change = Change::Metadata { old: old.clone(), new: old };
                    let noted = self.ledger.intend(intent.pass, intent.path, change)?;
                    self.ledger.done(noted.seq, ctime)?;
                }
            }
        }
        self.kill.pass()?;
        self.stage.dir.sync_fs().map_err(|error| of_stage(&error))?;
        self.kill.pass()?;
        self.ledger.append()?;
        self.kill.pass()?;
        self.ledger.sync()
    }

    fn decide(&mut self, intent: &Intent) -> Result<End, Failure> {
        if matches!(intent.change, Change::Metadata { .. }) {
            // Perhaps some of it was set: the next pass compares, an undo sets everything back.
            return Ok(End::Done(None));
        }
        let place = match self.parent(&intent.path) {
            Ok(place) => Some(place),
            Err(error) if error.is_not_found() || error.is_wrong_kind() => None,
            Err(error) => return Err(of_stage(&error)),
        };
        self.decide_at(intent, place).map_err(|broken| match broken {
            Broken::Failure(failure) => failure,
            Broken::Tree(error) => of_stage(&error),
        })
    }

    fn decide_at(&self, intent: &Intent, place: Option<(Dir, Name)>) -> Result<End, Broken> {
        let undo = &self.stage.undo;
        let kept_name = kept_name(intent.seq);
        let at_path = match &place {
            Some((parent, name)) => parent.stat_if_exists(name)?,
            None => None,
        };
        let found = Found { at_path, kept: undo.stat_if_exists(&kept_name)? };
        match &intent.change {
            Change::Create { new, .. } => {
                Ok(if found.stands(new) { End::Done(found.ctime()) } else { End::Abandoned })
            }
            Change::Replace { old, is_kept, new, .. } => {
                self.decide_replaced(&found, old, *is_kept, new, place.as_ref(), &kept_name)
            }
            Change::Remove { old, is_kept } => {
                self.decide_removed(&found, old, *is_kept, place.as_ref(), &kept_name)
            }
            Change::Metadata { .. } => Ok(End::Done(None)),
        }
    }

    fn decide_replaced(
        &self,
        found: &Found,
        old: &Entry,
        is_kept: bool,
        new: &Entry,
        place: Option<&(Dir, Name)>,
        kept_name: &Name,
    ) -> Result<End, Broken> {
        if found.stands(new) {
            return match &found.kept {
                // An exchange took what was not to be taken: it goes back.
                Some(kept) if !is_same_content(old, kept) && !found.keeps(new) => {
                    let Some((parent, name)) = place else { return Ok(End::Abandoned) };
                    self.kill.pass()?;
                    self.stage.undo.rename_exchange(kept_name, parent, name)?;
                    self.drop_kept(kept_name)
                }
                Some(_) if !is_kept => self.drop_kept(kept_name).map(|_dropped| End::Done(found.ctime())),
                Some(_) | None => Ok(End::Done(found.ctime())),
            };
        }
        if found.keeps(new) || found.stands(old) {
            // Before the exchange; or, without one, the old one only has a further name in `undo/`.
            return self.drop_kept(kept_name);
        }
        if found.keeps(old) {
            return self.decide_taken(found, place, kept_name, is_kept);
        }
        Ok(End::Abandoned)
    }

    fn decide_removed(
        &self,
        found: &Found,
        old: &Entry,
        is_kept: bool,
        place: Option<&(Dir, Name)>,
        kept_name: &Name,
    ) -> Result<End, Broken> {
        match &found.kept {
            None => Ok(End::Abandoned),
            Some(kept) if is_same_content(old, kept) && !self.holds_entries(old, kept_name)? => {
                if is_kept {
                    return Ok(End::Done(None));
                }
                self.drop_kept(kept_name).map(|_dropped| End::Done(None))
            }
            Some(_other) => self.decide_taken(found, place, kept_name, is_kept),
        }
    }

    /// Something was taken away and nothing put in its place: it goes back, unless somebody else is there by now.
    fn decide_taken(
        &self,
        found: &Found,
        place: Option<&(Dir, Name)>,
        kept_name: &Name,
        is_kept: bool,
    ) -> Result<End, Broken> {
        let Some((parent, name)) = place else { return Ok(End::Done(None)) };
        if found.at_path.is_some() {
            if is_kept {
                return Ok(End::Done(None));
            }
            return self.drop_kept(kept_name).map(|_dropped| End::Done(None));
        }
        self.kill.pass()?;
        put_back(&self.stage.undo, kept_name, parent, name, self.has_noreplace)?;
        Ok(End::PutBack(parent.stat_if_exists(name)?.map(|stat| time(stat.ctime))))
    }

    fn holds_entries(&self, old: &Entry, kept_name: &Name) -> Result<bool, TreeError> {
        if !old.kind.is_directory() {
            return Ok(false);
        }
        Ok(!super::perform::is_empty(&self.stage.undo.open_dir(kept_name)?)?)
    }

    /// Removes what was left in `undo/` and is not to be kept.
    fn drop_kept(&self, kept_name: &Name) -> Result<End, Broken> {
        self.kill.pass()?;
        self.stage.undo.remove_tree(kept_name)?;
        Ok(End::Abandoned)
    }
}
