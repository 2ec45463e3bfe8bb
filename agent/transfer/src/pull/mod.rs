//! One pass: the source's tree and the destination's, joined; what differs is fetched, staged and committed.
//!
//! ```text
//! source's manifest ─▶ spilled ─┐
//!                               ├─ planner ─▶ asks ─▶ source ─▶ appliers ─▶ items ─▶ committer
//! own scan, ledger ─────────────┘      └────────── directories, links, metadata ──────▲
//! ```
//!
//! Everything between planner and committer is bounded by [`flow::Flow`]; the first failure of any thread is kept there
//! and ends all of them. What has to wait for the end of the pass is spilled to files of the stage: deletes, names of
//! hard links, and the metadata of directories.

mod apply;
mod arrivals;
mod ask;
mod committing;
mod ending;
pub(crate) mod flow;
mod forecast;
mod gathering;
mod known;
#[cfg(test)]
mod known_tests;
mod large;
mod likeness;
mod links;
mod old_body;
#[cfg(test)]
mod old_body_tests;
mod placing;
mod plan;
#[cfg(test)]
mod power_cut;
mod put_off;
mod ranges;
mod reach;
mod room;
mod same;
#[cfg(test)]
mod same_tests;
mod seating;
mod sidecar;
mod source;
#[cfg(test)]
mod tests;
mod unseen;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::id::StepId;
use common::phase::Scope;
use common::rel_path::RelPath;
use common::step::file::FileParams;
use common::step::pass::{PassRecord, ScanKind};
use serde::{Deserialize, Serialize};
use sync::entry::{Entry, Kind};
use sync::only::Only;
use sync::sanitize::{Sanitizer, Treatment};
use sync::stamp::Stamp;
use sync::wire::content::{Fetch, What};
use tree::{Name, Problem};

use crate::assembly::{Assembly, Held, Seat};
use crate::breach::breach;
use crate::buffer::Buffers;
use crate::commit::{Committer, Effect, Seen, Task};
use crate::domain::DomainId;
use crate::findings::FindingSink;
use crate::frame_file::FrameWriter;
use crate::ledger::{Change, Histories};
use crate::manifest::{Exception, ManifestFile, ManifestWriter, create_exceptions, publish_exceptions};
use crate::owner::Owners;
use crate::passes::{Passes, RootMark, Told};
use crate::peer::{Beginning, ContentReceiver, FetchSender, ManifestReceiver};
use crate::scan::Scan;
use crate::stage::{Stage, clear};
use crate::tally::{Counters, Landed, add};
use crate::trouble::finding;

use arrivals::Arrivals;
use flow::{Flow, PanicGuard, unusual_bytes};
pub(crate) use forecast::Forecast;
pub(crate) use known::Known;
use large::Large;
use links::{Group, LinkName};
use old_body::Asked;

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
    arrivals: Arrivals,
    known: Known,
    next_wish: AtomicU64,
    /// Memory for what is read of old bodies.
    buffers: Buffers,
    is_all_asked: AtomicBool,
    /// What the pass saw of the source, once it was seen whole.
    manifest: Mutex<Option<ManifestWriter>>,
    exceptions: Mutex<Option<FrameWriter<Exception>>>,
    again: Mutex<Option<FrameWriter<Again>>>,
    /// Groups of hard links that were compared.
    compared: Mutex<Option<FrameWriter<LinkName>>>,
    /// Groups of hard links, by inode and rename domain, whose first name was gone when it was asked for.
    leaderless: Mutex<BTreeSet<Group>>,
    passes: Mutex<Passes>,
    boot_id: String,
    is_network_source: bool,
    source_root: RootMark,
    /// The pass of the first attempt of this step.
    first_pass: u32,
    step: StepId,
    began: BootTime,
    /// What is looked at, where that is not everything.
    only: Option<Arc<Only>>,
    goes_on_counting: bool,
    why: Option<String>,
    /// What the step had landed when the pass began.
    landed_before: OnceLock<Landed>,
    /// Which files come otherwise than they are at the source.
    sanitizer: Option<Sanitizer>,
    /// New directories that are filled in the stage.
    held: Held,
}

