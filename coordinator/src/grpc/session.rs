//! One connected agent: an actor with one loop.
//!
//! Everything in a session may be repeated, and a lost one is replaced by the next hello. The actor never does for an
//! agent what needs a leader when this node is none: a proposal that fails for that reason ends the session with the
//! leader's address.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::HostFacts;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::principal::Principal;
use common::progress::Progress;
use common::sealing::Sealed;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::{self, AgentMessage, CoordinatorMessage};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::refuse;
use crate::hub::Hub;
use crate::live::grant;
use crate::live::progress::LiveProgress;
use crate::live::sessions::{Request, SessionHandle};
use crate::reconcile::pace;
use crate::state::step::Event as StepEvent;
use crate::state::{Command, Outcome, host, lease, migration};
use crate::vault::opening::{self, Asker};

/// A session over which nothing was heard for this long is as good as gone; agents send a heartbeat every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long an agent that does not read may hold its session up.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How long the reader of a list may hold the session up; a slower one loses the list and not the lease.
const PIECE_DEADLINE: Duration = Duration::from_secs(2);
/// Questions to one agent that wait for an answer.
const QUESTIONS_MAX: usize = 64;
/// Secrets that are opened for one agent at once.
pub(super) const OPENINGS_MAX: usize = 8;
/// Leases in one heartbeat; far more than an agent runs at once.
const RENEWALS_MAX: usize = 1024;

/// The actor.
pub struct Session {
    pub(super) hub: Arc<Hub>,
    pub(super) tenant: TenantId,
    pub(super) host: HostName,
    pub(super) handle: SessionHandle,
    pub(super) inbound: Streaming<AgentMessage>,
    pub(super) outbound: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) cut: CancellationToken,
    pub(super) questions: Questions,
    pub(super) sealing_key: Option<Vec<u8>>,
    pub(super) openings: Arc<Semaphore>,
}

/// Questions that wait for an answer, by number.
#[derive(Default)]
pub(super) struct Questions {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

enum Waiting {
    Answer(oneshot::Sender<Result<String, Failure>>),
    List(mpsc::Sender<Result<Vec<u8>, Failure>>),
}

/// What the loop woke for.
enum Event {
    Request(Request),
    Message(FromAgent),
    End(Option<Status>),
}

impl Session {
    /// Runs until the agent leaves, the session is cut, or this node leads no more.
    pub(super) async fn run(mut self) {
        loop {
            let event = tokio::select! {
                biased;
                () = self.cut.cancelled() => Event::End(Some(self.why_cut())),
                request = self.requests.recv() => request.map_or(Event::End(None), Event::Request),
                message = tokio::time::timeout(SILENCE_MAX, self.inbound.message()) => match message {
                    Ok(Ok(Some(AgentMessage { message: Some(message) }))) => Event::Message(message),
                    Ok(Ok(Some(AgentMessage { message: None }))) => continue,
                    Ok(Ok(None) | Err(_)) | Err(_) => Event::End(None),
                },
            };
            let handled = match event {
                Event::Request(request) => self.serve(request).await,
                Event::Message(message) => self.take(message).await,
                Event::End(status) => Err(status),
            };
            if let Err(status) = handled {
                if let Some(status) = status {
                    // The agent may be gone already; then there is nobody to tell.
                    drop(self.outbound.try_send(Err(status)));
                }
                break;
            }
        }
        self.hub.sessions.leave(&self.tenant, &self.host, &self.handle);
        tracing::info!(host = %self.host, "a session ended");
        self.hub.wake.notify_one();
    }

    /// What an agent is told whose session is cut: where the leader is, unless the cut was meant for the agent itself.
    fn why_cut(&self) -> Status {
        if self.hub.is_leader() && !self.hub.shutdown.is_cancelled() {
            return Status::aborted(
                "the session was cut: another one took its place, or the host was revoked",
            );
        }
        refuse::elsewhere(&self.hub)
    }

    /// Does what another part asks.
    async fn serve(&mut self, request: Request) -> Result<(), Option<Status>> {
        match request {
            Request::Send(message) => self.send(*message).await,
            Request::Ask { question, answer } => {
                let number = self.questions.enter(Waiting::Answer(answer));
                self.send(ToAgent::Question(v1::Question { number, question: Some(question) })).await
            }
            Request::List { question, pieces } => {
                let number = self.questions.enter(Waiting::List(pieces));
                self.send(ToAgent::Question(v1::Question { number, question: Some(question) })).await
            }
        }
    }

