//! `file.copy`, and the same again as `file.catch_up` and `file.finish`: one pass over the tree.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::cost::{SourceCost, SourceCosts};
use common::failure::{Failure, FailureKind};
use common::sanitize::Sanitize;
use common::step::file::{FileOutput, FileParams, Sanitized, VERSION};
use sync::wire::control::{Cost, Counters as Counted, Opened};
use sync::wire::hello::{ScanRequest, Watch};
use tokio::task::JoinHandle;
use tree::Root;

use crate::backup;
use crate::begun;
use crate::breach::name_source;
use crate::commit::Committer;
use crate::context::{Peer, StepContext};
use crate::dry_run::dry_run;
use crate::endpoint::Endpoint;
use crate::memory::Memory;
use crate::owner::Owners;
use crate::passes::{RootMark, Told};
use crate::peer::{Beginning, Source};
use crate::pull::flow::Flow;
use crate::pull::{self, Forecast, Host, Incoming, Known, Pass};
use crate::reach;
use crate::request::{content_of, filter_of, request_of};
use crate::saved_counters::{SavedCounters, Totals};
use crate::scan::{Scan, ScanSettings};
use crate::stage::Stage;
use crate::tally::{Counters, add};
use crate::trouble::of_stage;
use crate::way_back::{open_root, open_root_of_stage};

/// Threads that scan the destination; the source has its own.
const SCAN_WORKERS: usize = 2;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Ticks of a second.
const TICKS_PER_S: u64 = 4;
/// Counters are saved every second.
const SAVE_EVERY_TICKS: u64 = TICKS_PER_S;
/// The rate that is told is that of the last five seconds.
const RATE_TICKS: usize = 20;
/// The list of all findings of a migration, lines of JSON, in the agent's state directory.
pub(crate) const FINDINGS_LIST: &str = "findings.jsonl";

/// Brings the destination's root to what the source's is.
///
/// What changed, vanished or could not be read at the source is a finding and not a failure. A run that was stopped
/// anywhere is simply run again.
///
/// # Errors
/// When the step cannot go on: the lease is lost, the peer cannot be reached, space ran out, an owner has no place
/// here. The failure's kind says whether another attempt can help.
pub async fn run_copy(
    ctx: StepContext,
    endpoint: &Endpoint,
    params: FileParams,
) -> Result<FileOutput, Failure> {
    ctx.lease.check()?;
    if params.dry_run {
        return dry_run(ctx, endpoint, params).await;
    }
    let before = Before::of(&ctx);
    one_pass(&ctx, endpoint, params, before, Asked::default()).await.map(|passed| passed.output)
}

/// What of the step came before a pass.
#[derive(Debug)]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// An attempt that was stopped.
    Attempts,
    /// A pass of the same attempt, so that this one may be given up for what follows the step.
    Pass(Box<Kept>),
}

impl Before {
    /// Returns what came before the first pass of an attempt.
    pub(crate) fn of(ctx: &StepContext) -> Self {
        if ctx.attempt > 1 { Self::Attempts } else { Self::Nothing }
    }
}

/// What a pass leaves to the next one of its attempt, which need not read the whole ledger for it again.
#[derive(Debug)]
pub(crate) struct Kept {
    committer: Committer,
    boot_id: String,
    counters: Arc<Counters>,
}

/// What a pass asks the source to look at.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) watch: Watch,
    /// Why at everything, where a watch was to spare that.
    pub(crate) why: Option<&'static str>,
}

/// How a pass ended.
#[derive(Debug)]
pub(crate) struct Passed {
    /// What the step did so far.
    pub(crate) output: FileOutput,
    /// What is told of all passes.
    pub(crate) told: Told,
    pub(crate) kept: Box<Kept>,
}

