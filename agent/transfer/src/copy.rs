//! `file.copy`, and the same again as `file.catch_up` and `file.finish`: one pass over the tree.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::step::file::{FileOutput, FileParams, VERSION};
use sync::byte_string::ByteString;
use sync::filter::Filter;
use sync::wire::hello::ScanRequest;
use tokio::task::JoinHandle;
use tree::Root;

use crate::commit::Committer;
use crate::context::{Peer, StepContext};
use crate::endpoint::Endpoint;
use crate::kill_point::KillPoint;
use crate::memory::Memory;
use crate::owner::Owners;
use crate::peer::{ContentReceiver, FetchSender, Source};
use crate::pull::flow::Flow;
use crate::pull::{self, Host, Incoming, Pass};
use crate::scan::{Scan, ScanSettings};
use crate::stage::Stage;
use crate::tally::Counters;
use crate::trouble::of_stage;

/// Lanes for content: the source serves each with a thread.
const CONTENT_LANES: usize = 4;
/// Threads that scan the destination; the source has its own.
const SCAN_WORKERS: usize = 2;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
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
    let began = clock::boot();
    let peer = peer_of(&ctx)?.clone();
    let memory = Memory::open(&ctx.state_dir, &ctx.migration)?;
    ctx.findings.list_in(&memory.list(FINDINGS_LIST))?;
    let stop = ctx.lease.stop().clone();
    let source = tokio::select! {
        source = Source::open(endpoint, &peer, ctx.bandwidth.clone()) => source?,
        () = stop.cancelled() => return Err(stopped(&ctx)),
    };
    let incoming = incoming(&source, &params).await?;
    let is_network = source.opened().is_network_fs;
    let counters = Arc::new(Counters::default());
    let flow = Arc::new(Flow::default());
    let mut work = {
        let (ctx, params, memory) = (ctx.clone(), params.clone(), memory.clone());
        let (counters, flow) = (Arc::clone(&counters), Arc::clone(&flow));
        tokio::task::spawn_blocking(move || pass(&ctx, params, &memory, incoming, counters, flow, is_network))
    };
    let (done, source) = watch(&ctx, source, &counters, &flow, &mut work).await;
    let bytes_on_wire = match source {
        Some(source) => source.finish().await.0,
        None => 0,
    };
    ctx.findings.flush()?;
    done?;
    let mut output = FileOutput { version: VERSION, bytes_on_wire, ..FileOutput::default() };
    counters.fill(&mut output);
    output.duration_ms = u64::try_from(clock::boot().since(began).as_millis()).unwrap_or(u64::MAX);
    output.findings_total = ctx.findings.totals().total;
    output.list_file = Some(FINDINGS_LIST.to_owned());
    let last = *ctx.progress.borrow();
    ctx.progress.send_replace(counters.progress(bytes_on_wire, &last));
    Ok(output)
}

/// Tells progress until the work ends; closes the connection when the step must stop, so that no thread waits for it.
async fn watch(
    ctx: &StepContext,
    source: Source,
    counters: &Counters,
    flow: &Flow,
    work: &mut JoinHandle<Result<(), Failure>>,
) -> (Result<(), Failure>, Option<Source>) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let stop = ctx.lease.stop();
    let mut source = Some(source);
    loop {
        tokio::select! {
            biased;
            done = &mut *work => {
                let done = done.unwrap_or_else(|error| Err(Failure::of(FailureKind::Bug, &error)));
                return (done, source);
            }
            () = stop.cancelled(), if source.is_some() => {
                flow.fail(stopped(ctx));
                source = None;
            }
            _ = tick.tick() => {
                // A thread that waits for the source would not notice that another one has failed.
                if flow.failure().is_some() {
                    source = None;
                }
                let Some(source) = &source else { continue };
                let last = *ctx.progress.borrow();
                ctx.progress.send_replace(counters.progress(source.wire_bytes(), &last));
            }
        }
    }
}

async fn incoming(source: &Source, params: &FileParams) -> Result<Incoming, Failure> {
    let manifest = source.manifest(request_of(params)).await?;
    let (fetches, content) = content_of(source).await?;
    Ok(Incoming { manifest, fetches, content })
}

/// Returns the scan that the parameters ask for.
pub(crate) fn request_of(params: &FileParams) -> ScanRequest {
    let patterns = |patterns: &[String]| {
        patterns.iter().map(|pattern| ByteString(pattern.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    ScanRequest { exclude: patterns(&params.exclude), include: patterns(&params.include) }
}

/// Opens lanes for content.
pub(crate) async fn content_of(source: &Source) -> Result<(FetchSender, ContentReceiver), Failure> {
    source.content(CONTENT_LANES).await
}

/// The blocking half: one pass.
fn pass(
    ctx: &StepContext,
    params: FileParams,
    memory: &Memory,
    incoming: Incoming,
    counters: Arc<Counters>,
    flow: Arc<Flow>,
    is_network_source: bool,
) -> Result<(), Failure> {
    let filter = filter_of(&params)?;
    let owners = Owners::new(params.numeric_ids);
    let (stage, boot_id) = open_stage(ctx, &params, memory)?;
    let mut committer = Committer::open(stage, ctx.token, ctx.lease.clone(), KillPoint::default())?;
    pull::clear_leftovers(committer.stage())?;
    let settings = ScanSettings { filter, workers: SCAN_WORKERS, spill_dir: memory.folder().to_owned() };
    let host = Host { boot_id, is_network_source };
    let scan = Scan::start(committer.stage().root.clone(), settings)?;
    let pass = Pass::new(params, &committer, ctx.findings.clone(), counters, flow, host)?;
    pull::run(&pass, &mut committer, incoming, scan, owners)
}

/// Opens the destination's root and the stage in it, making both if they are missing.
fn open_stage(ctx: &StepContext, params: &FileParams, memory: &Memory) -> Result<(Stage, String), Failure> {
    let (root, created) =
        Root::create(Path::new(&params.destination_root)).map_err(|error| of_stage(&error))?;
    let boot_id = root.identity().map_err(|error| of_stage(&error))?.boot_id;
    let stage = match Stage::find(&root, &ctx.migration, memory)? {
        Some(stage) => stage,
        None => Stage::make(&root, &ctx.migration, created, memory)?,
    };
    Ok((stage, boot_id))
}

/// Returns the filter that the parameters ask for.
pub(crate) fn filter_of(params: &FileParams) -> Result<Filter, Failure> {
    Filter::new(&params.exclude, &params.include).map_err(|error| Failure::of(FailureKind::Invalid, &error))
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

    use crate::pair::{Pair, assert_same, snapshot};

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
