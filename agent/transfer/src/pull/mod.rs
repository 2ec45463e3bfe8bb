//! One pass: the source's tree and the destination's, joined; what differs is fetched, staged and committed.
//!
//! ```text
//! source's manifest ─┐
//!                    ├─ planner ─▶ asks ─▶ source ─▶ appliers ─▶ items ─▶ committer
//! own scan, ledger ──┘      └────────── directories, links, metadata ──────▲
//! ```
//!
//! Everything between planner and committer is bounded by [`flow::Flow`]; the first failure of any thread is kept there
//! and ends all of them. What has to wait for the end of the pass is spilled to files of the stage: deletes, names of
//! hard links, and the metadata of directories.

mod apply;
mod ask;
mod committing;
mod ending;
pub(crate) mod flow;
mod plan;
mod source;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use common::step::file::FileParams;
use sync::entry::Entry;
use tree::Problem;

use crate::commit::{Committer, Seen, Task};
use crate::findings::FindingSink;
use crate::frame_file::FrameWriter;
use crate::ledger::Histories;
use crate::manifest::{Exception, ManifestWriter, create_exceptions, publish_exceptions};
use crate::peer::{ContentReceiver, FetchSender, ManifestReceiver};
use crate::scan::Scan;
use crate::stage::{Stage, clear};
use crate::tally::Counters;
use crate::trouble::finding;

use flow::{Flow, PanicGuard};

/// Threads that write staged files; more only wait for each other on one disk.
const APPLIERS: usize = 2;
/// Items between planner, appliers and committer: what is not bounded by the flow's budget, such as directories.
const ITEMS_WAITING: usize = 4096;

/// What the threads of a pass share.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) params: FileParams,
    pub(crate) number: u32,
    pub(crate) stage: Stage,
    pub(crate) findings: FindingSink,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flow: Arc<Flow>,
    wishes: Mutex<HashMap<u64, Wish>>,
    next_wish: AtomicU64,
    is_all_asked: AtomicBool,
    /// What the pass saw of the source, once it was seen whole.
    manifest: Mutex<Option<ManifestWriter>>,
    exceptions: Mutex<Option<FrameWriter<Exception>>>,
}

/// What is asked of the source and not yet answered.
#[derive(Debug)]
pub(crate) struct Wish {
    path: RelPath,
    /// The source's entry, its owners in this host's numbers.
    source: Entry,
    /// What the scan saw at the destination.
    seen: Option<Box<Seen>>,
    /// What it weighs in the flow.
    cost: u64,
}

/// A task on its way to the committer.
#[derive(Debug)]
pub(crate) struct Item {
    task: Task,
    landing: Landing,
    /// What it weighs in the flow, if it does.
    cost: Option<u64>,
    /// Attributes that could not be set in the stage.
    problems: Vec<Problem>,
}

/// What is counted when a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// A file with content that was sent.
    Content { bytes: u64 },
    /// A link, a special file, an empty file.
    Place,
    /// Metadata of something that is no directory.
    Metadata { bytes: u64 },
    /// A directory, or its metadata.
    Directory,
    /// Something that was removed.
    Removal,
    /// Only a record.
    Touch,
}

/// What comes from the source.
pub(crate) struct Incoming {
    pub(crate) manifest: ManifestReceiver,
    pub(crate) fetches: FetchSender,
    pub(crate) content: ContentReceiver,
}

impl Pass {
    /// Makes what the threads of a pass share.
    pub(crate) fn new(
        params: FileParams,
        committer: &Committer,
        findings: FindingSink,
        counters: Arc<Counters>,
        flow: Arc<Flow>,
    ) -> Self {
        Self {
            params,
            number: committer.last_pass() + 1,
            stage: committer.stage().clone(),
            findings,
            counters,
            flow,
            wishes: Mutex::new(HashMap::new()),
            next_wish: AtomicU64::new(1),
            is_all_asked: AtomicBool::new(false),
            manifest: Mutex::new(None),
            exceptions: Mutex::new(None),
        }
    }

