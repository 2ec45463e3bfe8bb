//! One attempt of one step: lease, journal, run, events, release.
//!
//! The order holds whatever happens: nothing runs before the lease came to life and the journal says so, and the last
//! event is durable before the lease is let go. A panic of a step is its failure and nobody else's. What a step says
//! after its lease was lost counts for nothing, so it is not sent.

use std::path::PathBuf;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::finding::Finding;
use common::progress::Progress;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::transport::TransportChoice;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::MissedTickBehavior;
use transfer::{Course, Endpoint, FindingSink, SoFar, StepContext};

use super::Step;
use super::order::{Grant, Report};
use crate::journal::{Journal, JournalError, OutboxEvent, OutboxRecord, RunningStep};
use crate::link::lease::LeaseEnd;
use crate::link::outbox::{Outbox, end_of};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long after its end a lease's step may go on before a line in the log says so, again and again.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The largest document of findings in one event (the protocol says 48 KiB).
const FINDINGS_BYTES_MAX: usize = 48 * 1024;
/// The longest message of a failure; it has to fit into one record of the journal with everything around it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What every attempt works with.
#[derive(Clone, Debug)]
pub struct Workplace {
    /// What is running, for after a crash.
    pub journal: Journal,
    /// Where events go.
    pub outbox: Outbox,
    /// Where progress and answers go.
    pub reports: mpsc::Sender<Report>,
    /// The data port.
    pub endpoint: Endpoint,
    /// The agent's directory.
    pub state_dir: PathBuf,
}

/// What a failure is to the coordinator: nobody asked this step to stop, so what says so came from the other side, and
/// another attempt may do better.
fn told(failure: Failure, is_cancelled: bool) -> Failure {
    match failure.kind {
        FailureKind::Cancelled if !is_cancelled => {
            let message = format!("the other side stopped: {}", failure.message);
            Failure { context: failure.context, ..Failure::new(FailureKind::Unreachable, message) }
        }
        _ => failure,
    }
}

/// Runs one attempt to its end, whatever that is. `tasks` is what the step runs on.
pub async fn attempt(workplace: Workplace, tasks: Shutdown, step: &'static dyn Step, grant: Grant) {
    let lease = grant.lease.clone();
    if !lease.came_to_life().await {
        if lease.ended() == Some(LeaseEnd::Cancelled) {
            tell(&workplace, &grant, Err(Failure::new(FailureKind::Cancelled, "the step was cancelled")))
                .await;
        }
        return;
    }
    let running = RunningStep {
        migration: lease.migration().clone(),
        step: lease.step().clone(),
        token: lease.token(),
        kind: grant.kind.clone(),
        attempt: grant.attempt,
        is_undo: grant.is_undo,
    };
    let outcome = match workplace.journal.begin(lease.token(), &running).await {
        Ok(()) => run(&workplace, &tasks, step, &grant).await,
        Err(error) => Err(error.into()),
    };
    let (migration, step, token) = (lease.migration(), lease.step(), lease.token());
    match lease.ended() {
        // The next start, or whoever holds the lease now, goes on from what is on disk.
        Some(LeaseEnd::Lost | LeaseEnd::Shutdown) => {
            tracing::info!(%migration, %step, fence = %token, "attempt stopped");
        }
        ended @ (Some(LeaseEnd::Cancelled) | None) => {
            let outcome = outcome.map_err(|failure| told(failure, ended.is_some()));
            tracing::info!(%migration, %step, fence = %token, failure = ?outcome.as_ref().err(), "attempt ended");
            tell(&workplace, &grant, outcome).await;
        }
    }
    if let Err(error) = workplace.journal.end(token) {
        tracing::warn!(error = %common::failure::chain(&error), "the end of a step was not noted");
    }
}

/// Runs the step and passes on what it says meanwhile.
async fn run(
    workplace: &Workplace,
    tasks: &Shutdown,
    step: &'static dyn Step,
    grant: &Grant,
) -> Result<String, Failure> {
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (findings, findings_seen) = FindingSink::new();
    let course = Course { finish: grant.lease.finish(), so_far: watch::Sender::new(None) };
    let seen = Seen { progress: progress_seen, so_far: course.so_far.subscribe(), findings: findings_seen };
    let context = context(workplace, grant, progress, findings, course);
    let params = grant.params.clone();
    let work = if grant.is_undo {
        step.undo(context, params)
    } else {
        step.run(context, workplace.endpoint.clone(), params)
    };
    let lease = &grant.lease;
    tracing::info!(migration = %lease.migration(), step = %lease.step(), fence = %lease.token(),
        kind = grant.kind, attempt = grant.attempt, undo = grant.is_undo, "attempt begun");
    let work = tasks.spawn(work);
    let outcome = attend(workplace, grant, work, seen).await;
    outcome.unwrap_or_else(|error| Err(of_panic(error)))
}

fn context(
    workplace: &Workplace,
    grant: &Grant,
    progress: watch::Sender<Progress>,
    findings: FindingSink,
    course: Course,
) -> StepContext {
    let lease = &grant.lease;
    let peer = grant.peer.as_ref().map(|peer| transfer::Peer {
        tenant: peer.tenant.clone(),
        host: peer.host.clone(),
        addresses: peer.addresses.clone(),
        token: lease.token(),
        ticket: lease.ticket(),
        news: lease.news(),
        sparing: lease.sparing(),
        was_reached: false,
        compression: Compression::Auto,
        transport: TransportChoice::Auto,
        relay: peer.relay.clone(),
    });
    StepContext {
        migration: lease.migration().clone(),
        step: lease.step().clone(),
        token: lease.token(),
        attempt: grant.attempt,
        lease: lease.guard(),
        progress,
        findings,
        peer,
        bandwidth: lease.bandwidth(),
        state_dir: workplace.state_dir.clone(),
        course,
    }
}

