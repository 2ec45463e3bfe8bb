//! All rename domains of a root in which this migration changes anything, each with its stage.
//!
//! A domain gets its stage when the first change in it is planned: a directory like the root's stage, in the topmost
//! directory of the domain. Before it is made, its place and name are recorded durably in the root's stage, in the file
//! `domains`; so whoever finds the root's stage, also an agent that remembers nothing, finds all others. Only the agent's
//! user can write that record, so it is as good a proof as what the agent remembers of the root's stage: a domain's stage
//! is used only if name, inode, owner, mode and marker agree with it.
//!
//! Only the planner makes stages, inside of the fence; so nobody looks at a directory's times while they are about to be
//! set back. Other threads know a domain by its number. The fence is entered before the lock is taken, never the reverse.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use common::rel_path::RelPath;
use tree::{Dir, Name, RenameDomain, TreeError};

use crate::context::LeaseGuard;
use crate::domain::{Disk, Domain, DomainId, HOME};
use crate::fence::Fence;
use crate::kill_point::KillPoint;
use crate::stage::{Marker, fill, open_valid, random_name, restore_mtime};
use crate::standing::look_at_self;
use crate::trouble::{is_fatal, of_stage};

mod registry;
mod removal;

use registry::{Record, Registry};

/// Stages that are held open, each with six descriptors; of others only the number is known until they are needed.
const HELD_MAX: usize = 32;
/// Directories whose domain is remembered.
const DIRECTORIES_MAX: usize = 4096;
/// How long their paths may be together: one alone may take a mebibyte.
const DIRECTORIES_BYTES_MAX: usize = 1024 * 1024;

/// The domains of a root; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Domains(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    migration: MigrationId,
    root: Dir,
    /// The root's stage, in which the record is.
    stage: Dir,
    stage_name: Name,
    home: Arc<Domain>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    registry: Registry,
    guard: Option<Guard>,
    /// Domains of this boot, by what tells them apart.
    known: BTreeMap<RenameDomain, DomainId>,
    /// Where no stage can be made, why, and whether the kernel makes it up.
    refused: BTreeMap<RenameDomain, (String, bool)>,
    /// The last used first.
    held: VecDeque<Arc<Domain>>,
    disks: BTreeMap<String, Arc<Disk>>,
    directories: HashMap<RelPath, DomainId>,
    /// How long the paths of these are together.
    directories_bytes: usize,
}

/// Under what stages are made.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) fence: Fence,
    pub(crate) lease: LeaseGuard,
    pub(crate) kill: KillPoint,
}

/// Why something cannot be changed in a domain.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The step cannot go on.
    Failure(Failure),
    /// No stage can be made there: the entries of this domain are not brought.
    NoStage {
        /// Why, for people.
        why: String,
        /// Whether it is a file system that the kernel makes up.
        is_made_up: bool,
    },
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        if is_fatal(&error) {
            Self::Failure(of_stage(&error))
        } else {
            Self::NoStage { why: common::failure::chain(&error), is_made_up: false }
        }
    }
}

impl Domains {
    /// Reads what is recorded in the root's stage.
    pub(crate) fn open(
        root: Dir,
        stage: Dir,
        stage_name: Name,
        migration: MigrationId,
    ) -> Result<Self, Failure> {
        let open_home = || {
            let disk = Arc::new(Disk::of(&stage)?);
            Domain::open(HOME, stage_name.to_string(), &stage, root.rename_domain()?, disk).map(Arc::new)
        };
        let home = open_home().map_err(|error| of_stage(&error))?;
        let state = State {
            registry: Registry::read(&stage)?,
            known: [(home.key(), HOME)].into(),
            disks: [(home.disk.id.clone(), Arc::clone(&home.disk))].into(),
            ..State::default()
        };
        Ok(Self(Arc::new(Shared { migration, root, stage, stage_name, home, state: Mutex::new(state) })))
    }

    /// Returns the root's own domain.
    pub(crate) fn home(&self) -> &Arc<Domain> {
        &self.0.home
    }

