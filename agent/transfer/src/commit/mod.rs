//! The one writer of the live tree.
//!
//! A group of tasks is carried out like this: its file systems are synced, and those of the group before it, which makes
//! the group's staged entries durable and the names of the group before it → the ends of the group before and the intents of this one are appended and
//! synced → each task is done under the fence. What a crash leaves after each arrow is in `DESIGN.md`; [`recover`]
//! decides by inode on which side an intent stands.

pub(crate) mod durable;
mod perform;
mod recover;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use common::failure::Failure;
use common::fence::FencingToken;
use common::rel_path::RelPath;
use sync::stamp::Time;
use tree::{Dir, Name, TreeError};

use crate::context::LeaseGuard;
use crate::domain::{Disk, Domain, Renames};
use crate::domains::Guard;
use crate::fence::{Fence, Inside};
use crate::kill_point::KillPoint;
use crate::ledger::{Ledger, SettledRecords};
use crate::opened::Opened;
use crate::passes::Passes;
use crate::stage::Stage;
use crate::trouble::of_stage;

use durable::{Names, of_sync};

pub(crate) use task::{Effect, Outcome, Seen, Staged, Task};

/// Held directories: a group rarely touches more, and a descriptor is a scarce thing.
const PARENTS_HELD_MAX: usize = 256;

/// Carries out groups of tasks on one root.
#[derive(Debug)]
pub(crate) struct Committer {
    stage: Stage,
    fence: Fence,
    ledger: Ledger,
    lease: LeaseGuard,
    kill: KillPoint,
    parents: HashMap<RelPath, Dir>,
    /// How the tasks of the last group ended: told to the ledger once their names are durable.
    ended: Vec<(u64, End)>,
    /// The file systems in which they happened.
    unsynced: BTreeMap<String, Arc<Disk>>,
    /// What they changed, where everything is synced by itself.
    names: Names,
    /// Whether what is changed now is to be noted there.
    is_noting: bool,
    is_without_exchange: bool,
    can_chown: bool,
    /// Read-only directories in which the present group works.
    opened: Opened,
}

/// How a task ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Done(Option<Time>),
    Abandoned,
}

impl Committer {
    /// Puts up the fence, opens the ledger, and settles what an earlier attempt left half done.
    pub(crate) fn open(
        stage: Stage,
        token: FencingToken,
        lease: LeaseGuard,
        kill: KillPoint,
    ) -> Result<Self, Failure> {
        lease.check()?;
        kill.pass()?;
        let (fence, inside) = Fence::claim(&stage.dir, token)?;
        let (ledger, unsettled) = Ledger::open(&stage.dir, Passes::read(&stage.dir)?.ledger_bytes())?;
        let guard = Guard { fence: fence.clone(), lease: lease.clone(), kill: kill.clone() };
        stage.domains.begin(guard, ledger.domains())?;
        kill.set_sync(&stage.home.disk.durable);
        let mut committer = Self {
            stage,
            fence,
            ledger,
            lease,
            kill,
            parents: HashMap::new(),
            ended: Vec::new(),
            unsynced: BTreeMap::new(),
            names: Names::default(),
            is_noting: false,
            is_without_exchange: false,
            can_chown: rustix::process::geteuid().is_root(),
            opened: Opened::default(),
        };
        committer.recover(unsettled)?;
        drop(inside);
        Ok(committer)
    }

    /// Works as on a file system without the newer renames.
    #[cfg(test)]
    pub(crate) fn without_exchange(mut self) -> Self {
        self.is_without_exchange = true;
        self
    }

    /// Returns the stage.
    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Returns where a test may stop or hold it.
    pub(crate) fn kill_point(&self) -> KillPoint {
        self.kill.clone()
    }

    /// Returns the greatest number of a pass that did anything here.
    pub(crate) fn last_pass(&self) -> u32 {
        self.ledger.last_pass()
    }

    /// Returns how long the ledger is.
    pub(crate) fn ledger_bytes(&self) -> u64 {
        self.ledger.length_bytes()
    }

    /// Returns what was carried out so far.
    pub(crate) fn settled(&self) -> Result<SettledRecords, Failure> {
        self.ledger.settled()
    }

    /// Enters the fence for effects outside of groups.
    pub(crate) fn enter(&self) -> Result<Inside, Failure> {
        self.lease.check()?;
        self.fence.enter()
    }

