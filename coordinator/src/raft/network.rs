//! The client side of raft: what openraft sends to one peer.
//!
//! Making a client never connects, because openraft does that inside its loop. Whatever goes wrong on the way is
//! "unreachable", so that openraft waits before it tries again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::failure::Failure;
use common::limit::SNAPSHOT_PIECE_BYTES;
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot, Vote};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::snapshot::{Meta, SnapshotFile};
use super::wire::{self, Method, PIECES_WAITING, Wire};
use super::{Member, TypeConfig};

/// The wait after a peer was unreachable; openraft's own half a second is longer than an election.
const BACKOFF: Duration = Duration::from_millis(200);

/// Makes clients of peers.
#[derive(Clone)]
pub struct Network {
    wire: Arc<dyn Wire>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// The client of one peer.
#[derive(Clone)]
pub struct Peer {
    wire: Arc<dyn Wire>,
    member: Member,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("member", &self.member).finish_non_exhaustive()
    }
}

/// What goes before the pieces of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The leader's vote.
    pub vote: Vote<u64>,
    /// What the snapshot is of.
    pub meta: Meta,
}

impl Network {
    /// Makes clients that use this way.
    pub fn new(wire: Arc<dyn Wire>) -> Self {
        Self { wire }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, _target: u64, node: &Member) -> Peer {
        Peer { wire: Arc::clone(&self.wire), member: node.clone() }
    }
}

type RpcError = RPCError<u64, Member, RaftError<u64>>;

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let asked = wire::ask(self.wire.as_ref(), &self.member, Method::Append, &rpc);
        within(option.hard_ttl(), asked).await.map_err(|error| Unreachable::new(&error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let asked = wire::ask(self.wire.as_ref(), &self.member, Method::Vote, &rpc);
        within(option.hard_ttl(), asked).await.map_err(|error| Unreachable::new(&error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let unreachable = |error: Failure| StreamingError::Unreachable(Unreachable::new(&error));
        let header = wire::encode(&SnapshotHeader { vote, meta: snapshot.meta }).map_err(unreachable)?;
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        let answer = self.wire.snapshot(&self.member.raft_address, receiver);
        let sending = send(header, *snapshot.snapshot, sender);
        // The answer may come before everything is sent, when the follower refuses.
        let answered = async {
            let (answered, ()) = tokio::join!(answer, sending);
            answered
        };
        tokio::select! {
            answered = answered => {
                let answer = answered.map_err(unreachable)?;
                wire::decode(&answer).map_err(unreachable)
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// Sends the header and the file; ends early when nobody listens any more.
async fn send(header: Vec<u8>, file: SnapshotFile, sender: mpsc::Sender<Vec<u8>>) {
    if sender.send(header).await.is_err() {
        return;
    }
    let mut offset = 0;
    loop {
        let reading = file.clone();
        let piece = tokio::task::spawn_blocking(move || reading.piece(offset, SNAPSHOT_PIECE_BYTES)).await;
        let piece = match piece {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => {
                // The follower notices that the file is cut by its digest.
                tracing::warn!(%error, "snapshot could not be read while it was sent");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "reading a snapshot was cancelled");
                return;
            }
        };
        if piece.is_empty() || sender.send(piece.clone()).await.is_err() {
            return;
        }
        offset += u64::try_from(piece.len()).unwrap_or(0);
    }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::new(common::failure::FailureKind::Timeout, "the peer did not answer in time")),
    }
}