    /// Finds all stages that are recorded, and allows that further ones are made; inside of the fence.
    ///
    /// # Errors
    /// `Conflict` when one of those that are `needed` is not there: its file system is not mounted, or somebody moved it.
    pub(crate) fn begin(&self, guard: Guard, needed: &BTreeSet<DomainId>) -> Result<(), Failure> {
        let mut state = self.lock();
        state.guard = Some(guard);
        // Whoever held the fence before may have made further ones since.
        state.registry = Registry::read(&self.0.stage)?;
        for id in state.registry.ids() {
            let Some(record) = state.registry.get(id).cloned() else { continue };
            match self.find(&mut state, id, &record) {
                Ok(Some(domain)) => {
                    state.known.entry(domain.key()).or_insert(id);
                    state.hold(domain);
                }
                Ok(None) if needed.contains(&id) => return Err(missing(&record)),
                Ok(None) => state.registry.forget(id),
                Err(error) => return Err(of_stage(&error)),
            }
        }
        Ok(())
    }

    /// Returns the domain of what is in a directory, or will be when it is made; gives it a stage if it has none.
    ///
    /// For the planner's thread only.
    pub(crate) fn ensure(&self, directory: &RelPath) -> Result<DomainId, Refusal> {
        if let Some(id) = self.lock().directories.get(directory) {
            return Ok(*id);
        }
        let (place, dir) = self.nearest(directory)?;
        let key = dir.rename_domain()?;
        let known = self.lock().outcome(&key);
        let id = match known {
            Some(outcome) => outcome?,
            None => self.make(place, dir, key)?,
        };
        self.lock().remember(directory, id);
        Ok(id)
    }

    /// Forgets which directory is where, because a rename did not reach: something was mounted, or has a project now.
    pub(crate) fn forget_directories(&self) {
        self.lock().forget_directories();
    }

    /// Returns a domain by its number.
    ///
    /// # Errors
    /// `Conflict` when its stage is not there any more.
    pub(crate) fn get(&self, id: DomainId) -> Result<Arc<Domain>, Failure> {
        if id == HOME {
            return Ok(Arc::clone(&self.0.home));
        }
        let mut state = self.lock();
        if let Some(at) = state.held.iter().position(|domain| domain.id == id)
            && let Some(domain) = state.held.remove(at)
        {
            state.held.push_front(Arc::clone(&domain));
            return Ok(domain);
        }
        let record = state.registry.get(id).cloned();
        let record = record.ok_or_else(|| {
            Failure::new(FailureKind::Bug, format!("the stage knows no rename domain {id}"))
        })?;
        let found = self.find(&mut state, id, &record).map_err(|error| of_stage(&error))?;
        let domain = found.ok_or_else(|| missing(&record))?;
        state.hold(Arc::clone(&domain));
        Ok(domain)
    }

    /// Returns the numbers of all domains that have a stage.
    pub(crate) fn all(&self) -> Vec<DomainId> {
        std::iter::once(HOME).chain(self.lock().registry.ids()).collect()
    }

    /// Makes everything durable in every file system in which this process has worked.
    pub(crate) fn sync_all(&self) -> Result<(), Failure> {
        let disks: Vec<Arc<Disk>> = self.lock().disks.values().cloned().collect();
        disks.iter().try_for_each(|disk| disk.durable.all())
    }

    /// Drops all partial files, as far as that is possible: they may hold what could not be written.
    pub(crate) fn clear_large(&self) {
        for id in self.all() {
            if let Ok(domain) = self.get(id) {
                crate::stage::clear(&domain.large).ok();
            }
        }
    }

    /// Whether a path is a stage of this migration, or in one.
    pub(crate) fn is_in_stage(&self, path: &RelPath) -> bool {
        path.components().any(|name| self.is_stage_name(name))
    }

    /// Whether a name is that of a stage of this migration.
    pub(crate) fn is_stage_name(&self, name: &[u8]) -> bool {
        // Only what looks like one is worth taking the lock.
        name.starts_with(crate::stage::PREFIX.as_bytes())
            && (name == self.0.stage_name.as_bytes() || self.lock().registry.has_name(name))
    }