    /// Carries out a group in its order and says what became of each task.
    ///
    /// # Errors
    /// When the group could not be finished: the lease or the fence is lost, the ledger cannot be written, or a sync
    /// failed. What was carried out is found by the next [`Committer::open`].
    pub(crate) fn commit(&mut self, pass: u32, group: Vec<Task>) -> Result<Vec<Outcome>, Failure> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        self.kill.hold(|| self.lease.check().is_err());
        self.lease.check()?;
        self.kill.pass()?;
        self.sync(&group)?;
        let inside = self.fence.enter()?;
        self.gather_ends()?;
        let mut tasks = Vec::with_capacity(group.len());
        for task in group {
            let change = task.effect.change();
            tasks.push((self.ledger.intend(pass, task.domain, task.path.clone(), change)?, task));
        }
        self.kill.pass()?;
        self.ledger.append()?;
        self.kill.pass()?;
        self.ledger.sync()?;
        // The lease may have been lost while the disk was busy.
        self.lease.check()?;
        let mut outcomes = Vec::with_capacity(tasks.len());
        for (seq, task) in &tasks {
            let outcome = self.perform(*seq, task)?;
            self.ended.push((
                *seq,
                match &outcome {
                    Outcome::Done { ctime, .. } => End::Done(*ctime),
                    Outcome::Conflict | Outcome::Failed(_) => End::Abandoned,
                },
            ));
            outcomes.push(outcome);
        }
        self.opened.close().map_err(|error| of_stage(&error))?;
        drop(inside);
        Ok(outcomes)
    }

    /// Makes the names and the ends of the last group durable; the next group would do so too.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.kill.pass()?;
        self.sync(&[])?;
        let inside = self.fence.enter()?;
        self.gather_ends()?;
        self.kill.pass()?;
        self.ledger.append()?;
        self.kill.pass()?;
        self.ledger.sync()?;
        drop(inside);
        Ok(())
    }

    /// Makes durable what is staged for a group, and the names of the group before it: each file system once.
    fn sync(&mut self, group: &[Task]) -> Result<(), Failure> {
        if self.kill.is_sync_left_out() {
            return Ok(());
        }
        let synced = self.sync_disks(group);
        if synced.is_err() {
            // What comes next must not believe in partial files that the kernel could not write; the failure tells.
            self.stage.domains.clear_large();
        }
        synced
    }

    fn sync_disks(&mut self, group: &[Task]) -> Result<(), Failure> {
        let mut waiting = BTreeSet::new();
        let mut disks = std::mem::take(&mut self.unsynced);
        for task in group {
            let domain = self.stage.domains.get(task.domain)?;
            let disk = &domain.disk;
            if let Effect::Install { staged, .. } = &task.effect {
                if !staged.is_synced {
                    waiting.insert(disk.id.clone());
                }
                if disk.durable.is_by_file() {
                    let noted =
                        [&staged.dir, &domain.undo].into_iter().try_for_each(|dir| self.names.note(dir));
                    noted.map_err(|error| of_sync(&error))?;
                }
            }
            if !self.unsynced.contains_key(&disk.id) {
                self.unsynced.insert(disk.id.clone(), Arc::clone(disk));
            }
        }
        disks.extend(self.unsynced.clone());
        let has_others = self.names.sync()?;
        for (id, disk) in disks {
            disk.durable.group(!has_others && !waiting.contains(&id))?;
        }
        Ok(())
    }

    /// Returns which of the newer renames are used in a domain.
    fn renames(&self, domain: &Domain) -> Result<Renames, Failure> {
        if self.is_without_exchange {
            return Ok(Renames { exchange: false, noreplace: false });
        }
        domain.renames()
    }

    /// Gathers the ends of the last group for the ledger.
    fn gather_ends(&mut self) -> Result<(), Failure> {
        for (seq, end) in std::mem::take(&mut self.ended) {
            match end {
                End::Done(ctime) => self.ledger.done(seq, ctime)?,
                End::Abandoned => self.ledger.abandon(seq)?,
            }
        }
        Ok(())
    }

    /// Reaches the directory that holds a path.
    fn parent(&mut self, path: &RelPath) -> Result<(Dir, Name), TreeError> {
        let Some((parent, name)) = path.split() else {
            // The root itself is only ever worked on as a held directory.
            return Ok((self.stage.root.clone(), root_name()));
        };
        let name = Name::new(name).expect("a component of a path is a name");
        if let Some(dir) = self.parents.get(&parent).cloned() {
            self.note(&dir)?;
            return Ok((dir, name));
        }
        let dir = self.stage.root.open_beneath(parent.as_bytes())?;
        self.note(&dir)?;
        if self.parents.len() >= PARENTS_HELD_MAX {
            self.parents.clear();
        }
        self.parents.insert(parent, dir.clone());
        Ok((dir, name))
    }

    /// Notes a directory in which a name is going to be changed.
    fn note(&mut self, dir: &Dir) -> Result<(), TreeError> {
        if self.is_noting { self.names.note(dir) } else { Ok(()) }
    }

    /// Has names be changed in a directory that its own mode closes to us; root needs no mode.
    fn open_for_writing(&mut self, dir: &Dir) -> Result<(), TreeError> {
        if self.can_chown { Ok(()) } else { self.opened.open(dir) }
    }

    /// Forgets held directories, because one of them may have another name now.
    fn forget_parents(&mut self) {
        self.parents.clear();
    }
}

/// The place in a domain's `undo/` under the number of a record.
struct Slot<'a> {
    domain: &'a Domain,
    name: Name,
}

impl<'a> Slot<'a> {
    fn new(domain: &'a Domain, seq: u64) -> Self {
        Self { domain, name: kept_name(seq) }
    }

    fn undo(&self) -> &'a Dir {
        &self.domain.undo
    }
}

/// Names what is kept of the old under a record's number.
pub(crate) fn kept_name(seq: u64) -> Name {
    Name::new(format!("{seq:016x}")).expect("digits are a name")
}

fn root_name() -> Name {
    Name::new("root").expect("a constant without slash")
}
