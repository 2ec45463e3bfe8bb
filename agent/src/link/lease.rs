//! A lease as this agent holds it: the right to work on one step, until it runs out or is taken.
//!
//! A lease comes to life with its first answered renewal, which is asked for at once: how old a grant was when it
//! arrived nobody here can know, but an answer is younger than its question. From then on effects stop 25 s after the
//! last answered renewal was *sent*, by a clock that counts suspension. What ended stays ended.

use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, BootTime};
use common::fence::FencingToken;
use common::id::{MigrationId, StepId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use transfer::{LeaseGuard, LeaseKeeper, PeerNews, Sparing, hold_lease};

/// How often a lease's time is looked at, so that a machine that slept notices within this.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A lease that this agent holds; cheap to clone, and over when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct HeldLease {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    migration: MigrationId,
    step: StepId,
    token: FencingToken,
    keeper: LeaseKeeper,
    guard: LeaseGuard,
    /// When the last answered renewal was sent; none before the first.
    renewed: watch::Sender<Option<BootTime>>,
    ticket: watch::Sender<Vec<u8>>,
    bandwidth: watch::Sender<Option<u64>>,
    sparing: watch::Sender<Sparing>,
    news: watch::Sender<PeerNews>,
    ended: watch::Sender<Option<LeaseEnd>>,
    /// Fires when a later step asks a continuous one to come to its end.
    finish: CancellationToken,
}

/// How fast, and how carefully, a step goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second that its source may send; none is no limit.
    pub bytes_per_s: Option<u64>,
    /// How the source's host is to be spared.
    pub sparing: Sparing,
}

/// Why a lease ended before its step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Taken away, run out, or given to a later attempt: whatever the step still says counts for nothing.
    Lost,
    /// The step was asked to stop, and its last word is waited for.
    Cancelled,
    /// The agent ends; a later start of it, or another attempt, goes on.
    Shutdown,
}

impl HeldLease {
    /// Takes up a lease that was granted `now`.
    pub fn new(
        migration: MigrationId,
        step: StepId,
        token: FencingToken,
        ticket: Vec<u8>,
        now: BootTime,
    ) -> Self {
        let (keeper, guard) = hold_lease(token, now, &CancellationToken::new());
        Self {
            held: Arc::new(Held {
                migration,
                step,
                token,
                keeper,
                guard,
                renewed: watch::Sender::new(None),
                ticket: watch::Sender::new(ticket),
                bandwidth: watch::Sender::new(None),
                sparing: watch::Sender::new(Sparing::default()),
                news: watch::Sender::new(PeerNews::default()),
                ended: watch::Sender::new(None),
                finish: CancellationToken::new(),
            }),
        }
    }

    /// Returns the migration.
    pub fn migration(&self) -> &MigrationId {
        &self.held.migration
    }

    /// Returns the step.
    pub fn step(&self) -> &StepId {
        &self.held.step
    }

    /// Returns the fencing token.
    pub fn token(&self) -> FencingToken {
        self.held.token
    }

    /// Returns what the step asks before each destructive group.
    pub fn guard(&self) -> LeaseGuard {
        self.held.guard.clone()
    }

    /// Returns the tickets, the newest last.
    pub fn ticket(&self) -> watch::Receiver<Vec<u8>> {
        self.held.ticket.subscribe()
    }

    /// Returns the limits of bandwidth, the newest last.
    pub fn bandwidth(&self) -> watch::Receiver<Option<u64>> {
        self.held.bandwidth.subscribe()
    }

    /// Returns how the source's host is to be spared, the newest word last.
    pub fn sparing(&self) -> watch::Receiver<Sparing> {
        self.held.sparing.subscribe()
    }

    /// Returns what the leader says of the agent on the other side.
    pub fn news(&self) -> watch::Receiver<PeerNews> {
        self.held.news.subscribe()
    }

    /// Notes what the leader says of the agent on the other side.
    pub fn hear_of_peer(&self, news: PeerNews) {
        self.held.news.send_replace(news);
    }

    /// Returns when the last answered renewal was sent.
    pub fn renewed_at(&self) -> Option<BootTime> {
        *self.held.renewed.borrow()
    }

    /// Notes that the renewal sent at `sent` was answered.
    pub fn renewed(&self, sent: BootTime, ticket: Vec<u8>, pace: Pace) {
        self.held.keeper.renewed(sent);
        self.held.renewed.send_modify(|renewed| *renewed = (*renewed).max(Some(sent)));
        if !ticket.is_empty() {
            self.held.ticket.send_replace(ticket);
        }
        self.paced(pace);
    }