    /// Whether a stage stands in this directory or below it, but for the root's.
    pub(crate) fn is_above_stage(&self, directory: &RelPath) -> bool {
        self.lock().registry.is_above(directory)
    }

    /// Finds the nearest directory at or above a path that is there.
    fn nearest(&self, directory: &RelPath) -> Result<(RelPath, Dir), TreeError> {
        let mut place = directory.clone();
        loop {
            match self.0.root.open_beneath(place.as_bytes()) {
                Err(error) if error.is_not_found() || error.is_wrong_kind() => match place.split() {
                    Some((parent, _name)) => place = parent,
                    None => return Err(error),
                },
                opened => return opened.map(|dir| (place, dir)),
            }
        }
    }

    /// Makes the stage of a domain in its topmost directory; notes it when none can be made there.
    fn make(&self, place: RelPath, dir: Dir, key: RenameDomain) -> Result<DomainId, Refusal> {
        let made =
            self.top_of_domain(place, dir, key).and_then(|(place, top)| self.make_in(place, &top, key));
        if let Err(Refusal::NoStage { why, is_made_up }) = &made {
            self.lock().refused.insert(key, (why.clone(), *is_made_up));
        }
        made
    }

    /// Returns the topmost directory of a domain, going up from one in it.
    fn top_of_domain(
        &self,
        mut place: RelPath,
        mut top: Dir,
        key: RenameDomain,
    ) -> Result<(RelPath, Dir), Refusal> {
        while let Some((parent, _name)) = place.split() {
            let above = self.0.root.open_beneath(parent.as_bytes())?;
            if above.rename_domain()? != key {
                break;
            }
            (place, top) = (parent, above);
        }
        if let Some(made_up) = top.file_system()?.filter(tree::FileSystem::is_pseudo) {
            let why = format!("the kernel makes up what is in a file system of type {}", made_up.fs_type);
            return Err(Refusal::NoStage { why, is_made_up: true });
        }
        // A read-only file system says so before anything is recorded.
        top.check_writable()?;
        Ok((place, top))
    }

    fn make_in(&self, place: RelPath, top: &Dir, key: RenameDomain) -> Result<DomainId, Refusal> {
        let guard = self.lock().guard.clone();
        let Guard { fence, lease, kill } = guard
            .ok_or_else(|| Failure::new(FailureKind::Bug, "a stage is to be made outside of an attempt"))?;
        lease.check()?;
        // Before the lock: whoever is inside of the fence asks for domains by their numbers.
        let _inside = fence.enter()?;
        let mut state = self.lock();
        let name = random_name(&self.0.migration)?;
        let record = Record::new(place, &name, look_at_self(top)?.mtime);
        kill.pass()?;
        let id = state.registry.begin(&self.0.stage, record.clone())?;
        match self.complete(&mut state, id, &record, top, &kill) {
            Ok(domain) => {
                state.known.insert(key, id);
                state.hold(domain);
                Ok(id)
            }
            Err(refusal) => {
                state.registry.forget(id);
                if kill.pass().is_ok() {
                    // Nothing was done under it. What cannot be removed is told by the refusal, not by a second one.
                    top.remove_tree(&name).ok();
                    restore_mtime(top, record.mtime).ok();
                }
                Err(refusal)
            }
        }
    }

    /// Makes a stage that is recorded; where an attempt was killed on the way, what it left is taken.
    fn complete(
        &self,
        state: &mut State,
        id: DomainId,
        record: &Record,
        top: &Dir,
        kill: &KillPoint,
    ) -> Result<Arc<Domain>, Refusal> {
        let name = record.name();
        kill.pass()?;
        let dir = match top.open_dir(&name) {
            Err(error) if error.is_not_found() => top.create_dir(&name, crate::stage::MODE)?,
            opened => opened?,
        };
        if dir.stat_self()?.uid != rustix::process::geteuid().as_raw() {
            let why = "a directory of somebody else has the stage's name".to_owned();
            return Err(Refusal::NoStage { why, is_made_up: false });
        }
        kill.pass()?;
        let mut before = look_at_self(top)?;
        before.mtime = record.mtime;
        fill(&dir, &Marker::of_domain(&self.0.migration, before, &self.0.stage_name))?;
        let disk = state.disk(&dir)?;
        let domain = Domain::open(id, record.shown(), &dir, top.rename_domain()?, disk)?;
        kill.pass()?;
        restore_mtime(top, record.mtime)?;
        top.sync_dir()?;
        kill.pass()?;
        state.registry.made(&self.0.stage, id, dir.stat_self()?.ino)?;
        Ok(Arc::new(domain))
    }