    /// Takes one message of the agent.
    async fn take(&mut self, message: FromAgent) -> Result<(), Option<Status>> {
        let agent_wall = match &message {
            FromAgent::Heartbeat(heartbeat) if heartbeat.wall_ms != 0 => Some(WallMs(heartbeat.wall_ms)),
            FromAgent::Heartbeat(_)
            | FromAgent::Hello(_)
            | FromAgent::Progress(_)
            | FromAgent::Event(_)
            | FromAgent::Answer(_)
            | FromAgent::OpenSecret(_)
            | FromAgent::Facts(_)
            | FromAgent::Leaving(_) => None,
        };
        self.handle.note_heard(clock::wall(), agent_wall);
        match message {
            FromAgent::Hello(_) => {
                Err(Some(Status::invalid_argument("a session begins with one hello and has no second")))
            }
            FromAgent::Heartbeat(heartbeat) => self.renew(heartbeat).await,
            FromAgent::Progress(progress) => {
                self.note_progress(progress);
                Ok(())
            }
            FromAgent::Event(event) => self.take_event(event).await,
            FromAgent::Answer(answer) => {
                self.questions.take(answer).await;
                Ok(())
            }
            FromAgent::Facts(facts) => self.take_facts(&facts.facts).await,
            FromAgent::Leaving(leaving) => self.take_back(leaving).await,
            FromAgent::OpenSecret(request) => {
                self.open_secret(request);
                Ok(())
            }
        }
    }

    /// Renews the leases that are held, and revokes those that are not.
    ///
    /// Only a leader that a quorum has just acknowledged may answer; one that is cut off sends the agent away, to look
    /// for the leader before its leases end.
    async fn renew(&mut self, heartbeat: v1::Heartbeat) -> Result<(), Option<Status>> {
        if !self.hub.leads_surely().await {
            return Err(Some(refuse::elsewhere(&self.hub)));
        }
        let (now, wall, state) = (clock::boot(), clock::wall(), self.hub.state());
        let seals = self.hub.seals().map_err(|failure| Some(proto::status::to_status(&failure)))?;
        let (mut leases, mut over) = (Vec::new(), Vec::new());
        for held in heartbeat.renew.into_iter().take(RENEWALS_MAX) {
            let Some((migration, place, token)) = find_lease(&state, &self.tenant, &self.host, &held) else {
                over.push(held);
                continue;
            };
            let Some(lease) = &migration.steps[place].lease else { continue };
            let ticket = grant::ticket(&state, &seals.ticket_key, &migration, place, lease, wall);
            let pace = pace::of(&self.hub, token);
            self.hub.lease_clock.renew(token, now);
            leases.push(v1::RenewedLease {
                token: Some(grant::token(token)),
                ticket: ticket.map_err(|failure| Some(proto::status::to_status(&failure)))?,
                bandwidth_limit: pace.bytes_per_s.unwrap_or(0),
                max_load: pace.max_load,
                idle_io: pace.is_idle,
            });
        }
        self.send(ToAgent::Renewed(v1::Renewed { number: heartbeat.number, leases })).await?;
        for held in over {
            let reason = "the lease is over".to_owned();
            let v1::HeldLease { migration, step, token } = held;
            self.send(ToAgent::Revoke(v1::Revoke { migration, step, token, reason })).await?;
        }
        Ok(())
    }

    /// Ends the leases that an agent gives back as it ends; whoever holds them next need not wait for their time.
    ///
    /// The effect of each end tells the agent; what was over already it is told here.
    async fn take_back(&mut self, leaving: v1::Leaving) -> Result<(), Option<Status>> {
        self.handle.leave();
        for held in leaving.released.into_iter().take(RENEWALS_MAX) {
            let reason = format!("the agent of `{}` was stopped", self.host);
            let found = find_lease(&self.hub.state(), &self.tenant, &self.host, &held);
            let ended = match found {
                None => Ok(()),
                Some((migration, place, token)) => {
                    let (tenant, step) = (self.tenant.clone(), migration.plan.steps[place].id.clone());
                    let (migration, reason) = (migration.id.clone(), reason.clone());
                    let command = lease::Command::End { tenant, migration, step, token, reason };
                    self.hub.propose(self.hub.principal(), Command::Lease(command)).await.map(drop)
                }
            };
            match ended {
                Err(failure) if is_about_leadership(&failure) => {
                    return Err(Some(refuse::elsewhere(&self.hub)));
                }
                // It is over, by this or by something else.
                Ok(()) | Err(_) => {}
            }
            let v1::HeldLease { migration, step, token } = held;
            self.send(ToAgent::Revoke(v1::Revoke { migration, step, token, reason })).await?;
        }
        Ok(())
    }