    /// Notes how fast, and how carefully, the step goes from now on.
    pub fn paced(&self, pace: Pace) {
        let Pace { bytes_per_s, sparing } = pace;
        self.held.bandwidth.send_if_modified(|limit| std::mem::replace(limit, bytes_per_s) != bytes_per_s);
        self.held.sparing.send_if_modified(|known| std::mem::replace(known, sparing) != sparing);
    }

    /// Asks a continuous step to come to its end; the lease holds until it has.
    pub fn ask_to_finish(&self) {
        self.held.finish.cancel();
    }

    /// Returns what fires when the step is asked to come to its end.
    pub fn finish(&self) -> CancellationToken {
        self.held.finish.clone()
    }

    /// Ends the lease; the first reason stays.
    pub fn end(&self, end: LeaseEnd, reason: &str) {
        self.held.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(end);
            is_first
        });
        match end {
            LeaseEnd::Lost => self.held.keeper.lose(reason),
            LeaseEnd::Cancelled | LeaseEnd::Shutdown => self.held.keeper.cancel(reason),
        }
    }

    /// Returns why the lease ended, if it did.
    pub fn ended(&self) -> Option<LeaseEnd> {
        *self.held.ended.borrow()
    }

    /// Waits for the first answered renewal; false when the lease ended before.
    pub async fn came_to_life(&self) -> bool {
        let mut renewed = self.held.renewed.subscribe();
        tokio::select! {
            biased;
            _end = self.over() => false,
            // The sender lives as long as `self`, so this cannot fail.
            renewed = renewed.wait_for(Option::is_some) => renewed.is_ok(),
        }
    }

    /// Waits until the lease ends, and ends it when its time is over.
    pub async fn over(&self) -> LeaseEnd {
        let mut ended = self.held.ended.subscribe();
        loop {
            if let Some(end) = *ended.borrow_and_update() {
                return end;
            }
            let Some(until) = self.held.keeper.expire() else {
                self.end(LeaseEnd::Lost, "it could not be renewed in time");
                continue;
            };
            let left = until.since(clock::boot()).min(LOOK_INTERVAL);
            // Either wakes the loop, which looks at everything again.
            drop(tokio::time::timeout(left, ended.changed()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::failure::FailureKind;
    use common::limit::LEASE_EFFECTS;

    fn lease() -> HeldLease {
        lease_of(clock::boot())
    }

    fn lease_of(granted: BootTime) -> HeldLease {
        let token = FencingToken { epoch: 1, index: 7 };
        let (migration, step) = ("m1".parse().unwrap(), "file.copy-1".parse().unwrap());
        HeldLease::new(migration, step, token, b"first".to_vec(), granted)
    }

    #[tokio::test]
    async fn comes_to_life_with_its_first_answered_renewal() {
        let lease = lease();
        let (sent, other) = (clock::boot(), lease.clone());
        let waiting = lease.came_to_life();
        other.renewed(sent, b"second".to_vec(), Pace { bytes_per_s: Some(1024), ..Pace::default() });
        assert!(waiting.await);
        assert_eq!(lease.renewed_at(), Some(sent));
        assert_eq!(*lease.ticket().borrow(), b"second");
        assert_eq!(*lease.bandwidth().borrow(), Some(1024));
        assert_eq!(lease.guard().check(), Ok(()));
    }

    #[tokio::test]
    async fn a_lost_lease_stops_the_step_and_stays_lost() {
        let lease = lease();
        let guard = lease.guard();
        lease.end(LeaseEnd::Lost, "revoked");
        lease.end(LeaseEnd::Cancelled, "later");
        lease.renewed(clock::boot(), Vec::new(), Pace::default());
        assert_eq!(lease.over().await, LeaseEnd::Lost);
        assert!(!lease.came_to_life().await);
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
        guard.stop().cancelled().await;
    }

    #[tokio::test]
    async fn time_takes_a_lease_away_and_stops_the_step() {
        let lease = lease_of(clock::boot().before(LEASE_EFFECTS));
        let guard = lease.guard();
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
        assert_eq!(lease.over().await, LeaseEnd::Lost);
        assert!(guard.stop().is_cancelled());
        lease.renewed(clock::boot(), Vec::new(), Pace::default());
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Fenced);
    }

    #[test]
    fn dropping_the_last_clone_ends_it() {
        let lease = lease();
        let guard = lease.guard();
        drop(lease.clone());
        assert_eq!(guard.check(), Ok(()));
        drop(lease);
        assert_eq!(guard.check().unwrap_err().kind, FailureKind::Cancelled);
    }
}
