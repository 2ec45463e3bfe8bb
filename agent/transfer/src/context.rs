//! What a step is given by the daemon that runs it.
//!
//! A step knows its lease only through a [`LeaseGuard`]: it asks before every destructive group and stops when the
//! guard's token fires. The renewing side holds the [`LeaseKeeper`]. Deadlines are on the clock that counts
//! suspension, so a machine that slept does not believe in a lease that is gone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::limit;
use common::progress::Progress;
use common::spec::Compression;
use common::step::file::FileOutput;
use common::transport::TransportChoice;
use sync::wire::control::Sparing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tree::IoClass;

use crate::findings::FindingSink;
use crate::kill_point::KillPoint;
use crate::tcp::RelayWay;

/// What one attempt of a step, or of its undo, works with.
#[derive(Clone, Debug)]
pub struct StepContext {
    /// The migration.
    pub migration: MigrationId,
    /// The step of its plan.
    pub step: StepId,
    /// The right under which effects are made; it is compared with the fence of every root.
    pub token: FencingToken,
    /// Counts attempts of this step, from 1.
    pub attempt: u32,
    /// Whether the right still holds.
    pub lease: LeaseGuard,
    /// Where the step says how far it is.
    pub progress: watch::Sender<Progress>,
    /// Where the step says what it noticed.
    pub findings: FindingSink,
    /// The agent on the other side; an undo has none.
    pub peer: Option<Peer>,
    /// Bytes per second that both sides together may send now; none is no limit. It may change at any time.
    pub bandwidth: watch::Receiver<Option<u64>>,
    /// The agent's directory for what this crate remembers: one folder per migration is made below it.
    pub state_dir: PathBuf,
    /// What a continuous step is asked, and says before its end.
    pub course: Course,
}

/// The course of a continuous step; others make nothing of it.
#[derive(Clone, Debug)]
pub struct Course {
    /// Fires when a later step asks this one to come to its end.
    pub finish: CancellationToken,
    /// What it did so far; what is newer takes the place of what was not told yet.
    pub so_far: watch::Sender<Option<SoFar>>,
}

/// What a continuous step did so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoFar {
    /// As if it ended now.
    pub output: FileOutput,
    /// How far it is behind, in milliseconds, once it is caught up.
    pub lag_ms: Option<u64>,
}

impl StepContext {
    /// Puts the calling thread, and those that it starts, into the IO class that is asked for, until the class is
    /// dropped.
    pub(crate) fn io_class(&self) -> IoClass {
        let mut class = IoClass::of_this_thread();
        class.set_idle(self.peer.as_ref().is_some_and(|peer| peer.sparing.borrow().is_idle));
        class
    }

    /// Returns what is passed before every effect.
    pub(crate) fn kill_point(&self) -> KillPoint {
        self.lease.kill.clone()
    }
}

/// The agent on the other side of a step.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The tenant of both.
    pub tenant: TenantId,
    /// Its name, as its certificate carries it.
    pub host: HostName,
    /// Where its data port is reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// The token of the lease, under which a peer that dials is let in.
    pub token: FencingToken,
    /// The signed ticket; a fresh one arrives with every renewal of the lease.
    pub ticket: watch::Receiver<Vec<u8>>,
    /// What the leader says of its agent.
    pub news: watch::Receiver<PeerNews>,
    /// How its host is to be spared; it may change at any time.
    pub sparing: watch::Receiver<Sparing>,
    /// Whether an attempt of this migration has reached it before.
    pub was_reached: bool,
    /// Whether it shall compress content.
    pub compression: Compression,
    /// What content is to come over.
    pub transport: TransportChoice,
    /// Where it is met, if not at its own addresses.
    pub relay: Option<Arc<RelayWay>>,
}

/// What the leader says of a peer's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNews {
    /// Whether it has a session with the leader.
    pub is_connected: bool,
    /// Counts its starts; zero as long as the leader has said nothing.
    pub incarnation: u64,
    /// Where its data port is reached now, best first; when empty, those of the peer hold.
    pub addresses: Vec<SocketAddr>,
}

/// Why a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// It was taken away, or its holder was fenced.
    Lost(String),
    /// Somebody asked for the step to stop; the agent ends, or the migration was cancelled.
    Cancelled(String),
}

#[derive(Debug)]
struct LeaseState {
    effects_until: BootTime,
    ended: Option<Ended>,
}

/// The renewing side of a lease. Dropping it ends the lease.
#[derive(Debug)]
pub struct LeaseKeeper {
    state: Arc<Mutex<LeaseState>>,
    stop: CancellationToken,
}

/// The step's side of a lease; cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaseGuard {
    token: FencingToken,
    state: Arc<Mutex<LeaseState>>,
    stop: CancellationToken,
    /// Nothing but in tests.
    kill: KillPoint,
}