/// Makes one pass.
pub(crate) async fn one_pass(
    ctx: &StepContext,
    endpoint: &Endpoint,
    params: FileParams,
    before: Before,
    asked: Asked,
) -> Result<Passed, Failure> {
    let began = clock::boot();
    let memory = Memory::open(&ctx.state_dir, &ctx.migration)?;
    ctx.findings.list_in(&memory.list(FINDINGS_LIST))?;
    let peer = peer_of(ctx)?.clone();
    let source = reach::open(ctx, endpoint, &memory, params.compression, params.transport).await?;
    let packed = source.packed();
    let nonce = nonce()?;
    let incoming = incoming(&source, &params, nonce, asked.watch).await?;
    let (rules, destination) = (params.sanitize.clone(), params.destination_root.clone());
    let (came_before, kept) = match before {
        Before::Nothing => (CameBefore::Nothing, None),
        Before::Attempts => (CameBefore::Attempts, None),
        Before::Pass(kept) => (CameBefore::Pass, Some(kept)),
    };
    let attempt = Arc::new(Attempt::new(ctx, began, came_before, source.opened()));
    let work_attempt = Arc::clone(&attempt);
    let (endpoint, tenant) = (endpoint.clone(), peer.tenant.clone());
    let mut work = tokio::task::spawn_blocking(move || {
        let known = Known::new(endpoint.index(&tenant), nonce, params.destination_root.clone());
        pass(&work_attempt, params, &memory, incoming, known, (kept, asked.why))
    });
    let (done, (wire, counted)) = watch(&attempt, source, &mut work).await;
    let saved = attempt.save_aside(wire, counted.content_bytes);
    saved.await.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    ctx.findings.flush()?;
    let (told, kept) = done.map_err(|failure| name_destination(name_source(failure, &peer), &destination))?;
    let mut output = attempt.output(wire, counted.content_bytes);
    output.sanitized = sanitized(rules.as_ref(), &attempt.counters);
    output.bytes_compressed = packed.bytes.load(Relaxed);
    output.bytes_compressed_to = packed.stored_bytes.load(Relaxed);
    output.findings_total = ctx.findings.totals().total;
    let reached = *ctx.progress.borrow();
    (output.reach, output.transport) = (reached.reach, reached.transport);
    output.list_file = Some(FINDINGS_LIST.to_owned());
    (output.passes, output.passes_total) = (told.of_step.clone(), told.made);
    Ok(Passed { output, told, kept })
}

/// Says which disk is full: the error knows only the name in the stage.
fn name_destination(failure: Failure, root: &str) -> Failure {
    if failure.kind != FailureKind::Exhausted {
        return failure;
    }
    failure.context("destination", root)
}

/// Returns to how many files each rule applied.
fn sanitized(rules: Option<&Sanitize>, counters: &Counters) -> Vec<Sanitized> {
    let files = pull::lock(&counters.sanitized);
    let rules = rules.into_iter().flat_map(|rules| &rules.files);
    rules.zip(files.iter()).map(|(rule, files)| Sanitized { rule: rule.title(), files: *files }).collect()
}

/// The same for the threads of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CameBefore {
    Nothing,
    Attempts,
    Pass,
}

/// One attempt: what its threads share, and what it counts together with those before it.
pub(crate) struct Attempt {
    ctx: StepContext,
    began: BootTime,
    came_before: CameBefore,
    is_network_source: bool,
    source_root: RootMark,
    counters: Arc<Counters>,
    flow: Arc<Flow>,
    saved: OnceLock<SavedCounters>,
    costs: Mutex<SourceCosts>,
}

impl Attempt {
    fn new(ctx: &StepContext, began: BootTime, came_before: CameBefore, opened: &Opened) -> Self {
        let Opened { boot_id, root_dev, root_ino, is_network_fs, .. } = opened;
        Self {
            ctx: ctx.clone(),
            began,
            came_before,
            is_network_source: *is_network_fs,
            source_root: RootMark { boot_id: boot_id.clone(), dev: *root_dev, ino: *root_ino },
            counters: Arc::new(Counters::default()),
            flow: Arc::new(Flow::default()),
            saved: OnceLock::new(),
            costs: Mutex::default(),
        }
    }

    fn before(&self) -> Totals {
        self.saved.get().map(|saved| saved.before).unwrap_or_default()
    }

    /// Notes what the source's host has to bear; once a second.
    fn note_cost(&self, cost: Option<Cost>) {
        let Some(Cost { cpu_permille, io_permille, load_hundredths, is_throttled }) = cost else { return };
        let cost = SourceCost { cpu_permille, io_permille, load_hundredths, is_throttled };
        pull::lock(&self.costs).add(cost);
        self.ctx.progress.send_modify(|progress| progress.source_cost = Some(cost));
    }

