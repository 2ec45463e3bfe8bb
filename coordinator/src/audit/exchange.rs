//! What coordinators ask each other about the audit, over the port of the nodes.

use std::sync::Arc;
use std::time::Duration;

use common::audit::view::NodeAuditView;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use common::view::MemberView;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pages::claim;
use super::verify;
use crate::hub::Hub;
use crate::raft::Member;
use crate::raft::wire::{self, Method};
use crate::state::audit::{Command as AuditCommand, Deed, REFUSED_MAX};
use crate::state::{Command, audit::Page};

/// How long an answer may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long a node may walk along its copy: a million lines take some seconds.
pub const VERIFY_DEADLINE: Duration = Duration::from_secs(300);
/// Pages in one question.
pub const PAGES_MAX: usize = 16;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Which of these pages, by first line and hash, stand in files? Answered with their first lines.
    Held(Vec<(u64, Digest)>),
    /// A piece of a page's file. Answered with bytes, none at the end.
    Piece {
        /// The page's first line.
        first: u64,
        /// Where the piece begins.
        offset: u64,
    },
    /// Walk along your own copy. Answered with the JSON of [`NodeAuditView`].
    Verify,
    /// Write these refusals; to the leader. Answered with nothing.
    Refused(Vec<Deed>),
    /// Which page ends with this line, as your files say? Answered with its first line, or none.
    Ending(u64),
}

/// Asks another node.
///
/// # Errors
/// When it cannot be reached, refuses, or answers something else.
pub async fn ask<A: DeserializeOwned>(
    hub: &Hub,
    peer: &MemberView,
    deadline: Duration,
    question: &Question,
) -> Result<A, Failure> {
    let member = Member { raft_address: peer.raft_address.clone(), ..Member::default() };
    let asked = wire::ask(hub.peers.0.as_ref(), &member, Method::Audit, question);
    match tokio::time::timeout(deadline, asked).await {
        Ok(answered) => answered,
        Err(_elapsed) => {
            Err(Failure::new(FailureKind::Timeout, format!("the coordinator `{}` did not answer", peer.name)))
        }
    }
}

/// Returns the other nodes.
pub fn peers(hub: &Hub) -> Vec<MemberView> {
    hub.raft.member_views().into_iter().filter(|member| member.name != hub.name).collect()
}

/// Answers another node.
///
/// # Errors
/// When the question cannot be read or answered.
pub async fn serve(hub: &Arc<Hub>, caller: &NodeName, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    match wire::decode(payload)? {
        Question::Held(pages) => wire::encode(&held(hub, pages).await?),
        Question::Piece { first, offset } => {
            let files = hub.audit.files.clone();
            let piece = blocking(move || files.piece(first, offset)).await?;
            wire::encode(&piece.map_err(|error| Failure::of(FailureKind::NotFound, &error))?)
        }
        Question::Verify => {
            let view: NodeAuditView = verify::own(hub).await;
            let text = serde_json::to_string(&view).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
            wire::encode(&text)
        }
        Question::Ending(last) => {
            let (files, cluster) = (hub.audit.files.clone(), hub.state().cluster().id.clone());
            let first = blocking(move || files.ending(&cluster, last)).await?;
            wire::encode(&first.map_err(|error| Failure::of(FailureKind::NotFound, &error))?)
        }
        Question::Refused(deeds) => {
            if !hub.is_leader() || deeds.len() > REFUSED_MAX {
                return Err(hub.proposer.elsewhere("this coordinator does not lead", None));
            }
            let caller = common::principal::Principal::Node { name: caller.clone() };
            let command = Command::AuditLog(AuditCommand::Refused(deeds));
            hub.propose(caller, command).await?;
            wire::encode(&())
        }
    }
}

/// Returns which of these pages stand in this node's files, whole and durable, by their first lines.
pub async fn held(hub: &Hub, pages: Vec<(u64, Digest)>) -> Result<Vec<u64>, Failure> {
    let state = hub.state();
    let known = |(first, head): &(u64, Digest)| -> Option<Page> {
        state.audit().page(*first).filter(|page| page.head == *head).cloned()
    };
    let claims: Vec<_> =
        pages.iter().take(PAGES_MAX).filter_map(known).map(|page| claim(&state, &page)).collect();
    let files = hub.audit.files.clone();
    let held =
        move || claims.iter().filter(|claim| files.holds(claim)).map(|claim| claim.header.first).collect();
    blocking(held).await
}

/// Runs what reads or writes files beside the others.
///
/// # Errors
/// When it panicked, which is a bug.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::of(FailureKind::Bug, &error))
}
