//! openraft's trait around the state; nothing is decided here.
//!
//! The state lives in memory and is given back after a restart by the newest snapshot and the committed log. A copy for
//! a snapshot is taken between two applies and costs the same however large the state is; writing it happens beside.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use common::failure::chain;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot,
    StorageError, StorageIOError,
};
use tokio::sync::{broadcast, watch};

use super::snapshot::{Meta, SnapshotFile, Snapshots};
use super::{LogId, Membership, Proposal, Reply, TypeConfig};
use crate::state::State;
use crate::state::effect::Effect;
use crate::state::snapshot::{SnapshotError, decode_addressed};
use crate::state::stamp::Stamp;

/// Effects that a slow reconciler may leave unread; who misses some looks at the state instead.
const EFFECTS_KEPT: usize = 1024;

/// What one replica holds after an entry; a copy is cheap.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The state.
    pub state: State,
    /// The last entry that was applied.
    pub applied: Option<LogId>,
    /// The members.
    pub membership: Membership,
}

/// Where others see what was applied.
#[derive(Clone, Debug)]
pub struct Published {
    /// The newest replica.
    pub replica: watch::Receiver<Arc<Replica>>,
    /// Effects of applied commands, on every node; only the leader acts on them.
    pub effects: broadcast::Sender<Effect>,
}

/// The state machine of one node.
#[derive(Debug)]
pub struct StateMachine {
    replica: Replica,
    replicas: watch::Sender<Arc<Replica>>,
    effects: broadcast::Sender<Effect>,
    snapshots: Snapshots,
}

/// Why a committed entry cannot be applied; the node stops.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("entry {0} was written by another version of this program: {1}")]
    Unknown(u64, String),
    #[error("applying entry {0} panicked; this is a bug")]
    Panicked(u64),
}

impl StateMachine {
    /// Opens the directory of snapshots and begins with the newest.
    ///
    /// # Errors
    /// When snapshots are there and none can be read.
    pub fn open(directory: PathBuf) -> Result<(Self, Published), SnapshotError> {
        let snapshots = Snapshots::open(directory)?;
        let replica = match snapshots.newest()? {
            Some((meta, state)) => {
                Replica { state, applied: meta.last_log_id, membership: meta.last_membership }
            }
            None => Replica::default(),
        };
        let (replicas, replica_seen) = watch::channel(Arc::new(replica.clone()));
        let (effects, _) = broadcast::channel(EFFECTS_KEPT);
        let published = Published { replica: replica_seen, effects: effects.clone() };
        Ok((Self { replica, replicas, effects, snapshots }, published))
    }

    /// Returns the directory of snapshots.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    fn apply_entry(&mut self, entry: Entry<TypeConfig>) -> Result<(Reply, Vec<Effect>), ApplyError> {
        let index = entry.log_id.index;
        let applied = match entry.payload {
            EntryPayload::Blank => (Reply::Nothing, Vec::new()),
            EntryPayload::Membership(membership) => {
                self.replica.membership = Membership::new(Some(entry.log_id), membership);
                (Reply::Nothing, vec![Effect::NodesChanged])
            }
            EntryPayload::Normal(Proposal { wall, principal, command }) => {
                let (address, command) = decode_addressed(&command)
                    .map_err(|error| ApplyError::Unknown(index, error.to_string()))?;
                let epoch = self.replica.state.cluster().epoch;
                let stamp = Stamp { index, epoch, wall, principal, address };
                let state = &mut self.replica.state;
                let result = catch_unwind(AssertUnwindSafe(|| state.apply(stamp, command)))
                    .or(Err(ApplyError::Panicked(index)))?;
                match result {
                    Ok(applied) => {
                        let effects = applied.effects.clone();
                        (Reply::Applied(applied), effects)
                    }
                    Err(refusal) => (Reply::Refused(refusal), Vec::new()),
                }
            }
        };
        self.replica.applied = Some(entry.log_id);
        Ok(applied)
    }

    fn publish(&self, effects: Vec<Effect>) {
        self.replicas.send_replace(Arc::new(self.replica.clone()));
        for effect in effects {
            // Nobody listening is no loss: effects are hints.
            drop(self.effects.send(effect));
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError<u64>> {
        Ok((self.replica.applied, self.replica.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        let mut effects = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            let (reply, caused) = self.apply_entry(entry).map_err(|error| {
                tracing::error!(index = log_id.index, %error, "the node stops, so that it does not diverge");
                StorageIOError::apply(log_id, AnyError::new(&error))
            })?;
            replies.push(reply);
            effects.extend(caused);
        }
        self.publish(effects);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        // Called between two applies: the copy is consistent, and writing it may take its time.
        SnapshotBuilder { replica: self.replica.clone(), snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError<u64>> {
        let (_, part) = self.snapshots.receive().map_err(writing)?;
        SnapshotFile::unfinished(part).map(Box::new).map_err(writing)
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError<u64>> {
        let snapshots = self.snapshots.clone();
        let expected = meta.clone();
        let installing = move || {
            let (meta, state) = snapshot.read()?;
            if meta.last_log_id != expected.last_log_id {
                return Err(SnapshotError::Damaged("its description differs from what the leader said"));
            }
            snapshots.keep(snapshot.path(), &expected)?;
            Ok(state)
        };
        let installed = tokio::task::spawn_blocking(installing).await.map_err(writing)?;
        let state = installed.map_err(writing)?;
        self.replica = Replica { state, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        self.publish(vec![Effect::NodesChanged]);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let current = self.snapshots.current();
        Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) }))
    }
}

/// Writes one snapshot from a copy of the state.
#[derive(Debug)]
pub struct SnapshotBuilder {
    replica: Replica,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let Replica { state, applied, membership } = self.replica.clone();
        let snapshot_id = applied.map_or_else(String::new, |applied| applied.to_string());
        let meta = Meta { last_log_id: applied, last_membership: membership, snapshot_id };
        let snapshots = self.snapshots.clone();
        let described = meta.clone();
        let written = tokio::task::spawn_blocking(move || snapshots.write(&described, &state)).await;
        let file = written.map_err(writing)?.map_err(writing)?;
        Ok(Snapshot { meta, snapshot: Box::new(file) })
    }
}

fn writing(error: impl std::error::Error + 'static) -> StorageError<u64> {
    let whole = AnyError::error(chain(&error));
    StorageIOError::new(ErrorSubject::Snapshot(None), ErrorVerb::Write, whole).into()
}