/// Makes both sides of a lease that was asked for, or last renewed, at `sent_at`.
///
/// `parent` ends it too: the agent's own shutdown.
pub fn hold_lease(
    token: FencingToken,
    sent_at: BootTime,
    parent: &CancellationToken,
) -> (LeaseKeeper, LeaseGuard) {
    let state = LeaseState { effects_until: sent_at.after(limit::LEASE_EFFECTS), ended: None };
    let state = Arc::new(Mutex::new(state));
    let stop = parent.child_token();
    let keeper = LeaseKeeper { state: Arc::clone(&state), stop: stop.clone() };
    (keeper, LeaseGuard { token, state, stop, kill: KillPoint::default() })
}

impl LeaseKeeper {
    /// Notes that the renewal sent at `sent_at` was answered.
    ///
    /// A lease that ended stays ended, also when it merely ran out.
    pub fn renewed(&self, sent_at: BootTime) {
        let mut state = lock(&self.state);
        if state.ended.is_none() && clock::boot() < state.effects_until {
            state.effects_until = state.effects_until.max(sent_at.after(limit::LEASE_EFFECTS));
        }
    }

    /// Ends the lease because it was taken away.
    pub fn lose(&self, reason: impl Into<String>) {
        self.end(Ended::Lost(reason.into()));
    }

    /// Ends the lease because the step shall stop.
    pub fn cancel(&self, reason: impl Into<String>) {
        self.end(Ended::Cancelled(reason.into()));
    }

    /// Ends the lease if its time for effects is over, and says when to look again otherwise.
    ///
    /// The agent calls this from a timer, so that a step that waits for its peer notices too.
    pub fn expire(&self) -> Option<BootTime> {
        let until = lock(&self.state).effects_until;
        if clock::boot() < until {
            return Some(until);
        }
        self.end(Ended::Lost("it could not be renewed in time".to_owned()));
        None
    }

    fn end(&self, how: Ended) {
        lock(&self.state).ended.get_or_insert(how);
        self.stop.cancel();
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.end(Ended::Cancelled("the agent let go of it".to_owned()));
    }
}

impl LeaseGuard {
    /// Says whether effects may still be made; asked immediately before each destructive group.
    ///
    /// # Errors
    /// `Fenced` when the lease was lost or ran out, `Cancelled` when the step shall stop.
    pub fn check(&self) -> Result<(), Failure> {
        let state = lock(&self.state);
        match &state.ended {
            Some(Ended::Lost(reason)) => Err(lost(self.token, reason)),
            Some(Ended::Cancelled(reason)) => {
                Err(Failure::new(FailureKind::Cancelled, format!("the step was stopped: {reason}")))
            }
            None if self.stop.is_cancelled() => {
                Err(Failure::new(FailureKind::Cancelled, "the step was stopped: the agent is shutting down"))
            }
            None if clock::boot() >= state.effects_until => {
                Err(lost(self.token, "it could not be renewed in time"))
            }
            None => Ok(()),
        }
    }

    /// Stops or holds whatever runs under this lease where a test wants it.
    #[cfg(any(test, feature = "kill-points"))]
    #[must_use]
    pub fn with_kill_point(self, kill: KillPoint) -> Self {
        Self { kill, ..self }
    }

    /// Returns the token that fires when the step must stop, for whatever reason.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

fn lost(token: FencingToken, reason: &str) -> Failure {
    Failure::new(FailureKind::Fenced, format!("the lease {token} was lost: {reason}"))
        .hint("Nothing to do: another attempt continues where this one stood.")
}

/// A poisoned lock holds a whole value all the same: every write above is one assignment.
fn lock(state: &Mutex<LeaseState>) -> std::sync::MutexGuard<'_, LeaseState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: FencingToken = FencingToken { epoch: 1, index: 7 };

    #[test]
    fn a_lease_ends_by_loss_by_cancel_and_by_drop() {
        let parent = CancellationToken::new();
        let (keeper, guard) = hold_lease(TOKEN, clock::boot(), &parent);
        assert_eq!(guard.check(), Ok(()));
        keeper.lose("revoked");
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
        assert!(guard.stop().is_cancelled());
        keeper.cancel("too late to matter");
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);

        let (keeper, guard) = hold_lease(TOKEN, clock::boot(), &parent);
        keeper.cancel("asked");
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Cancelled);

        let (keeper, guard) = hold_lease(TOKEN, clock::boot(), &parent);
        drop(keeper);
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Cancelled);

        let (_keeper, guard) = hold_lease(TOKEN, clock::boot(), &parent);
        parent.cancel();
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Cancelled);
    }

    #[test]
    fn a_lease_that_ran_out_is_not_renewed_back_to_life() {
        let now = clock::boot();
        let (keeper, guard) = hold_lease(TOKEN, now, &CancellationToken::new());
        lock(&keeper.state).effects_until = now;
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
        keeper.renewed(clock::boot());
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
        assert_eq!(keeper.expire(), None);
        assert!(guard.stop().is_cancelled());
    }
}