    fn note_progress(&self, message: v1::StepProgress) {
        let v1::StepProgress { migration, step, token, progress } = message;
        let key = (migration.parse::<MigrationId>(), step.parse::<StepId>());
        let (Ok(migration), Ok(step)) = key else { return };
        let (Some(token), Ok(progress)) = (token_of(token), serde_json::from_str::<Progress>(&progress))
        else {
            return;
        };
        // Only what a lease of this agent covers is kept, so that no agent fills the leader's memory.
        let is_held = self.hub.state().migrations().get(&self.tenant, &migration).is_some_and(|migration| {
            migration.held(&step, token).is_some_and(|place| {
                migration.steps[place].lease.as_ref().is_some_and(|lease| lease.host == self.host)
            })
        });
        if is_held {
            let key = (self.tenant.clone(), migration, step);
            self.hub.progress.note(key, LiveProgress { token, progress });
        }
    }

    /// Makes an event durable and acknowledges it.
    async fn take_event(&mut self, message: v1::StepEvent) -> Result<(), Option<Status>> {
        let number = message.number;
        let command = match command_of(&self.tenant, &self.host, message) {
            Ok(command) => command,
            Err(failure) => {
                tracing::warn!(host = %self.host, number, %failure, "an event cannot be read");
                return Err(Some(proto::status::to_status(&failure)));
            }
        };
        match self.propose(command).await {
            Ok(Outcome::Acknowledged { number, .. }) => {
                self.send(ToAgent::Acknowledge(v1::Acknowledge { number })).await
            }
            Ok(_) => Ok(()),
            Err(failure) if is_about_leadership(&failure) => Err(Some(refuse::elsewhere(&self.hub))),
            Err(failure) => {
                tracing::warn!(host = %self.host, number, %failure, "an event was refused");
                Ok(())
            }
        }
    }

