//! Who is connected to this leader: a handle for every open session.
//!
//! A host has one session; a newer one takes the place of the older, whose connection is cut. Sending never waits for
//! an agent that does not read: what does not fit is an error, and the reconciler that sent it comes again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime, WallMs};
use common::failure::{Failure, FailureKind};
use common::id::{HostName, TenantId};
use proto::v1::coordinator_message::Message;
use proto::v1::question::Question;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::state::query::Presence;

/// Requests that wait for one session; an agent that is this far behind is as good as silent.
const REQUESTS_MAX: usize = 256;
/// How long an agent may take to answer a question, unless the caller says otherwise.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long an agent may take to look at every entry that an undo would touch: less than `ctl` waits for a change.
pub const PREVIEW_DEADLINE: Duration = Duration::from_secs(50);
/// Pieces of a list between the session and its reader; small, because each may be as large as a message.
pub const PIECES_MAX: usize = 4;

/// What others ask of a session.
#[derive(Debug)]
pub enum Request {
    /// Send this message.
    Send(Box<Message>),
    /// Ask the agent and hand back the document that it answers with.
    Ask {
        /// What is asked.
        question: Question,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<String, Failure>>,
    },
    /// Ask the agent for a list and hand on its pieces.
    List {
        /// What is asked.
        question: Question,
        /// Where the pieces go; it is closed after the last one.
        pieces: mpsc::Sender<Result<Vec<u8>, Failure>>,
    },
}

/// One open session, as others see it.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    number: u64,
    requests: mpsc::Sender<Request>,
    cut: CancellationToken,
    /// The start of the agent that opened it.
    pub incarnation: u64,
    /// When it was opened.
    pub since: BootTime,
    heard: Arc<AtomicU64>,
    clock_ahead_ms: Arc<AtomicI64>,
    is_leaving: Arc<AtomicBool>,
}

impl SessionHandle {
    /// Returns its number among all sessions of this leadership.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Notes that the agent ends in order: it takes no grant any more.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the agent ends in order.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Sends a message without waiting.
    ///
    /// # Errors
    /// When the session has ended or its agent does not read.
    pub fn send(&self, message: Message) -> Result<(), Failure> {
        let sent = self.requests.try_send(Request::Send(Box::new(message)));
        sent.map_err(|_full_or_closed| Failure::new(FailureKind::Unreachable, "the agent does not read"))
    }

    /// Ends the session; its agent opens another.
    pub fn end(&self) {
        self.cut.cancel();
    }

    /// Notes that the agent was heard, and how far its clock is ahead if it said its time.
    pub fn note_heard(&self, now: WallMs, agent_wall: Option<WallMs>) {
        self.heard.store(now.0, Ordering::Relaxed);
        if let Some(agent_wall) = agent_wall {
            let ahead = i64::try_from(agent_wall.since(now)).unwrap_or(i64::MAX);
            let behind = i64::try_from(now.since(agent_wall)).unwrap_or(i64::MAX);
            self.clock_ahead_ms.store(ahead - behind, Ordering::Relaxed);
        }
    }
}

/// The open sessions of this leader.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_host: BTreeMap<(TenantId, HostName), SessionHandle>,
}

impl Sessions {
    /// Enters a session in the place of an older one, which is cut; returns its handle and its requests.
    pub fn enter(
        &self,
        tenant: &TenantId,
        host: &HostName,
        incarnation: u64,
        cut: CancellationToken,
    ) -> (SessionHandle, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut open = self.open();
        open.next += 1;
        let handle = SessionHandle {
            number: open.next,
            requests,
            cut,
            incarnation,
            since: clock::boot(),
            heard: Arc::new(AtomicU64::new(clock::wall().0)),
            clock_ahead_ms: Arc::new(AtomicI64::new(i64::MIN)),
            is_leaving: Arc::new(AtomicBool::new(false)),
        };
        if let Some(older) = open.by_host.insert((tenant.clone(), host.clone()), handle.clone()) {
            older.cut.cancel();
        }
        (handle, receiver)
    }

    /// Takes a session off the list, unless a newer one stands there.
    pub fn leave(&self, tenant: &TenantId, host: &HostName, handle: &SessionHandle) {
        let key = (tenant.clone(), host.clone());
        let mut open = self.open();
        if open.by_host.get(&key).is_some_and(|present| present.number == handle.number) {
            open.by_host.remove(&key);
        }
    }

    /// Returns the session of a host.
    pub fn of(&self, tenant: &TenantId, host: &HostName) -> Option<SessionHandle> {
        self.open().by_host.get(&(tenant.clone(), host.clone())).cloned()
    }