/// What a step says while it works.
struct Seen {
    progress: watch::Receiver<Progress>,
    so_far: watch::Receiver<Option<SoFar>>,
    findings: mpsc::Receiver<Finding>,
}

/// Waits for the step's end, telling progress and findings, and complaining when it does not stop.
async fn attend(
    workplace: &Workplace,
    grant: &Grant,
    mut work: JoinHandle<Result<String, Failure>>,
    seen: Seen,
) -> Result<Result<String, Failure>, JoinError> {
    let Seen { mut progress, mut so_far, mut findings } = seen;
    let mut is_caught_up = false;
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_stopping, mut batch) = (false, Batch::default());
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            _end = grant.lease.over(), if !is_stopping => is_stopping = true,
            Some(finding) = findings.recv() => batch.add(workplace, grant, finding).await,
            Ok(()) = so_far.changed() => {
                let said = so_far.borrow_and_update().clone();
                is_caught_up |= tell_so_far(workplace, grant, said, is_caught_up).await;
            }
            _ = interval.tick() => {
                batch.tell(workplace, grant).await;
                if progress.has_changed().unwrap_or(false) {
                    let report = Report::Progress { lease: grant.lease.clone(), progress: *progress.borrow_and_update() };
                    // Droppable: the next one says more.
                    workplace.reports.try_send(report).ok();
                }
            }
            () = tokio::time::sleep(STOP_PATIENCE), if is_stopping => {
                tracing::warn!(migration = %grant.lease.migration(), step = %grant.lease.step(), "a step is slow to stop");
            }
        }
    };
    // The sink went with the step, so this ends.
    while let Some(finding) = findings.recv().await {
        batch.add(workplace, grant, finding).await;
    }
    batch.tell(workplace, grant).await;
    outcome
}

/// Findings that fit into one event.
#[derive(Default)]
struct Batch {
    document: String,
}

impl Batch {
    async fn add(&mut self, workplace: &Workplace, grant: &Grant, finding: Finding) {
        let Ok(finding) = serde_json::to_string(&finding) else { return };
        if self.document.len() + finding.len() + 2 > FINDINGS_BYTES_MAX {
            self.tell(workplace, grant).await;
        }
        if finding.len() + 2 > FINDINGS_BYTES_MAX {
            // Two paths of 4 KiB, escaped, fit by far; a larger one is in the list file and in the counts.
            return;
        }
        self.document.push(if self.document.is_empty() { '[' } else { ',' });
        self.document.push_str(&finding);
    }

    async fn tell(&mut self, workplace: &Workplace, grant: &Grant) {
        if self.document.is_empty()
            || matches!(grant.lease.ended(), Some(LeaseEnd::Lost | LeaseEnd::Shutdown))
        {
            return;
        }
        let document = std::mem::take(&mut self.document) + "]";
        // While the coordinator is away, findings wait here; the step goes on.
        tokio::select! {
            () = workplace.outbox.has_room() => {}
            _end = grant.lease.over() => {}
        }
        if let Err(error) = append(workplace, grant, OutboxEvent::Findings(document)).await {
            tracing::warn!(error = %common::failure::chain(&error), "findings were not kept");
        }
    }
}

/// Tells what a continuous step did so far, and once that it is caught up; says whether it did the latter.
async fn tell_so_far(workplace: &Workplace, grant: &Grant, said: Option<SoFar>, was_caught_up: bool) -> bool {
    let Some(SoFar { output, lag_ms }) = said else { return false };
    let caught_up = lag_ms.filter(|_| !was_caught_up).map(|lag_ms| OutboxEvent::CaughtUp { lag_ms });
    let is_told = caught_up.is_some();
    let events = super::write(&output).map(OutboxEvent::SoFar).ok().into_iter().chain(caught_up);
    for event in events {
        if let Err(error) = append(workplace, grant, event).await {
            tracing::warn!(error = %common::failure::chain(&error), "what a step did so far was not kept");
            return false;
        }
    }
    is_told
}

/// Makes the end of the step durable. A disk that refuses leaves the lease to run out, and the step to be run again.
async fn tell(workplace: &Workplace, grant: &Grant, mut outcome: Result<String, Failure>) {
    if let Err(failure) = &mut outcome {
        let end = failure.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        failure.message.truncate(end);
    }
    let told = match append(workplace, grant, end_of(&outcome)).await {
        Err(JournalError::TooLarge(bytes)) => {
            let message = format!("the step's last word has {bytes} bytes, more than the journal takes");
            append(workplace, grant, end_of(&Err(Failure::new(FailureKind::Bug, message)))).await
        }
        told => told,
    };
    if let Err(error) = told {
        tracing::error!(error = %common::failure::chain(&error), step = %grant.lease.step(),
            "the end of a step was not kept; it will be run again");
    }
}

async fn append(workplace: &Workplace, grant: &Grant, event: OutboxEvent) -> Result<(), JournalError> {
    let lease = &grant.lease;
    let (migration, step, token) = (lease.migration().clone(), lease.step().clone(), lease.token());
    workplace.outbox.append(OutboxRecord { migration, step, token, event }).await.map(drop)
}

/// A panic is a bug of ours: the step fails, the agent lives.
fn of_panic(error: JoinError) -> Failure {
    let message = match error.try_into_panic() {
        Ok(payload) => {
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            format!("the step panicked: {}", text.unwrap_or_else(|| "without a message".to_owned()))
        }
        Err(_cancelled) => "the step was dropped".to_owned(),
    };
    Failure::new(FailureKind::Bug, message).hint("report this with the agent's log")
}