    /// Reports that a path could not be brought as asked.
    pub(crate) fn except(
        &self,
        rule: Rule,
        severity: Severity,
        path: &RelPath,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if severity > Severity::Notice {
            self.counters.set_partial();
        }
        self.findings.report(finding(rule, severity, path, message, hint));
        if let Some(exceptions) = lock(&self.exceptions).as_mut()
            && let Err(failure) = exceptions.write(&Exception { path: path.clone(), rule })
        {
            self.flow.fail(failure);
        }
    }

    /// Lets what this pass saw take the place of what the last one saw.
    fn publish(&self) -> Result<(), Failure> {
        if let Some(exceptions) = lock(&self.exceptions).take() {
            publish_exceptions(&self.stage, exceptions)?;
        }
        match lock(&self.manifest).take() {
            Some(manifest) => manifest.finish(&self.stage),
            None => Err(Failure::new(FailureKind::Bug, "a pass ended before the source was seen whole")),
        }
    }

    fn wish(&self, wish: Wish) -> u64 {
        let id = self.next_wish.fetch_add(1, Relaxed);
        self.wishes().insert(id, wish);
        id
    }

    /// Whether everything was asked for and answered.
    fn is_all_asked(&self) -> bool {
        self.is_all_asked.load(Relaxed)
    }

    fn take_wish(&self, id: u64) -> Result<Wish, Failure> {
        self.wishes().remove(&id).ok_or_else(|| {
            Failure::new(FailureKind::Bug, "the source answered something that was not asked for")
        })
    }

    fn wishes(&self) -> MutexGuard<'_, HashMap<u64, Wish>> {
        lock(&self.wishes)
    }
}

/// What is locked here is changed by single calls, so a poisoned lock holds a whole value; and a thread that panicked
/// has failed the pass.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one pass to its end; for a thread of its own.
///
/// # Errors
/// The first failure of any of its threads. What was committed stays, and the next pass goes on from there.
pub(crate) fn run(
    pass: &Pass,
    committer: &mut Committer,
    incoming: Incoming,
    scan: Scan,
    owners: crate::owner::Owners,
) -> Result<(), Failure> {
    clear(&pass.stage.new)?;
    pass.stage.clear_spill()?;
    *lock(&pass.exceptions) = Some(create_exceptions(&pass.stage)?);
    let histories = Histories::sort(Some(committer.settled()?), &pass.stage.spill, "ledger")?;
    let (asks, asked) = mpsc::channel();
    let (items, waiting) = mpsc::sync_channel(ITEMS_WAITING);
    let Incoming { manifest, fetches, content } = incoming;
    let committer = &mut *committer;
    std::thread::scope(|scope| {
        for number in 0..APPLIERS {
            let (content, items, asks) = (content.clone(), items.clone(), asks.clone());
            scope.spawn(move || guarded(pass, || apply::run(pass, number, content, &items, &asks)));
        }
        // The answers end with the last request, and with them the appliers.
        drop(content);
        scope.spawn(move || guarded(pass, || ask::run(pass, &asked, &fetches)));
        let commits = scope.spawn(move || guarded(pass, || committing::run(pass, committer, &waiting)));
        guarded(pass, || {
            let listings = source::SourceListings::new(pass, manifest, owners)?;
            let mut planner = plan::Planner::new(pass, histories, asks, items)?;
            planner.run(listings, scan)?;
            planner.finish()
        });
        commits.join().ok();
    });
    pass.flow.check()?;
    pass.publish()
}

/// Runs a thread's work, keeping its failure.
fn guarded(pass: &Pass, work: impl FnOnce() -> Result<(), Failure>) {
    let guard = PanicGuard(&pass.flow);
    if let Err(failure) = work() {
        pass.flow.fail(failure);
    }
    drop(guard);
}