    /// Tells progress.
    fn tell(&self, wire: u64, bytes_per_s: u64) {
        let wire = wire.saturating_add(self.before().wire_bytes);
        let earlier = *self.ctx.progress.borrow();
        self.ctx.progress.send_replace(self.counters.progress(wire, bytes_per_s, &earlier));
    }

    /// Returns what all attempts have counted.
    fn totals(&self, wire: u64, content: u64) -> Totals {
        let before = self.before();
        let worked = clock::boot().since(self.began).as_millis();
        let copied = self.counters.data_deduplicated.load(Relaxed);
        Totals {
            first_pass: before.first_pass,
            wire_bytes: before.wire_bytes.saturating_add(wire),
            content_bytes: before.content_bytes.saturating_add(content).saturating_add(copied),
            files_sent: self.counters.files_sent.load(Relaxed),
            duration_ms: before.duration_ms.saturating_add(u64::try_from(worked).unwrap_or(u64::MAX)),
            progress: (*self.ctx.progress.borrow()).into(),
            deduplicated_bytes: self.counters.bytes_deduplicated.load(Relaxed),
        }
    }

    /// Saves the counters, once the stage is open.
    fn save(&self, wire: u64, content: u64) {
        if let Some(saved) = self.saved.get()
            && let Err(failure) = saved.save(&self.totals(wire, content))
        {
            self.flow.fail(failure);
        }
    }

    /// Does so on a thread of its own: where the destination's disk stands still, leases must be renewed all the same.
    fn save_aside(self: &Arc<Self>, wire: u64, content: u64) -> JoinHandle<()> {
        let attempt = Arc::clone(self);
        tokio::task::spawn_blocking(move || attempt.save(wire, content))
    }

    fn output(&self, wire: u64, content: u64) -> FileOutput {
        self.tell(wire, 0);
        let totals = self.totals(wire, content);
        let mut output = FileOutput { version: VERSION, ..FileOutput::default() };
        self.counters.fill(&mut output);
        output.bytes_on_wire = totals.wire_bytes;
        output.bytes_resent = totals.content_bytes.saturating_sub(self.counters.data_landed.load(Relaxed));
        output.duration_ms = totals.duration_ms;
        output.source_costs = Some(*pull::lock(&self.costs)).filter(|costs| costs.samples > 0);
        output
    }
}

/// Tells progress until the work ends. When the step must stop it parts from the source, so that no thread waits for
/// it; returns how it ended, and what was counted in the end.
async fn watch(
    attempt: &Arc<Attempt>,
    source: Source,
    work: &mut JoinHandle<Result<(Told, Box<Kept>), Failure>>,
) -> (Result<(Told, Box<Kept>), Failure>, (u64, Counted)) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let (stop, finish) = (attempt.ctx.lease.stop(), &attempt.ctx.course.finish);
    let mut rate = Rate::default();
    let mut ticks = 0_u64;
    let mut saving: Option<JoinHandle<()>> = None;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut *work => break Some(done),
            () = stop.cancelled() => {
                attempt.flow.fail(stopped(&attempt.ctx));
                break None;
            }
            () = finish.cancelled(), if attempt.came_before == CameBefore::Pass => {
                attempt.flow.fail(Failure::new(FailureKind::Cancelled, "the last pass follows"));
                break None;
            }
            _ = tick.tick() => {
                // A thread that waits for the source would not notice that another one has failed.
                if attempt.flow.failure().is_some() {
                    break None;
                }
                let (wire, counted) = (source.wire_bytes(), source.counters());
                attempt.tell(wire, rate.of(attempt.counters.bytes_done.load(Relaxed)));
                ticks += 1;
                let is_saved = saving.as_ref().is_none_or(JoinHandle::is_finished);
                if ticks.is_multiple_of(TICKS_PER_S) {
                    attempt.note_cost(*source.cost().borrow());
                }
                if is_saved && ticks.is_multiple_of(SAVE_EVERY_TICKS) {
                    saving = Some(attempt.save_aside(wire, counted.content_bytes));
                }
            }
        }
    };
    let totals = source.finish().await;
    let done = match done {
        Some(done) => done,
        None => work.await,
    };
    if let Some(saving) = saving {
        // What it could not do is kept in the flow.
        saving.await.ok();
    }
    (done.unwrap_or_else(|error| Err(Failure::of(FailureKind::Bug, &error))), totals)
}

