//! One member's raft: everything of it opened in order, and stopped in order.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use common::limit::{RAFT_ELECTION_MAX, RAFT_ELECTION_MIN, RAFT_HEARTBEAT, SNAPSHOT_PIECE_BYTES};
use common::shutdown::Shutdown;
use common::view::MemberView;
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use super::campaign::{Campaign, HandOver, Signals};
use super::floor::Floor;
use super::log_store::{LogStore, OpenError};
use super::membership::Members;
use super::network::Network;
use super::proposer::{Leadership, Proposer};
use super::server::Server;
use super::state_machine::StateMachine;
use super::wire::{self, Method, Wire};
use super::{Member, Raft};
use crate::disk;
use crate::state::snapshot::SnapshotError;

/// Entries after which a snapshot is made; with entries of about a KiB the log stays at some MiB.
const SNAPSHOT_EVERY: u64 = 10_000;
/// Entries that stay behind a snapshot, so that a follower that was away for a moment needs none.
const LOG_KEPT: u64 = 2_000;
/// How long writes that are under way may take before leadership is handed over.
const DRAIN: Duration = Duration::from_millis(300);
/// How long the new leader may take.
const HAND_OVER: Duration = Duration::from_millis(600);

/// Why a node's raft cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The snapshots.
    #[error("opening the snapshots")]
    Snapshots(#[from] SnapshotError),
    /// The settings.
    #[error("the raft settings do not fit")]
    Config(#[source] Box<openraft::ConfigError>),
    /// openraft did not start.
    #[error("starting raft")]
    Start(#[source] Box<openraft::error::Fatal<u64>>),
}

impl From<RaftError> for Failure {
    fn from(error: RaftError) -> Self {
        let kind = match &error {
            RaftError::Log(error) => error.kind(),
            RaftError::Snapshots(SnapshotError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                FailureKind::Corrupt
            }
            RaftError::Snapshots(SnapshotError::Io(error)) => disk::kind_of(error),
            RaftError::Snapshots(SnapshotError::Version(_)) => FailureKind::Unsupported,
            RaftError::Snapshots(SnapshotError::Record(_) | SnapshotError::Damaged(_)) => {
                FailureKind::Corrupt
            }
            RaftError::Config(_) | RaftError::Start(_) => FailureKind::Invalid,
        };
        let hint = match kind {
            FailureKind::Corrupt => LOST,
            FailureKind::Exhausted => "make room on the disk that holds `state_dir`",
            FailureKind::Unsupported => "use the version that wrote it, or a later one",
            _ => {
                "look whether another process uses this `state_dir`, whether its disk is read-only, and who may write there"
            }
        };
        Self::of(kind, &error).hint(hint)
    }
}

/// What to do about files that do not hold what was written to them.
const LOST: &str = "a node that has forgotten what it agreed to must not go on: where other coordinators run, move this `state_dir` aside and let the node join anew under another name with the command that `ctl cluster add` prints; a coordinator that is alone needs its whole `state_dir` back from a backup";

/// What a node needs to know of itself.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// Its number.
    pub node_id: u64,
    /// Where log and snapshots stand; held by one process at a time.
    pub directory: PathBuf,
}

/// One member's raft, running.
#[derive(Clone)]
pub struct RaftNode {
    id: u64,
    raft: Raft,
    wire: Arc<dyn Wire>,
    proposer: Proposer,
    server: Server,
    members: Members,
    floor: Arc<Floor>,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.id).finish_non_exhaustive()
    }
}

impl RaftNode {
    /// Opens log and snapshots and starts.
    ///
    /// # Errors
    /// When the files cannot be used or are damaged.
    pub async fn open(
        settings: RaftSettings,
        wire: Arc<dyn Wire>,
        shutdown: &Shutdown,
    ) -> Result<Self, RaftError> {
        let RaftSettings { node_id, directory } = settings;
        // Beside the directory and not in it, so that it outlives it.
        let floor = Arc::new(Floor::open(directory.with_extension("floor")));
        let log_store = LogStore::open(&directory.join("log"), Arc::clone(&floor))?;
        floor.write();
        let flush_time = log_store.flush_time();
        let (state_machine, published) = StateMachine::open(directory.join("snapshots"))?;
        let snapshots = state_machine.snapshots();
        // What the log has dropped stands in a snapshot, or nowhere.
        let held = snapshots.current().and_then(|(meta, _file)| meta.last_log_id);
        if log_store.purged(&directory)? > held {
            return Err(SnapshotError::Damaged("the one that holds what the log has dropped is gone").into());
        }
        let network = Network::new(Arc::clone(&wire));
        let raft = Raft::new(node_id, Arc::new(config()?), network, log_store, state_machine)
            .await
            .map_err(|error| RaftError::Start(Box::new(error)))?;
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        shutdown.spawn(watch_leadership(raft.clone(), leadership, shutdown.clone()));
        let proposer = Proposer::new(raft.clone(), published, leadership_seen);
        let members = Members::new(raft.clone(), proposer.clone());
        let signals = Signals::default();
        let campaign = Campaign::new(node_id, raft.clone(), Arc::clone(&wire), signals.clone(), flush_time);
        shutdown.spawn(campaign.clone().run(shutdown.clone()));
        let server = Server::new(raft.clone(), snapshots, campaign, signals, members.clone());
        Ok(Self { id: node_id, raft, wire, proposer, server, members, floor })
    }