/// What is asked of the source and not yet answered.
#[derive(Debug)]
enum Wish {
    /// A small file.
    Small(Box<Small>),
    /// A range of a large file.
    Range(RangeWish),
    /// Whether the ranges of a large file are one state.
    Confirm(Arc<Large>),
    /// The digest of a file that looks the same on both sides.
    Compare(Box<Compare>),
    /// The same for a group of hard links.
    Group(Vec<LinkName>),
}

/// A range of a large file that is asked for.
#[derive(Clone, Debug)]
struct RangeWish {
    large: Arc<Large>,
    index: u64,
    /// What it weighs in the flow.
    cost: Option<u64>,
    /// With what of the old body.
    asked: Asked,
}

/// A small file that is asked for.
#[derive(Debug)]
struct Small {
    path: RelPath,
    domain: DomainId,
    /// The source's entry, its owners in this host's numbers.
    source: Entry,
    /// What the scan saw at the destination.
    seen: Option<Box<Seen>>,
    /// Whether it is the first name of a group of hard links.
    is_anchor: bool,
    times_asked: u32,
    /// What it weighs in the flow.
    cost: u64,
    /// Where it may be made in the directory that shall hold it.
    seat: Option<Seat>,
}

/// A file whose content is compared.
#[derive(Clone, Debug)]
struct Compare {
    path: RelPath,
    domain: DomainId,
    source: Entry,
    seen: Box<Seen>,
    /// What it weighs in the flow.
    cost: u64,
}

/// Something that has to be asked for once more, spilled until the rest has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Again {
    path: RelPath,
    domain: DomainId,
    source: Entry,
    seen: Option<Box<Seen>>,
    is_anchor: bool,
    times_asked: u32,
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
    /// What of `large/` is not needed once it is committed.
    sidecar: Option<Name>,
    /// How to ask for it once more, if what it replaces is no longer what the scan saw.
    again: Option<Box<Again>>,
    /// Of a file that was made in a directory which is still in the stage.
    seat: Option<Seat>,
    /// Of a directory that is filled in the stage.
    assembly: Option<Arc<Assembly>>,
}

impl Item {
    /// Makes an item without a past.
    fn new(path: RelPath, domain: DomainId, effect: Effect, landing: Landing) -> Self {
        Self {
            task: Task { path, domain, effect },
            landing,
            cost: None,
            problems: Vec::new(),
            sidecar: None,
            again: None,
            seat: None,
            assembly: None,
        }
    }

    /// Returns what its paths and attributes take, beyond what is usual.
    fn held_bytes(&self) -> u64 {
        let (first, second) = match &self.task.effect {
            Effect::Install { new, seen, .. } => (new.as_ref(), seen.as_ref().map(|seen| &seen.entry)),
            Effect::Metadata { seen, wanted } => (wanted.as_ref(), Some(seen.as_ref())),
            Effect::Remove { seen } => (&seen.entry, None),
            Effect::Touch { seen } => (seen.as_ref(), None),
        };
        unusual_bytes(&self.task.path, [first].into_iter().chain(second))
    }
}

/// What is counted when a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// A file with content: its size, how much of it was data, whether progress knows of it already, and whether it was
    /// not sent but copied here.
    Content { bytes: u64, data: u64, is_counted: bool, is_copied: bool },
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

/// What a pass needs to know of both machines.
#[derive(Debug)]
pub(crate) struct Host {
    /// The number of the pass; see [`next_pass`].
    pub(crate) pass: u32,
    /// The boot of this machine.
    pub(crate) boot_id: String,
    /// Whether the source's root is on a network file system, whose times cannot be relied on.
    pub(crate) is_network_source: bool,
    /// The source's root.
    pub(crate) source_root: RootMark,
    /// The pass of the first attempt of this step.
    pub(crate) first_pass: u32,
    /// What this host holds already.
    pub(crate) known: Known,
    /// The step that the pass is made for.
    pub(crate) step: StepId,
    /// When it began.
    pub(crate) began: BootTime,
    /// What it looks at, where that is not everything.
    pub(crate) only: Option<Arc<Only>>,
    /// Whether the counters hold what the step has landed so far.
    pub(crate) goes_on_counting: bool,
    /// Why it looks at everything, where a watch was to spare that.
    pub(crate) why: Option<String>,
}

