//! Where a change goes, and what has to be known before the first one: the rename domain of its place, and how the
//! directory looks in which it happens.

use common::failure::Failure;
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use sync::entry::Entry;

use super::committing::unwritable;
use super::ending::Candidate;
use super::plan::{Later, Planner};
use super::{Item, Landing, Pass};
use crate::backup;
use crate::commit::{Effect, Seen};
use crate::domain::{DomainId, HOME};
use crate::domains::Refusal;
use crate::in_the_way::{Fate, Reason, fate, is_in_the_way};
use crate::ledger::History;
use crate::standing::look_at_self;
use crate::trouble::{is_fatal, of_stage};

/// Rename domains in which something is on its way: each takes a descriptor for every thread that stages there.
const DOMAINS_IN_FLIGHT_MAX: usize = 64;

impl Planner<'_> {
    /// To be called before anything at a path of the open directory is changed: returns its rename domain, in which there
    /// is a stage from now on. Nothing when there can be none; that was told then, and the path is not to be brought.
    pub(super) fn prepare(&mut self, path: &RelPath) -> Result<Option<DomainId>, Failure> {
        // First the stage: the directory's times are looked at when they are as they were again.
        let domain = self.domain_of(path)?;
        if let Some(domain) = domain {
            self.touch(domain)?;
        }
        Ok(domain)
    }

    /// Returns the rename domain of an entry's place.
    pub(super) fn domain_of(&mut self, path: &RelPath) -> Result<Option<DomainId>, Failure> {
        let parent = path.split().map(|(parent, _name)| parent).unwrap_or_default();
        match self.pass.stage.domains.ensure(&parent) {
            Ok(domain) if domain != HOME && self.pass.params.rules.backup_dir.is_some() => {
                no_stage(
                    self.pass,
                    path,
                    "the backup directory is on the root's file system, and no version could be kept",
                );
                Ok(None)
            }
            Ok(domain) => self.enter(domain).map(|()| Some(domain)),
            Err(Refusal::Failure(failure)) => Err(failure),
            Err(Refusal::NoStage { why, is_made_up: _ }) => {
                no_stage(self.pass, path, &why);
                Ok(None)
            }
        }
    }

    /// Says whether what stands there may be replaced; a directory only when it is empty by then.
    pub(super) fn replaceable(
        &mut self,
        path: &RelPath,
        source: &Entry,
        destination: Entry,
        history: Option<&History>,
    ) -> Result<Option<Seen>, Failure> {
        let is_ours = history.is_some_and(|history| history.is_ours(&destination));
        if !is_in_the_way(&destination, source) {
            return Ok(Some(Seen { entry: destination, is_ours }));
        }
        let domains = &self.pass.stage.domains;
        match fate(&self.pass.stage.root, path, &self.pass.params, domains.is_above_stage(path)) {
            Ok(Fate::Replaced) => {}
            Ok(Fate::Emptied) => self.emptied += 1,
            Ok(Fate::Stays(reason)) => {
                self.whole.mark_or_parent(path);
                stays(self.pass, path, source, reason);
                return Ok(None);
            }
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => {
                self.whole.mark_or_parent(path);
                unwritable(self.pass, path, &error);
                return Ok(None);
            }
        }
        Ok(Some(Seen { entry: destination, is_ours }))
    }

    /// Says whether nothing is in the way of an entry by now; tells if something is.
    pub(super) fn is_place_free(
        &self,
        path: &RelPath,
        source: &Entry,
        seen: Option<&Seen>,
    ) -> Result<bool, Failure> {
        if !seen.is_some_and(|seen| is_in_the_way(&seen.entry, source)) {
            return Ok(true);
        }
        match fate(&self.pass.stage.root, path, &self.pass.params, false) {
            Ok(Fate::Replaced) => return Ok(true),
            Ok(Fate::Emptied) => stays(self.pass, path, source, Reason::NotEmptied),
            Ok(Fate::Stays(reason)) => stays(self.pass, path, source, reason),
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => unwritable(self.pass, path, &error),
        }
        Ok(false)
    }

    /// To be called before something is staged in a domain: waits until what is on its way in others has landed, if they
    /// are many, for each costs descriptors.
    pub(super) fn enter(&mut self, domain: DomainId) -> Result<(), Failure> {
        if domain == HOME || !self.in_flight.insert(domain) || self.in_flight.len() <= DOMAINS_IN_FLIGHT_MAX {
            return Ok(());
        }
        self.pass.flow.wait_until_idle()?;
        self.in_flight = [domain].into();
        Ok(())
    }

    pub(super) fn extra(&mut self, destination: Entry) -> Result<(), Failure> {
        let path = self.path_of(&destination.name)?;
        self.likenesses.see(&path, &destination, true);
        // A stage that was made while this directory was listed had no marker yet.
        if !self.pass.params.delete || self.whole.holds(&path) || self.pass.stage.domains.is_in_stage(&path) {
            return Ok(());
        }
        if backup::stays(&self.pass.params.rules, &path) {
            return Ok(());
        }
        // What is mounted below the root stays, and a directory in which something is mounted stays with it.
        if self.only_device.is_some_and(|device| device != destination.dev) {
            return Ok(());
        }
        let Some(domain) = self.prepare(&path)? else { return Ok(()) };
        let history = self.histories.find(&path)?;
        let is_ours = history.is_some_and(|history| history.is_ours(&destination));
        self.candidates.write(&Candidate::Entry { path, domain, entry: destination, is_ours })
    }

    /// Before the first change of what a directory of the destination holds: records how it looks, and has its times
    /// set back at the end.
    fn touch(&mut self, domain: DomainId) -> Result<(), Failure> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.is_touched || !open.is_at_destination {
            return Ok(());
        }
        open.is_touched = true;
        let (path, is_at_source) = (open.path.clone(), open.is_at_source);
        let dir = match self.pass.stage.root.open_beneath(path.as_bytes()) {
            Ok(dir) => dir,
            // It is gone since the scan; what was to be changed in it will say so.
            Err(error) if error.is_not_found() || error.is_wrong_kind() => return Ok(()),
            Err(error) => return Err(of_stage(&error)),
        };
        let mut seen = look_at_self(&dir).map_err(|error| of_stage(&error))?;
        seen.name = path.split().map(|(_parent, name)| name.to_vec()).unwrap_or_default();
        if is_at_source && !path.is_root() {
            self.directories.write(&Later { path: path.clone(), wanted: seen.clone() })?;
        }
        self.send(Item::new(path, domain, Effect::Touch { seen: Box::new(seen) }, Landing::Touch))
    }
}

/// Tells that nothing can be changed in a rename domain.
pub(super) fn no_stage(pass: &Pass, path: &RelPath, why: &str) {
    pass.except(
        Rule::Unwritable,
        Severity::Error,
        path,
        format!("it is on another file system below the root, in which no stage can be made: {why}"),
        "Mount it writable for the agent, or leave it out with --exclude.",
    );
}

/// Tells that a directory stays where something else shall be.
fn stays(pass: &Pass, path: &RelPath, wanted: &Entry, reason: Reason) {
    pass.except(Rule::InTheWay, Severity::Error, path, reason.message(wanted), reason.hint());
}
