//! The network between agents and leaders: ordered within a session, late, cut, and never truthful about what arrived.

use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId};
use common::progress::Progress;

use crate::schedule::Event;
use crate::world::World;

/// A message of one session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) session: u64,
    pub(crate) body: Body,
}

/// Which lease, as the wire names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    pub(crate) migration: MigrationId,
    pub(crate) step: StepId,
    pub(crate) token: FencingToken,
}

/// What a lease asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Granted {
    pub(crate) held: Held,
    pub(crate) place: Place,
    pub(crate) is_undo: bool,
    pub(crate) is_read_only: bool,
    pub(crate) is_continuous: bool,
    pub(crate) finish: bool,
}

/// A root of one migration on a machine; the last part tells apart the steps that have a root of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) machine: u64,
    pub(crate) root: u64,
    pub(crate) migration: MigrationId,
    pub(crate) part: String,
}

/// An event on its way to the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) held: Held,
    pub(crate) word: Word,
}

/// What an agent tells of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    Succeeded,
    FailedForNow,
    FailedForGood,
    Corrupt,
    CaughtUp,
    Finding,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Body {
    // From an agent.
    Hello { incarnation: u64, held: Vec<Held> },
    Heartbeat { number: u64, renew: Vec<Held> },
    Event { number: u64, record: Record },
    Progress { held: Held, files_done: u64, files_total: u64 },
    Settled { migration: MigrationId, token: FencingToken },
    // From a leader.
    Welcome { acknowledged: u64 },
    Renewed { number: u64, tokens: Vec<FencingToken> },
    Acknowledge { number: u64 },
    Grant(Granted),
    Revoke { token: FencingToken },
    Settle { place: Place, token: FencingToken },
    Cut,
}

impl Body {
    /// Whether an agent says it.
    fn is_from_agent(&self) -> bool {
        match self {
            Self::Hello { .. }
            | Self::Heartbeat { .. }
            | Self::Event { .. }
            | Self::Progress { .. }
            | Self::Settled { .. } => true,
            Self::Welcome { .. }
            | Self::Renewed { .. }
            | Self::Acknowledge { .. }
            | Self::Grant(_)
            | Self::Revoke { .. }
            | Self::Settle { .. }
            | Self::Cut => false,
        }
    }
}

/// One session: who, with whom, and until when what was sent still arrives.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) host: HostName,
    pub(crate) node: usize,
    pub(crate) term: u64,
    is_open: bool,
    /// What the agent sent arrives until then, although the session has ended.
    arrives_until: u64,
    last_up: u64,
    last_down: u64,
}

/// Progress as a step reports it.
pub(crate) fn progress(files_done: u64, files_total: u64) -> Progress {
    Progress { files_done, files_total, is_scan_complete: true, ..Progress::default() }
}

impl World {
    /// Opens a session of a host with a node.
    pub(crate) fn open_session(&mut self, host: &HostName, node: usize, term: u64) -> u64 {
        let session = Session {
            host: host.clone(),
            node,
            term,
            is_open: true,
            arrives_until: u64::MAX,
            last_up: self.now,
            last_down: self.now,
        };
        self.sessions.push(session);
        self.sessions.len() as u64 - 1
    }

    /// Returns a session.
    pub(crate) fn session(&self, number: u64) -> &Session {
        &self.sessions[usize::try_from(number).unwrap()]
    }

    /// Ends a session for its agent. What the agent had sent may still arrive, late or not at all.
    pub(crate) fn close_session(&mut self, number: u64) {
        let still_arrives = self.random.permille(500);
        let now = self.now;
        let session = &mut self.sessions[usize::try_from(number).unwrap()];
        session.is_open = false;
        session.arrives_until = if still_arrives { u64::MAX } else { now };
    }

    /// Sends a message; it keeps the order of its direction.
    pub(crate) fn send(&mut self, session: u64, body: Body) {
        let known = self.session(session).clone();
        let stalled_until = self.agents.get(&known.host).map_or(0, |agent| agent.cut_until);
        let mut delay = self.random.between(1, 60);
        if self.is_stormy() && self.random.permille(20) {
            delay += self.random.below(9_000);
        }
        let from_agent = body.is_from_agent();
        let last = if from_agent { known.last_up } else { known.last_down };
        let time = (self.now.max(stalled_until) + delay).max(last);
        let record = &mut self.sessions[usize::try_from(session).unwrap()];
        if from_agent {
            record.last_up = time;
        } else {
            record.last_down = time;
        }
        self.schedule.at(time, Event::Deliver(Box::new(Message { session, body })));
    }

    /// Hands a message to whom it is for, unless it was lost with its session.
    pub(crate) fn deliver(&mut self, message: Message) {
        let session = self.session(message.session).clone();
        if message.body.is_from_agent() {
            if session.is_open || self.now <= session.arrives_until {
                self.hear_agent(&session, message.session, message.body);
            }
        } else if session.is_open {
            self.hear_leader(&session.host, message.session, message.body);
        }
    }
}
