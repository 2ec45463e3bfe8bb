//! What passes between the session and the executor.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use common::failure::Failure;
use common::fence::FencingToken;
use common::id::{HostName, TenantId};
use common::progress::Progress;
use transfer::{PeerNews, RelayWay, ServeOrder};

use crate::link::lease::{HeldLease, Pace};

/// What the leader wants.
#[derive(Debug)]
pub enum Order {
    /// Run one attempt of a step, or its undo.
    Grant(Box<Grant>),
    /// Come to an end: a later step follows a continuous one. Another one stops and says that it was cancelled.
    Finish {
        /// The lease.
        token: FencingToken,
    },
    /// Stop at once; the lease is somebody else's.
    Revoke {
        /// The lease.
        token: FencingToken,
        /// Why, for people.
        reason: String,
    },
    /// Let a destination in, and dial it if it does not come.
    Serve(ServeOrder),
    /// Take note of what the leader says of the agent on the other side of a step.
    PeerSeen {
        /// The lease of the step.
        token: FencingToken,
        /// What it says.
        news: PeerNews,
    },
    /// Change how fast, and how carefully, a step goes.
    Paced {
        /// The lease of the step.
        token: FencingToken,
        /// From now on.
        pace: Pace,
    },
    /// Close what is open to hosts whose certificates are void, and let them in no more.
    RevokedHosts {
        /// Each with the generation up to which.
        hosts: Vec<(HostName, u64)>,
    },
    /// Answer a question.
    Question {
        /// In which session it was asked; the answer goes nowhere else.
        session: u64,
        /// Its number there.
        number: u64,
        /// What is asked.
        question: Question,
    },
}

/// The right, and the duty, to run one attempt of one step, or its undo.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The lease that all of it is under.
    pub lease: HeldLease,
    /// Kind and version, as `file.copy@1`.
    pub kind: String,
    /// Counts attempts of this step, from 1.
    pub attempt: u32,
    /// Undo the step instead of running it.
    pub is_undo: bool,
    /// The step's parameters as JSON.
    pub params: String,
    /// Outputs of the steps that this one waited for, JSON by step id.
    pub inputs: BTreeMap<String, String>,
    /// The agent on the other side.
    pub peer: Option<Peer>,
}

/// The agent on the other side of a step.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The tenant of both.
    pub tenant: TenantId,
    /// Its name.
    pub host: HostName,
    /// Where its data port is reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// Where it is met, if not there.
    pub relay: Option<Arc<RelayWay>>,
}

/// A question of the leader.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked for.
    pub asked_for: AskedFor,
    /// The question as JSON.
    pub document: String,
}

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedFor {
    /// What stands at a root.
    Root,
    /// A whole list file.
    List,
    /// What an undo would find.
    UndoPreview,
    /// The end of the way back.
    Settle,
}

/// What the executor has to say and may lose.
#[derive(Debug)]
pub enum Report {
    /// How far a step is.
    Progress {
        /// Under which lease.
        lease: HeldLease,
        /// How far.
        progress: Progress,
    },
    /// An answer, or a piece of one.
    Answer {
        /// The session that asked.
        session: u64,
        /// The question's number there.
        number: u64,
        /// The answer.
        answer: Answer,
    },
}

/// An answer, or a piece of one.
#[derive(Debug)]
pub enum Answer {
    /// The whole answer as JSON.
    Document(String),
    /// Some lines of a list; an empty piece is the end.
    Piece(Vec<u8>),
    /// There is no answer.
    Failure(Failure),
}