/// What comes from the source.
pub(crate) struct Incoming {
    pub(crate) manifest: ManifestReceiver,
    pub(crate) fetches: FetchSender,
    pub(crate) content: ContentReceiver,
    /// Whether the source was asked to watch its tree, or for what its watch told.
    pub(crate) is_watched: bool,
}

impl Incoming {
    /// Waits for how the source begins, where that is not known beforehand.
    pub(crate) fn begin(&mut self) -> Result<Beginning, Failure> {
        if self.is_watched { self.manifest.begin() } else { Ok(Beginning::default()) }
    }
}

impl Pass {
    /// Makes what the threads of a pass share.
    pub(crate) fn new(
        params: FileParams,
        committer: &Committer,
        findings: FindingSink,
        counters: Arc<Counters>,
        flow: Arc<Flow>,
        host: Host,
    ) -> Result<Self, Failure> {
        let stage = committer.stage().clone();
        let passes = Passes::read(&stage.dir)?;
        let sanitizer = params.sanitize.as_ref().map(|rules| Sanitizer::new(rules, None)).transpose();
        let sanitizer = sanitizer.map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
        Ok(Self {
            params,
            sanitizer,
            held: Held::default(),
            number: host.pass,
            stage,
            findings,
            counters,
            flow,
            boot_id: host.boot_id,
            is_network_source: host.is_network_source,
            source_root: host.source_root,
            first_pass: host.first_pass,
            step: host.step,
            began: host.began,
            only: host.only,
            goes_on_counting: host.goes_on_counting,
            why: host.why,
            landed_before: OnceLock::new(),
            passes: Mutex::new(passes),
            again: Mutex::new(None),
            compared: Mutex::new(None),
            leaderless: Mutex::new(BTreeSet::new()),
            wishes: Mutex::new(HashMap::new()),
            arrivals: Arrivals::default(),
            known: host.known,
            next_wish: AtomicU64::new(1),
            buffers: Buffers::default(),
            is_all_asked: AtomicBool::new(false),
            manifest: Mutex::new(None),
            exceptions: Mutex::new(None),
        })
    }

    /// Whether it comes after the bulk.
    fn is_further(&self) -> bool {
        self.params.catch_up.is_some() || self.params.scope == Scope::Finish
    }

    /// Hands an item to the committer.
    fn send(&self, items: &mpsc::SyncSender<Item>, item: Item) -> Result<(), Failure> {
        self.flow.send(item.held_bytes())?;
        items.send(item).or_else(|_ended| self.flow.check())
    }

    /// Whether a file comes otherwise than it is at the source, so that what looks like it may not be it.
    fn is_sanitized(&self, path: &RelPath) -> bool {
        self.sanitizer.as_ref().is_some_and(|sanitizer| sanitizer.treatment_of(path) != Treatment::Kept)
    }

    /// Has something asked for once more when the rest has come.
    fn ask_again(&self, again: &Again) -> Result<(), Failure> {
        match lock(&self.again).as_mut() {
            Some(writer) => writer.write(again),
            None => {
                Err(Failure::new(FailureKind::Bug, "something is asked for again after the end of a pass"))
            }
        }
    }

    /// Has the names of a group dealt with, now that it was compared.
    fn put_compared(&self, group: &[LinkName]) -> Result<(), Failure> {
        // Name by name: all names that one file may have take more than a frame. The lock keeps a group together.
        match lock(&self.compared).as_mut() {
            Some(writer) => group.iter().try_for_each(|name| writer.write(name)),
            None => Err(Failure::new(FailureKind::Bug, "hard links are compared after the end of a pass")),
        }
    }