/// Bytes per second over the last ticks.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(BootTime, u64)>,
}

impl Rate {
    fn of(&mut self, bytes: u64) -> u64 {
        let now = clock::boot();
        self.samples.push_back((now, bytes));
        if self.samples.len() > RATE_TICKS {
            self.samples.pop_front();
        }
        let Some((first, before)) = self.samples.front() else { return 0 };
        let elapsed_ms = u64::try_from(now.since(*first).as_millis()).unwrap_or(u64::MAX).max(1);
        bytes.saturating_sub(*before).saturating_mul(1000) / elapsed_ms
    }
}

/// Draws what a source proves with that it has a content.
fn nonce() -> Result<[u8; 32], Failure> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| {
        Failure::new(FailureKind::Bug, format!("the kernel gives no random bytes: {error}"))
    })?;
    Ok(nonce)
}

async fn incoming(
    source: &Source,
    params: &FileParams,
    nonce: [u8; 32],
    asked: Watch,
) -> Result<Incoming, Failure> {
    let manifest = source.manifest(ScanRequest { watch: asked, ..request_of(params) }).await?;
    let (fetches, content) = content_of(source, params, Some(nonce)).await?;
    Ok(Incoming { manifest, fetches, content, is_watched: asked != Watch::No })
}

/// The blocking half: one pass.
fn pass(
    attempt: &Attempt,
    params: FileParams,
    memory: &Memory,
    mut incoming: Incoming,
    known: Known,
    (kept, why): (Option<Box<Kept>>, Option<&'static str>),
) -> Result<(Told, Box<Kept>), Failure> {
    let Attempt { ctx, counters, flow, .. } = attempt;
    let _class = ctx.io_class();
    let filter = filter_of(&params)?;
    let owners = Owners::new(&params)?;
    if let (Some(backup), Some(root)) = (&params.rules.backup_dir, open_root(&params.destination_root)?) {
        backup::check(&root.dir(), backup)?;
    }
    let path = Path::new(&params.destination_root);
    let kept = kept.filter(|kept| is_still_there(kept, path));
    let goes_on_counting = kept.is_some();
    let (mut committer, boot_id) = match kept.map(|kept| *kept) {
        Some(Kept { committer, boot_id, counters: earlier }) => {
            counters.go_on_from(&earlier);
            (committer, boot_id)
        }
        None => {
            let (stage, boot_id) = open_stage(ctx, &params, memory)?;
            (Committer::open(stage, ctx.token, ctx.lease.clone(), ctx.kill_point())?, boot_id)
        }
    };
    let number = pull::next_pass(&committer)?;
    let goes_on = attempt.came_before != CameBefore::Nothing;
    let saved = SavedCounters::open(committer.stage(), &ctx.step, goes_on, number)?;
    let first_pass = saved.before.first_pass;
    add(&counters.bytes_deduplicated, saved.before.deduplicated_bytes);
    ctx.progress.send_if_modified(|progress| {
        let before = saved.before.progress.progress(progress);
        let is_behind = progress.files_done < before.files_done;
        if is_behind {
            *progress = before;
        }
        is_behind
    });
    // It is set once: here.
    attempt.saved.set(saved).ok();
    pull::clear_leftovers(committer.stage())?;
    let Beginning { watch, only, why: told } = incoming.begin()?;
    let only = only.map(Arc::new);
    let host = Host {
        pass: number,
        first_pass,
        boot_id: boot_id.clone(),
        is_network_source: attempt.is_network_source,
        source_root: attempt.source_root.clone(),
        known,
        step: ctx.step.clone(),
        began: attempt.began,
        only: only.clone(),
        goes_on_counting,
        why: why.map(str::to_owned).or(told),
    };
    let settings = ScanSettings { workers: SCAN_WORKERS, only, ..ScanSettings::new(filter, memory.folder()) };
    let forecast = Forecast::new(committer.stage(), path, params.delete, settings.clone())?;
    let scan = Scan::start(committer.stage().root.clone(), settings)?;
    let findings = ctx.findings.clone();
    let pass = Pass::new(params, &committer, findings, Arc::clone(counters), Arc::clone(flow), host)?;
    pull::run(&pass, &mut committer, incoming, scan, owners, forecast)?;
    let told = Told { watch, ..pass.told() };
    let counters = Arc::clone(counters);
    Ok((told, Box::new(Kept { committer, boot_id, counters })))
}

/// Whether the root is still the directory that was held; it may have been mounted over or replaced meanwhile.
fn is_still_there(kept: &Kept, path: &Path) -> bool {
    let held = kept.committer.stage().root.stat_self();
    let there = Root::open(path).and_then(|root| root.dir().stat_self());
    held.ok().zip(there.ok()).is_some_and(|(held, there)| held.is_inode(there.dev, there.ino))
}

/// Opens the destination's root and the stage in it, making both if they are missing.
fn open_stage(ctx: &StepContext, params: &FileParams, memory: &Memory) -> Result<(Stage, String), Failure> {
    let path = Path::new(&params.destination_root);
    begun::end(path, memory)?;
    let found = match open_root_of_stage(&params.destination_root, memory)? {
        Some(root) => Stage::find(&root, &ctx.migration, memory)?,
        None => None,
    };
    let stage = match found {
        Some(stage) => stage,
        None => Stage::make(path, &ctx.migration, memory, &ctx.kill_point())?,
    };
    let boot_id =
        Root::open(path).and_then(|root| root.identity()).map_err(|error| of_stage(&error))?.boot_id;
    Ok((stage, ctx.kill_point().boot_id(boot_id)))
}

/// Returns the other side.
pub(crate) fn peer_of(ctx: &StepContext) -> Result<&Peer, Failure> {
    ctx.peer
        .as_ref()
        .ok_or_else(|| Failure::new(FailureKind::Bug, "a step between two hosts was granted without a peer"))
}

/// Returns why the step must stop.
pub(crate) fn stopped(ctx: &StepContext) -> Failure {
    ctx.lease.check().err().unwrap_or_else(|| Failure::new(FailureKind::Cancelled, "the step was stopped"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use crate::pair::{Pair, assert_same};
    use crate::snapshot::snapshot;

    fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// A plain tree: files of several sizes, nested directories, links, odd names and modes.
    fn plain_tree(root: &Path, count: u32) {
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir_all(root.join("empty")).unwrap();
        for number in 0..count {
            let directory = ["", "a", "a/b", "a/b/c"][number as usize % 4];
            let content = vec![u8::try_from(number % 251).unwrap(); (number as usize * 37) % 9000];
            let path = root.join(directory).join(format!("file-{number}"));
            std::fs::write(&path, content).unwrap();
            let mode = [0o644, 0o600, 0o755, 0o4755][number as usize % 4];
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            set_mtime(&path, 1_000_000_000 + i64::from(number), 123_456_789);
        }
        symlink("a/b", root.join("link")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        set_mtime(&root.join("link"), 77, 5);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        for directory in ["a/b/c", "a/b", "a", "empty", ""] {
            set_mtime(&root.join(directory), 900_000_000, 987_654_321);
        }
        std::fs::set_permissions(root.join("a/b"), PermissionsExt::from_mode(0o2711)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_plain_tree_arrives_whole_and_again_costs_nothing() {
        let mut pair = Pair::new();
        plain_tree(&pair.source_root, 700);
        let (output, findings) = pair.copy().await;
        assert_eq!(findings, []);
        let output = output.unwrap();
        assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
        assert_eq!((output.files_total, output.files_sent, output.files_unchanged), (703, 703, 0));
        assert!(!output.is_partial && output.bytes_on_wire > 0);
        assert_eq!(pair.progress.borrow().permille(), 1000);

        let (verified, findings) = pair.verify().await;
        assert_eq!(findings, []);
        let verified = verified.unwrap();
        assert!(verified.is_verified && !verified.is_partial);
        assert_eq!(verified.source_digest, verified.destination_digest);
        assert_eq!((verified.proof.content_files, verified.proof.metadata_files), (700, 3));

        let (output, findings) = pair.copy().await;
        assert_eq!(findings, []);
        let output = output.unwrap();
        assert_eq!((output.files_sent, output.files_unchanged), (0, 703));
        assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied again");

        assert_eq!(pair.undo().await.0, Ok(0));
        assert!(!pair.destination_root.exists());
        pair.close().await;
    }
}
