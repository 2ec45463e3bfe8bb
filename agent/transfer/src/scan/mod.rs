//! Walking a tree: parallel, in order, in bounded memory.
//!
//! Worker threads read directories ahead of whoever takes the listings, always the one next that will be needed
//! first. Directories are kept by their paths, whose order is that of the walk, so the listing to hand out is the one
//! with the least path of all that are waiting, under way, or done:
//!
//! ```text
//! waiting ──worker──▶ active (parts come, children go to waiting) ──least path──▶ next()
//! ```
//!
//! Workers stop ahead when so many bytes of listings are ready, except at the least path, so that there is always one
//! to hand out. Directories with very many names are sorted in spill files, and their many sub-directories wait there.
//!
//! Guarantees: the order of [`sync::listing`], each directory once, an entry that stands there during the whole walk is
//! seen. It does not follow links, and says of a directory whether it was seen whole. What cannot be looked at is a
//! problem inside of a listing; only spill files that cannot be written, and a bug, end a walk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;
use sync::filter::Filter;
use sync::listing::{Listing, ListingEnd};
use tree::Dir;

mod feeder;
pub(crate) mod look;
mod names;
mod walk;

use feeder::Feeder;

/// Listings that are read ahead, in bytes as they are encoded: about three times that in memory.
const AHEAD_BYTES: usize = 3 * 1024 * 1024;
/// More threads than this wait for each other at the directory locks of one disk.
const WORKERS_MAX: usize = 8;

/// What and how to walk.
#[derive(Clone, Debug)]
pub struct ScanSettings {
    /// What is left out.
    pub filter: Filter,
    /// Threads that read.
    pub workers: usize,
    /// Where temporary files are made for directories that are too large for memory.
    pub spill_dir: PathBuf,
}

/// A walk under way; yields listings in order. Dropping it stops and joins its threads.
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: Dir,
    settings: ScanSettings,
    state: Mutex<State>,
    /// Told when a worker may have something to do.
    work: Condvar,
    /// Told when a listing may be ready.
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<RelPath, Waiting>,
    active: BTreeMap<RelPath, Active>,
    running: usize,
    ready_bytes: usize,
    is_stopped: bool,
    failure: Option<Failure>,
}

/// What has to be read.
#[derive(Debug)]
enum Waiting {
    Directory,
    /// Stands for its first directory and all that follow in one parent.
    Feeder(Box<Feeder>),
}

/// A directory that is being read, or was read and not handed out yet.
#[derive(Debug, Default)]
struct Active {
    parts: VecDeque<Listing>,
    is_finished: bool,
}

impl Scan {
    /// Begins to walk below a root.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(root: Dir, settings: ScanSettings) -> Result<Self, Failure> {
        let count = settings.workers.clamp(1, WORKERS_MAX);
        let mut state = State::default();
        state.waiting.insert(RelPath::root(), Waiting::Directory);
        let shared = Arc::new(Shared {
            root,
            settings,
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
        });
        let mut scan = Self { shared, workers: Vec::with_capacity(count) };
        for _ in 0..count {
            let shared = Arc::clone(&scan.shared);
            let worker = std::thread::Builder::new().name("scan".to_owned()).spawn(move || work(&shared));
            scan.workers.push(worker.map_err(|error| Failure::of(FailureKind::Exhausted, &error))?);
        }
        Ok(scan)
    }
}

impl Iterator for Scan {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Some(Err(failure.clone()));
            }
            if state.waiting.is_empty() && state.active.is_empty() {
                return None;
            }
            if let Some(listing) = state.take_ready() {
                self.shared.work.notify_all();
                return Some(Ok(listing));
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.shared.lock().is_stopped = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // What a worker that panicked had to say was said when it happened.
            worker.join().ok();
        }
    }
}

impl State {
    /// Whether nothing comes before this path.
    fn is_least(&self, path: &RelPath) -> bool {
        self.active.first_key_value().is_none_or(|(first, _)| first >= path)
            && self.waiting.first_key_value().is_none_or(|(first, _)| first >= path)
    }

    /// Takes the next part, if it is there.
    fn take_ready(&mut self) -> Option<Listing> {
        let path = self.active.first_key_value()?.0.clone();
        if !self.is_least(&path) {
            return None;
        }
        let active = self.active.get_mut(&path)?;
        let listing = active.parts.pop_front()?;
        if active.parts.is_empty() && active.is_finished {
            self.active.remove(&path);
        }
        self.ready_bytes -= bytes_of(&listing);
        Some(listing)
    }
}

/// About what a listing takes when encoded.
fn bytes_of(listing: &Listing) -> usize {
    64 + listing.path.as_bytes().len()
        + listing.entries.iter().map(sync::entry::Entry::encoded_bytes).sum::<usize>()
        + listing.problems.iter().map(|problem| problem.name.len() + problem.why.len()).sum::<usize>()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves a whole state behind, so a poisoned lock holds one too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.failure.get_or_insert(failure);
        state.is_stopped = true;
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// Waits for the next directory to read; nothing when the walk is over.
    fn next_directory(&self) -> Option<RelPath> {
        let mut state = self.lock();
        loop {
            if state.is_stopped || (state.waiting.is_empty() && state.running == 0) {
                self.work.notify_all();
                self.ready.notify_all();
                return None;
            }
            let may_go = |path: &RelPath| state.ready_bytes < AHEAD_BYTES || state.is_least(path);
            let first = state.waiting.first_key_value().map(|(path, _)| path.clone()).filter(may_go);
            let Some(path) = first else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match state.waiting.remove(&path) {
                Some(Waiting::Feeder(feeder)) => {
                    if let Err(error) = feeder.feed(&mut state) {
                        drop(state);
                        self.fail(spill_failed(&error));
                        return None;
                    }
                }
                Some(Waiting::Directory) | None => {
                    state.running += 1;
                    state.active.insert(path.clone(), Active::default());
                    return Some(path);
                }
            }
        }
    }

    /// Hands in a part with the directories that it names; waits while enough is ready. Says whether to go on.
    fn publish(&self, listing: Listing, children: Vec<RelPath>, feeder: Option<Feeder>) -> bool {
        let mut state = self.lock();
        let bytes = bytes_of(&listing);
        while state.ready_bytes >= AHEAD_BYTES && !state.is_least(&listing.path) && !state.is_stopped {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped {
            return false;
        }
        state.ready_bytes += bytes;
        state.waiting.extend(children.into_iter().map(|path| (path, Waiting::Directory)));
        if let Some(feeder) = feeder {
            state.waiting.insert(feeder.first(), Waiting::Feeder(Box::new(feeder)));
        }
        let is_last = listing.end != ListingEnd::More;
        let path = listing.path.clone();
        if let Some(active) = state.active.get_mut(&path) {
            active.parts.push_back(listing);
            active.is_finished = is_last;
        }
        state.running -= usize::from(is_last);
        self.work.notify_all();
        self.ready.notify_all();
        true
    }
}

fn work(shared: &Shared) {
    let guard = PanicGuard(shared);
    while let Some(path) = shared.next_directory() {
        if let Err(error) = walk::read_directory(shared, path) {
            shared.fail(spill_failed(&error));
        }
    }
    drop(guard);
}

/// Ends the walk when a worker panics; otherwise whoever waits for a listing would wait for ever.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::new(FailureKind::Bug, "a thread that reads directories panicked"));
        }
    }
}

fn spill_failed(error: &io::Error) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("cannot sort a large directory on disk: {error}"))
        .hint("Free some space in the agent's state directory.")
}