    /// Notes that the name by which a group of hard links was to be brought is none of its names any more.
    fn lose_leader(&self, first: &Again) {
        let mut leaderless = lock(&self.leaderless);
        // Beyond, the group's other names are findings.
        if leaderless.len() < links::LEADERLESS_MAX {
            leaderless.insert(((first.source.dev, first.source.ino), first.domain));
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
    fn publish(&self, ledger_bytes: u64) -> Result<(), Failure> {
        if self.only.is_some() {
            // What the last whole pass saw stays what was seen of the whole.
            let mut passes = lock(&self.passes);
            let record = self.record(&passes);
            return passes.end_part(&self.stage.dir, ledger_bytes, record);
        }
        if let Some(exceptions) = lock(&self.exceptions).take() {
            publish_exceptions(&self.stage, exceptions)?;
        }
        match lock(&self.manifest).take() {
            Some(manifest) => manifest.finish(&self.stage)?,
            None => {
                return Err(Failure::new(FailureKind::Bug, "a pass ended before the source was seen whole"));
            }
        }
        let counters = &self.counters;
        let totals = (counters.files_total.load(Relaxed), counters.bytes_total.load(Relaxed));
        let mut passes = lock(&self.passes);
        let record = self.record(&passes);
        passes.end(&self.stage.dir, ledger_bytes, totals, record)
    }

    /// Returns what people are told of this pass.
    fn record(&self, passes: &Passes) -> PassRecord {
        let counters = &self.counters;
        let before = self.landed_before.get().copied().unwrap_or_default();
        let landed = counters.landed();
        let bytes_changed = landed.bytes.saturating_sub(before.bytes);
        let took = clock::boot().since(self.began).as_millis();
        PassRecord {
            number: self.number,
            step: self.step.clone(),
            scan: if self.only.is_some() { ScanKind::Watched } else { ScanKind::Full },
            entries: counters.entries_seen.load(Relaxed),
            files_changed: landed.entries.saturating_sub(before.entries),
            bytes_changed,
            changed_bytes_per_s: passes.rate_of(bytes_changed),
            duration_ms: u64::try_from(took).unwrap_or(u64::MAX),
            why: self.why.clone(),
        }
    }

    /// Returns what people are told of the passes so far.
    pub(crate) fn told(&self) -> Told {
        lock(&self.passes).told(&self.step)
    }

    fn wish(&self, wish: Wish) -> u64 {
        let id = self.next_wish.fetch_add(1, Relaxed);
        self.wishes().insert(id, wish);
        id
    }

    /// Notes a wish for a range, and returns what asks for it.
    fn wish_range(&self, wanted: RangeWish, stamp: Stamp, what: What) -> Fetch {
        let path = wanted.large.path.clone();
        let id = self.wish(Wish::Range(wanted));
        Fetch { id, path, stamp, what }
    }

    /// Whether everything was asked for and answered.
    fn is_all_asked(&self) -> bool {
        self.is_all_asked.load(Relaxed)
    }

    fn take_wish(&self, id: u64) -> Result<Wish, Failure> {
        self.wishes().remove(&id).ok_or_else(unasked)
    }

    /// Whether a small file is asked for under this number and has not come.
    fn is_small_wish(&self, id: u64) -> bool {
        matches!(self.wishes().get(&id), Some(Wish::Small(_)))
    }

    fn wishes(&self) -> MutexGuard<'_, HashMap<u64, Wish>> {
        lock(&self.wishes)
    }
}

fn unasked() -> Failure {
    breach("it answered something that was not asked for")
}

/// What is locked here is changed by single calls, so a poisoned lock holds a whole value; and a thread that panicked
/// has failed the pass.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the number of the pass that is to begin.
pub(crate) fn next_pass(committer: &Committer) -> Result<u32, Failure> {
    let passes = Passes::read(&committer.stage().dir)?;
    Ok(passes.next_number().max(committer.last_pass() + 1))
}

/// Removes what an attempt that was stopped has left in the stage and cannot be used again; before the scan begins, for
/// an anchor counts as a name of its inode.
pub(crate) fn clear_leftovers(stage: &Stage) -> Result<(), Failure> {
    clear(&stage.spill)?;
    for id in stage.domains.all() {
        let domain = stage.domains.get(id)?;
        [&domain.new, &domain.anchors].into_iter().try_for_each(clear)?;
    }
    Ok(())
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
    owners: Owners,
    forecast: Forecast,
) -> Result<(), Failure> {
    *lock(&pass.exceptions) = Some(create_exceptions(&pass.stage)?);
    if pass.only.is_some() {
        // Of what is not looked at nothing has changed.
        pass.counters.know(lock(&pass.passes).totals().unwrap_or_default());
    }
    if !pass.goes_on_counting {
        count_landed(pass, committer)?;
    }
    // It is set once: here.
    pass.landed_before.set(pass.counters.landed()).ok();
    let settled = committer.settled()?;
    let settled = match &pass.only {
        None => settled,
        Some(only) => settled.of_only(Arc::clone(only)),
    };
    let histories = Histories::sort(Some(settled), &pass.stage.spill, "ledger")?;
    let (asks, asked) = mpsc::channel();
    let (items, waiting) = mpsc::sync_channel(ITEMS_WAITING);
    // One word for each block of the manifest, which stands in a file.
    let (tell, told) = mpsc::channel();
    pass.flow.hold();
    let Incoming { manifest, fetches, content, is_watched: _ } = incoming;
    let kill_point = committer.kill_point();
    let working = &mut *committer;
    std::thread::scope(|scope| {
        for number in 0..APPLIERS {
            let (content, items, asks) = (content.clone(), items.clone(), asks.clone());
            scope.spawn(move || guarded(pass, || apply::run(pass, number, content, &items, &asks)));
        }
        // The answers end with the last request, and with them the appliers.
        drop(content);
        scope.spawn(move || guarded(pass, || ask::run(pass, &asked, &fetches)));
        let commits = scope.spawn(move || guarded(pass, || committing::run(pass, working, &waiting)));
        // The failure is kept before the planner hears that nothing more comes.
        scope.spawn(move || guarded(pass, || source::run(pass, manifest, owners, forecast, &tell)));
        guarded(pass, || {
            let listings = ManifestFile::follow(&pass.stage, told)?;
            let mut planner = plan::Planner::new(pass, histories, asks, items)?;
            planner.run(listings, scan)?;
            kill_point.tell_compared();
            planner.finish()?;
            unseen::tell_left_out(pass);
            Ok(())
        });
        commits.join().ok();
    });
    pass.known.write();
    pass.flow.check()?;
    for id in pass.stage.domains.all() {
        let domain = pass.stage.domains.get(id)?;
        [&domain.anchors, &domain.large].into_iter().try_for_each(clear)?;
    }
    pass.publish(committer.ledger_bytes())
}

/// Counts what earlier attempts of this step have landed. The ledger knows it exactly; counts of their own would lack
/// the last second before they were killed.
fn count_landed(pass: &Pass, committer: &Committer) -> Result<(), Failure> {
    let counters = &pass.counters;
    let mut settled = committer.settled()?;
    while let Some(record) = settled.next()? {
        if record.intent.pass < pass.first_pass {
            continue;
        }
        let change = &record.intent.change;
        if let Some((new, _digest)) = change.written() {
            add(&counters.bytes_landed, new.size());
            add(&counters.data_landed, data_of(new));
        }
        match change {
            Change::Create { new, .. } | Change::Replace { new, .. } if !new.kind.is_directory() => {
                add(&counters.files_sent, 1);
                add(&counters.files_landed_before, 1);
            }
            Change::Metadata { old, .. } if !old.kind.is_directory() => add(&counters.metadata_changed, 1),
            Change::Remove { .. } => add(&counters.deleted, 1),
            Change::Create { .. } | Change::Replace { .. } | Change::Metadata { .. } => {}
        }
    }
    Ok(())
}

/// Returns how much of a file is data; the rest is holes.
pub(crate) fn data_of(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size, allocated_bytes } => size.min(allocated_bytes),
        _ => 0,
    }
}

/// Runs a thread's work, keeping its failure.
fn guarded(pass: &Pass, work: impl FnOnce() -> Result<(), Failure>) {
    let guard = PanicGuard(&pass.flow);
    if let Err(failure) = work() {
        pass.flow.fail(failure);
    }
    drop(guard);
}
