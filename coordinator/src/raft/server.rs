//! The server side of raft: plain functions from bytes to bytes.
//!
//! The gRPC service wraps them; it has checked by certificate that the caller is a node of this cluster.

use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use openraft::Snapshot;
use openraft::error::{Fatal, RaftError};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::Raft;
use super::campaign::{Campaign, HandOver, PreVote, Signals};
use super::membership::{Admission, Members};
use super::network::SnapshotHeader;
use super::snapshot::{Part, SnapshotFile, Snapshots};
use super::wire::{decode, encode};

/// The largest snapshot that is taken from a leader: a hundred thousand migrations are about half a GiB.
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// What peers may ask of this node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    snapshots: Snapshots,
    campaign: Campaign,
    signals: Signals,
    members: Members,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(
        raft: Raft,
        snapshots: Snapshots,
        campaign: Campaign,
        signals: Signals,
        members: Members,
    ) -> Self {
        Self { inner: Arc::new(Inner { raft, snapshots, campaign, signals, members }) }
    }

    /// Takes entries or a heartbeat.
    ///
    /// # Errors
    /// When the payload does not decode or the node has stopped.
    pub async fn append(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        answer(&self.inner.raft.append_entries(decode(payload)?).await.map_err(|error| failed(&error))?)
    }

    /// Takes a request for a vote.
    ///
    /// # Errors
    /// When the payload does not decode or the node has stopped.
    pub async fn vote(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        answer(&self.inner.raft.vote(decode(payload)?).await.map_err(|error| failed(&error))?)
    }

    /// Says whether this node would vote.
    ///
    /// # Errors
    /// When the payload does not decode or the node has stopped.
    pub async fn pre_vote(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        let question: PreVote = decode(payload)?;
        answer(&self.inner.campaign.answer(&question).await?)
    }

    /// Elects this node because the leader asks for it.
    ///
    /// # Errors
    /// When the payload does not decode, or no election succeeds.
    pub async fn hand_over(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        let question: HandOver = decode(payload)?;
        self.inner.campaign.take_over(&question).await?;
        answer(&())
    }

    /// Makes the caller a voter. Takes as long as it needs to catch up; may be repeated.
    ///
    /// # Errors
    /// When this node does not lead, or the caller is not who the cluster enrolled.
    pub async fn admit(&self, caller: &NodeName, admission: Admission) -> Result<Vec<u8>, Failure> {
        self.inner.members.admit(caller, admission).await?;
        answer(&())
    }

    /// Begins to take a snapshot, with its first message.
    ///
    /// # Errors
    /// When the payload does not decode or no file can be made.
    pub fn begin_snapshot(&self, payload: &[u8]) -> Result<Receiving, Failure> {
        let header: SnapshotHeader = decode(payload)?;
        let (file, part) = self.inner.snapshots.receive().map_err(|error| full(&error))?;
        self.inner.signals.note_contact();
        let inner = Arc::clone(&self.inner);
        Ok(Receiving { inner, header, file: tokio::fs::File::from_std(file), part, length: 0 })
    }
}

/// A snapshot that is being taken; dropping it removes what was taken.
#[derive(Debug)]
pub struct Receiving {
    inner: Arc<Inner>,
    header: SnapshotHeader,
    file: tokio::fs::File,
    part: Arc<Part>,
    length: u64,
}

impl Receiving {
    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written or the whole is too large.
    pub async fn piece(&mut self, payload: &[u8]) -> Result<(), Failure> {
        self.length += u64::try_from(payload.len()).unwrap_or(u64::MAX);
        if self.length > SNAPSHOT_BYTES_MAX {
            return Err(Failure::new(FailureKind::Exhausted, "the leader's snapshot is too large"));
        }
        self.file.write_all(payload).await.map_err(|error| full(&error))?;
        self.inner.signals.note_contact();
        Ok(())
    }

    /// Installs what was taken; returns the answer.
    ///
    /// # Errors
    /// When it cannot be synced, or the node has stopped.
    pub async fn finish(mut self) -> Result<Vec<u8>, Failure> {
        self.file.flush().await.map_err(|error| full(&error))?;
        self.file.sync_all().await.map_err(|error| full(&error))?;
        let file = SnapshotFile::unfinished(self.part).map_err(|error| full(&error))?;
        let SnapshotHeader { vote, meta } = self.header.clone();
        // Damage is noticed here: inside openraft it would stop the node.
        let reading = file.clone();
        let checked = tokio::task::spawn_blocking(move || reading.read().map(|_| ())).await;
        let checked = checked.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        checked.map_err(|error| Failure::of(FailureKind::Corrupt, &error))?;
        let snapshot = Snapshot { meta, snapshot: Box::new(file) };
        let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await;
        answer(&installed.map_err(|error| stopped(&error))?)
    }
}

fn answer(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    encode(value)
}

fn failed(error: &RaftError<u64>) -> Failure {
    Failure::of(FailureKind::Unreachable, error)
}

fn stopped(error: &Fatal<u64>) -> Failure {
    Failure::of(FailureKind::Unreachable, error)
}

fn full(error: &std::io::Error) -> Failure {
    Failure::of(FailureKind::Exhausted, error).hint("make room in the coordinator's state directory")
}