    async fn take_facts(&mut self, document: &str) -> Result<(), Option<Status>> {
        let facts: HostFacts = match serde_json::from_str(document) {
            Ok(facts) => facts,
            Err(error) => {
                return Err(Some(Status::invalid_argument(format!("the facts cannot be read: {error}"))));
            }
        };
        let known = self.hub.state();
        let known = known.hosts().get(&self.tenant, &self.host).and_then(|host| host.facts.as_ref());
        if known == Some(&facts) {
            return Ok(());
        }
        let change = host::Change::Facts(facts);
        let command = host::Command { tenant: self.tenant.clone(), host: self.host.clone(), change };
        match self.propose(Command::Host(command)).await {
            Err(failure) if is_about_leadership(&failure) => Err(Some(refuse::elsewhere(&self.hub))),
            Err(failure) => {
                tracing::warn!(host = %self.host, %failure, "facts were refused");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Opens a secret beside the loop: a vault may take its time, and renewals must not wait for it.
    fn open_secret(&self, request: v1::OpenSecret) {
        let number = request.number;
        let (hub, handle) = (Arc::clone(&self.hub), self.handle.clone());
        let asker = Asker {
            tenant: self.tenant.clone(),
            host: self.host.clone(),
            sealing_key: self.sealing_key.clone(),
        };
        let turn = Arc::clone(&self.openings).try_acquire_owned();
        self.hub.shutdown.spawn(async move {
            let opened = match turn {
                Ok(_turn) => tokio::select! {
                    () = hub.shutdown.cancelled() => return,
                    opened = opening::open(&hub, &asker, request) => opened,
                },
                Err(_full) => {
                    Err(Failure::new(FailureKind::Unreachable, "too many secrets are asked for at once"))
                }
            };
            if let Err(failure) = &opened {
                tracing::warn!(host = %asker.host, %failure, "a secret was not opened");
            }
            // A session that has ended is followed by one that asks again.
            handle.send(ToAgent::OpenedSecret(answer_of(number, opened))).ok();
        });
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Failure> {
        let principal = Principal::Agent { tenant: self.tenant.clone(), host: self.host.clone() };
        self.hub.propose(principal, command).await
    }

    async fn send(&self, message: ToAgent) -> Result<(), Option<Status>> {
        let message = CoordinatorMessage { message: Some(message) };
        match tokio::time::timeout(SEND_DEADLINE, self.outbound.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_closed)) => Err(None),
            Err(_elapsed) => Err(Some(Status::deadline_exceeded("the agent does not read its session"))),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tenant", &self.tenant)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Questions {
    fn enter(&mut self, waiting: Waiting) -> u64 {
        // Whoever stopped waiting has closed its end.
        self.waiting.retain(|_, waiting| match waiting {
            Waiting::Answer(answer) => !answer.is_closed(),
            Waiting::List(pieces) => !pieces.is_closed(),
        });
        if self.waiting.len() >= QUESTIONS_MAX {
            self.waiting.pop_first();
        }
        self.last += 1;
        self.waiting.insert(self.last, waiting);
        self.last
    }

    async fn take(&mut self, answer: v1::Answer) {
        use v1::answer::Answer;
        let Some(waiting) = self.waiting.remove(&answer.number) else { return };
        match (waiting, answer.answer) {
            // An asker that stopped waiting has closed its end, which is no news here.
            (Waiting::Answer(asker), Some(Answer::Document(document))) => drop(asker.send(Ok(document))),
            (Waiting::Answer(asker), Some(Answer::Failure(failure))) => {
                drop(asker.send(Err(failure_of(&failure))));
            }
            (Waiting::List(pieces), Some(Answer::Piece(piece))) => {
                let is_last = piece.is_empty();
                let sent = tokio::time::timeout(PIECE_DEADLINE, pieces.send(Ok(piece))).await;
                if !is_last && matches!(sent, Ok(Ok(()))) {
                    self.waiting.insert(answer.number, Waiting::List(pieces));
                }
            }
            (Waiting::List(pieces), Some(Answer::Failure(failure))) => {
                drop(pieces.try_send(Err(failure_of(&failure))));
            }
            (Waiting::Answer(_), Some(Answer::Piece(_)) | None)
            | (Waiting::List(_), Some(Answer::Document(_)) | None) => {}
        }
    }
}

fn answer_of(number: u64, opened: Result<Sealed, Failure>) -> v1::OpenedSecret {
    use v1::opened_secret::Answer;
    let answer = match opened {
        Ok(Sealed { encapsulated, ciphertext }) => {
            Answer::Sealed(v1::SealedSecret { encapsulated, ciphertext })
        }
        Err(failure) => {
            Answer::Failure(v1::Failure { document: serde_json::to_string(&failure).unwrap_or_default() })
        }
    };
    v1::OpenedSecret { number, answer: Some(answer) }
}

/// Whether a proposal failed because this node does not lead, or cannot.
fn is_about_leadership(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Unreachable | FailureKind::Timeout)
}

/// Returns the lease that an agent says it holds, if it does.
fn find_lease(
    state: &crate::state::State,
    tenant: &TenantId,
    host: &HostName,
    held: &v1::HeldLease,
) -> Option<(Arc<migration::Migration>, usize, FencingToken)> {
    let token = token_of(held.token)?;
    let migration = state.migrations().get(tenant, &held.migration.parse().ok()?)?;
    let place = migration.held(&held.step.parse().ok()?, token)?;
    let is_ours = migration.steps[place].lease.as_ref().is_some_and(|lease| lease.host == *host);
    is_ours.then(|| (Arc::clone(migration), place, token))
}

/// Returns the leases of a hello that are over, and notes the others as renewed.
pub(super) fn sort_held(
    hub: &Hub,
    tenant: &TenantId,
    host: &HostName,
    held: Vec<v1::HeldLease>,
) -> Vec<v1::HeldLease> {
    let (now, state) = (clock::boot(), hub.state());
    let mut over = Vec::new();
    for held in held.into_iter().take(RENEWALS_MAX) {
        match find_lease(&state, tenant, host, &held) {
            Some((_, _, token)) => hub.lease_clock.renew(token, now),
            None => over.push(held),
        }
    }
    over
}

fn token_of(token: Option<v1::Token>) -> Option<FencingToken> {
    token.map(|v1::Token { epoch, index }| FencingToken { epoch, index })
}

fn failure_of(failure: &v1::Failure) -> Failure {
    serde_json::from_str(&failure.document).unwrap_or_else(|error| {
        Failure::new(FailureKind::Bug, format!("the agent's failure cannot be read: {error}"))
    })
}

/// Turns an event into the command that makes it durable.
fn command_of(tenant: &TenantId, host: &HostName, message: v1::StepEvent) -> Result<Command, Failure> {
    use v1::step_event::Event;
    let v1::StepEvent { number, migration, step, token, event } = message;
    let invalid = |what: &str, why: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Invalid, format!("event {number}: {what}: {why}"))
    };
    let event = match event.ok_or_else(|| invalid("event", &"it is missing"))? {
        Event::Succeeded(output) => StepEvent::Succeeded(output),
        Event::Failed(failure) => StepEvent::Failed(failure_of(&failure)),
        Event::CaughtUpLagMs(lag_ms) => StepEvent::CaughtUp(lag_ms),
        Event::SoFar(output) => StepEvent::SoFar(output),
        Event::Findings(document) => {
            StepEvent::Findings(serde_json::from_str(&document).map_err(|error| invalid("findings", &error))?)
        }
    };
    Ok(Command::Migration(migration::Command::Event {
        tenant: tenant.clone(),
        host: host.clone(),
        number,
        migration: migration.parse().map_err(|error| invalid("migration", &error))?,
        step: step.parse().map_err(|error| invalid("step", &error))?,
        token: token_of(token).ok_or_else(|| invalid("token", &"it is missing"))?,
        event,
    }))
}