    /// Returns the door for writes and reads.
    pub fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// Returns what peers may ask.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Waits until raft has stopped by itself, because it could not store or apply; never returns otherwise.
    pub async fn failed(&self) -> Failure {
        let mut metrics = self.raft.metrics();
        let stopped = metrics.wait_for(|seen| seen.running_state.is_err()).await;
        match stopped.as_deref().map(|seen| &seen.running_state) {
            Ok(Err(error)) => Failure::of(FailureKind::Bug, error),
            Ok(Ok(())) | Err(_) => Failure::new(FailureKind::Bug, "raft has stopped"),
        }
    }

    /// Returns the members as this node sees them.
    pub fn member_views(&self) -> Vec<MemberView> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let view = |(id, member): (&u64, &Member)| {
            let is_voter = membership.voter_ids().any(|voter| voter == *id);
            let matched = metrics.replication.as_ref().and_then(|known| known.get(id).copied().flatten());
            let role = if metrics.current_leader == Some(*id) {
                "leader"
            } else if is_voter {
                "follower"
            } else {
                "learner"
            };
            Some(MemberView {
                name: member.name.parse::<NodeName>().ok()?,
                node_id: *id,
                api_address: member.api_address.clone(),
                raft_address: member.raft_address.clone(),
                role: role.to_owned(),
                matched_index: matched.map(|matched| matched.index),
            })
        };
        membership.nodes().filter_map(view).collect()
    }

    /// Hands leadership over, if this node leads and somebody can take it: takes no more writes, lets those under way
    /// end, and asks a follower with the whole log to elect itself.
    pub async fn hand_over(&self) {
        let metrics = self.raft.metrics().borrow().clone();
        if metrics.state != ServerState::Leader
            || metrics.membership_config.membership().voter_ids().count() < 2
        {
            return;
        }
        self.proposer.close();
        let drained = async {
            while self.proposer.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(DRAIN, drained).await);
        match tokio::time::timeout(HAND_OVER, self.find_successor(metrics.current_term)).await {
            Ok(Some(name)) => tracing::info!(node = %name, "leadership handed over"),
            Ok(None) | Err(_) => {
                tracing::info!("nobody could take the leadership over");
                self.proposer.reopen();
            }
        }
    }

    async fn find_successor(&self, term: u64) -> Option<String> {
        let metrics = self.raft.metrics().borrow().clone();
        let last_log = self.raft.data_metrics().borrow().last_log;
        let membership = metrics.membership_config.membership();
        let replication = metrics.replication.clone().unwrap_or_default();
        for voter in membership.voter_ids().filter(|voter| *voter != self.id) {
            let matched = replication.get(&voter).copied().flatten();
            let Some(member) = membership.get_node(&voter).filter(|_| matched == last_log) else { continue };
            let question = HandOver { last_log };
            let asked = wire::ask::<_, ()>(self.wire.as_ref(), member, Method::HandOver, &question);
            if asked.await.is_ok() {
                let mut seen = self.raft.server_metrics();
                let led = seen.wait_for(|seen| seen.vote.leader_id().get_term() > term).await;
                drop(led);
                return Some(member.name.clone());
            }
        }
        None
    }

    /// Makes a snapshot now, whatever the policy says, and waits for it.
    #[cfg(test)]
    pub(super) async fn snapshot_now(&self) {
        let index = self.raft.metrics().borrow().last_applied;
        self.raft.trigger().snapshot().await.unwrap();
        self.raft.metrics().wait_for(|seen| seen.snapshot >= index).await.unwrap();
    }

    /// Drops the log that a snapshot holds, and waits for it.
    #[cfg(test)]
    pub(super) async fn purge_now(&self) {
        let held = self.raft.metrics().borrow().snapshot.unwrap();
        self.raft.trigger().purge_log(held.index).await.unwrap();
        self.raft.metrics().wait_for(|seen| seen.purged >= Some(held)).await.unwrap();
    }

    /// Hands leadership over and stops.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.proposer.close();
        self.stop_at_once().await;
    }

    /// Stops without a word to the others.
    pub async fn stop_at_once(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.floor.write();
    }
}

fn config() -> Result<Config, RaftError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "drover".to_owned(),
        heartbeat_interval: ms(RAFT_HEARTBEAT),
        election_timeout_min: ms(RAFT_ELECTION_MIN),
        election_timeout_max: ms(RAFT_ELECTION_MAX),
        // The campaign decides when to elect.
        enable_elect: false,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        // Greater than the policy's, or a snapshot would not end the lag.
        replication_lag_threshold: SNAPSHOT_EVERY + LOG_KEPT,
        snapshot_max_chunk_size: u64::try_from(SNAPSHOT_PIECE_BYTES).unwrap_or(u64::MAX),
        ..Config::default()
    };
    config.validate().map_err(|error| RaftError::Config(Box::new(error)))
}

/// Tells who leads: this node only once a quorum has acknowledged it and it has applied all that was there then.
async fn watch_leadership(raft: Raft, leadership: watch::Sender<Leadership>, shutdown: Shutdown) {
    let mut metrics = raft.metrics();
    let mut began: Option<(u64, Option<u64>)> = None;
    loop {
        let seen = metrics.borrow_and_update().clone();
        let leads = seen.state == ServerState::Leader && seen.current_leader == Some(seen.id);
        // openraft restores a leader at its start although another may lead since: believe it with the first quorum.
        let is_acked = seen.millis_since_quorum_ack.is_some();
        if !leads {
            began = None;
        } else if is_acked && began.is_none_or(|(term, _)| term != seen.current_term) {
            began = Some((seen.current_term, seen.last_log_index));
        }
        let applied = seen.last_applied.map(|applied| applied.index);
        let membership = seen.membership_config.membership();
        let now = Leadership {
            term: seen.current_term,
            is_leader: began.is_some_and(|(_, last)| applied >= last),
            leader: seen.current_leader.and_then(|leader| membership.get_node(&leader).cloned()),
        };
        leadership.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}