    /// Finds a stage that is recorded; nothing if it is not there.
    fn find(
        &self,
        state: &mut State,
        id: DomainId,
        record: &Record,
    ) -> Result<Option<Arc<Domain>>, TreeError> {
        let Some(top) = self.top_of(record)? else { return Ok(None) };
        if record.is_leaving {
            return Ok(None);
        }
        if record.ino.is_none() {
            // An attempt was killed while it made it. If that cannot be done now, nothing is lost: it is empty.
            return Ok(self.complete(state, id, record, &top, &KillPoint::default()).ok());
        }
        let Some(dir) = self.open_stage(&top, record)? else { return Ok(None) };
        let disk = state.disk(&dir)?;
        Domain::open(id, record.shown(), &dir, top.rename_domain()?, disk)
            .map(|domain| Some(Arc::new(domain)))
    }

    fn top_of(&self, record: &Record) -> Result<Option<Dir>, TreeError> {
        match self.0.root.open_beneath(record.top.as_bytes()) {
            Ok(top) => Ok(Some(top)),
            Err(error) if error.is_not_found() || error.is_wrong_kind() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a stage if all that is recorded of it agrees.
    fn open_stage(&self, top: &Dir, record: &Record) -> Result<Option<Dir>, TreeError> {
        let Ok(Some((dir, marker))) = open_valid(top, &record.name()) else { return Ok(None) };
        let is_it = marker.migration == self.0.migration
            && marker.is_of(&self.0.stage_name)
            && record.ino.is_none_or(|ino| dir.stat_self().is_ok_and(|stat| stat.ino == ino));
        Ok(is_it.then_some(dir))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above leaves a whole state; a thread that panicked has failed the pass.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers the domain of a directory.
    fn remember(&mut self, directory: &RelPath, id: DomainId) {
        let bytes = directory.as_bytes().len();
        if self.directories.len() >= DIRECTORIES_MAX || self.directories_bytes + bytes > DIRECTORIES_BYTES_MAX
        {
            self.forget_directories();
        }
        self.directories_bytes += bytes;
        self.directories.insert(directory.clone(), id);
    }

    fn forget_directories(&mut self) {
        self.directories.clear();
        self.directories_bytes = 0;
    }

    /// Returns what is known of a domain: its number, or why it has none.
    fn outcome(&self, key: &RenameDomain) -> Option<Result<DomainId, Refusal>> {
        if let Some(id) = self.known.get(key) {
            return Some(Ok(*id));
        }
        let (why, is_made_up) = self.refused.get(key)?;
        Some(Err(Refusal::NoStage { why: why.clone(), is_made_up: *is_made_up }))
    }

    fn hold(&mut self, domain: Arc<Domain>) {
        self.held.push_front(domain);
        self.held.truncate(HELD_MAX);
    }

    /// Returns the file system of a directory, the same for all of its domains.
    fn disk(&mut self, dir: &Dir) -> Result<Arc<Disk>, TreeError> {
        let disk = Disk::of(dir)?;
        let known = self.disks.entry(disk.id.clone()).or_insert_with(|| Arc::new(disk));
        Ok(Arc::clone(known))
    }
}

fn missing(record: &Record) -> Failure {
    Failure::new(
        FailureKind::Conflict,
        format!("the stage `{}` of this migration is no longer there", record.shown()),
    )
    .context("path", record.top.to_string())
    .hint(
        "What was there before is in that stage. If a file system is not mounted there now, mount it; if somebody moved \
         the stage, move it back; then retry.",
    )
}