    /// Returns the sessions of a tenant.
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<SessionHandle> {
        let open = self.open();
        open.by_host.iter().filter(|((whose, _), _)| whose == tenant).map(|(_, it)| it.clone()).collect()
    }

    /// Returns every session and whose it is.
    pub fn all(&self) -> Vec<(TenantId, SessionHandle)> {
        self.open().by_host.iter().map(|((whose, _), it)| (whose.clone(), it.clone())).collect()
    }

    /// Returns how many sessions are open.
    pub fn len(&self) -> usize {
        self.open().by_host.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what is known of a host's agent now.
    pub fn presence(&self, tenant: &TenantId, host: &HostName) -> Presence {
        let Some(handle) = self.of(tenant, host) else { return Presence::default() };
        let ahead = handle.clock_ahead_ms.load(Ordering::Relaxed);
        Presence {
            connected: true,
            last_seen: Some(WallMs(handle.heard.load(Ordering::Relaxed))),
            clock_ahead_ms: Some(ahead).filter(|ahead| *ahead != i64::MIN),
            facts: None,
        }
    }

    /// Cuts the session of a host.
    pub fn cut(&self, tenant: &TenantId, host: &HostName) {
        if let Some(handle) = self.of(tenant, host) {
            handle.cut.cancel();
        }
    }

    /// Cuts every session: this process leads no more.
    pub fn cut_all(&self) {
        for handle in self.open().by_host.values() {
            handle.cut.cancel();
        }
    }

    /// Asks a host's agent and returns the document that it answers with.
    ///
    /// # Errors
    /// When the agent is not connected, does not answer in time, or answers with a failure.
    pub async fn ask(
        &self,
        tenant: &TenantId,
        host: &HostName,
        question: Question,
        deadline: Duration,
    ) -> Result<String, Failure> {
        let handle = self.of(tenant, host).ok_or_else(|| not_connected(host))?;
        let (sender, answer) = oneshot::channel();
        let sent = handle.requests.try_send(Request::Ask { question, answer: sender });
        sent.map_err(|_full_or_closed| not_connected(host))?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer.map_err(|failure| failure.context("host", host.as_str())),
            Ok(Err(_session_ended)) => Err(not_connected(host)),
            Err(_elapsed) => {
                let message = format!("the agent of `{host}` did not answer within {} s", deadline.as_secs());
                Err(Failure::new(FailureKind::Timeout, message)
                    .hint(format!("look at the log of the agent on {host}")))
            }
        }
    }

    /// Asks a host's agent for a list and returns its pieces as they come.
    ///
    /// # Errors
    /// When the agent is not connected.
    pub fn list(
        &self,
        tenant: &TenantId,
        host: &HostName,
        question: Question,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, Failure>>, Failure> {
        let handle = self.of(tenant, host).ok_or_else(|| not_connected(host))?;
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let sent = handle.requests.try_send(Request::List { question, pieces });
        sent.map_err(|_full_or_closed| not_connected(host))?;
        Ok(receiver)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is answered for a host whose agent is away.
pub fn not_connected(host: &HostName) -> Failure {
    let message = format!("the agent of `{host}` is not connected");
    Failure::new(FailureKind::Unreachable, message).hint(format!(
        "look whether drover-agent runs on {host} and reaches the coordinators: `ctl host show {host}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_session_takes_the_place_of_the_older() {
        let sessions = Sessions::default();
        let (tenant, host) = (TenantId::default_tenant(), "web1".parse::<HostName>().unwrap());
        let (first_cut, second_cut) = (CancellationToken::new(), CancellationToken::new());
        let (first, _first_requests) = sessions.enter(&tenant, &host, 1, first_cut.clone());
        let (_second, mut requests) = sessions.enter(&tenant, &host, 2, second_cut.clone());
        assert!(first_cut.is_cancelled() && !second_cut.is_cancelled());
        sessions.leave(&tenant, &host, &first);
        assert!(sessions.presence(&tenant, &host).connected);
        let answering = async {
            match requests.recv().await {
                Some(Request::Ask { answer, .. }) => answer.send(Ok("{}".to_owned())).is_ok(),
                _ => false,
            }
        };
        let asking = sessions.ask(&tenant, &host, Question::Root(String::new()), ANSWER_DEADLINE);
        let (answer, was_answered) = tokio::join!(asking, answering);
        assert!(was_answered);
        assert_eq!(answer, Ok("{}".to_owned()));
        let foreign = "other".parse().unwrap();
        assert!(!sessions.presence(&foreign, &host).connected);
    }
}
