//! A link over TCP: a spine, and lanes of which each is a connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::tls::Peer;
use sync::wire::error_code::ErrorCode;
use sync::wire::spine::LinkId;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::dialler::Dialler;
use super::fate::Fate;
use super::slots::Slots;
use super::socket::{Handle, Tally};
use crate::lane::{Lane, LaneError};

/// From the wish for a lane to the lane: a lost packet on a slow path, and a peer that lets others in first.
pub(super) const LANE_DEADLINE: Duration = Duration::from_secs(10);
/// Lanes that have come and nobody took yet; a peer has no more open.
pub(super) const LANES_WAITING: usize = 16;

/// The link as those who use it hold it.
#[derive(Debug)]
pub(crate) struct Bond {
    pub(super) shared: Arc<Shared>,
    pub(super) side: Side,
    /// Lanes that the peer opened.
    pub(super) opened: AsyncMutex<mpsc::Receiver<Lane>>,
}

/// What the link and its spine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: LinkId,
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    pub(super) is_local: bool,
    pub(super) fate: Fate,
    pub(super) slots: Arc<Slots>,
    pub(super) round_trip_us: AtomicU64,
    tallies: Mutex<Vec<Arc<Tally>>>,
}

/// What differs between the two ends.
#[derive(Debug)]
pub(super) enum Side {
    /// This one dialled, and dials lanes.
    Dialled(Dialler),
    /// This one was dialled, and asks for lanes.
    Accepted {
        /// Wishes for the spine to tell.
        asks: mpsc::Sender<()>,
        /// Lanes that were asked for.
        answers: AsyncMutex<mpsc::Receiver<Lane>>,
    },
}

impl Shared {
    pub(super) fn new(id: LinkId, peer: Peer, spine: &Handle, lanes: u32) -> Self {
        Self {
            id,
            peer,
            address: spine.address,
            is_local: spine.is_local,
            fate: Fate::of_link(),
            slots: Slots::new(lanes),
            round_trip_us: AtomicU64::new(u64::MAX),
            tallies: Mutex::new(vec![Arc::clone(&spine.tally)]),
        }
    }

    /// Counts what passes through one more connection.
    pub(super) fn count_in(&self, tally: Arc<Tally>) {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(tally);
    }

    /// Notes how long an answer took.
    pub(super) fn measured(&self, round_trip: Duration) {
        let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip_us.fetch_min(microseconds, Ordering::Relaxed);
    }

    fn sum(&self, of: fn(&Tally) -> u64) -> u64 {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.iter().map(|tally| of(tally)).sum()
    }
}

impl Bond {
    pub(crate) fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Whether both ends are on one machine.
    pub(crate) fn is_local(&self) -> bool {
        self.shared.is_local
    }

    pub(crate) async fn open_lane(&self) -> Result<Lane, LaneError> {
        let opening = async {
            match &self.side {
                Side::Dialled(dialler) => dialler.lane(&self.shared, false).await,
                Side::Accepted { asks, answers } => {
                    asks.send(()).await.map_err(|_gone| LaneError::ClosedHere)?;
                    // Who waits longest takes the first that comes; they are all alike.
                    answers.lock().await.recv().await.ok_or(LaneError::ClosedHere)
                }
            }
        };
        tokio::select! {
            biased;
            verdict = self.shared.fate.parted() => Err(verdict),
            opened = tokio::time::timeout(LANE_DEADLINE, opening) => {
                opened.unwrap_or_else(|_elapsed| Err(LaneError::Lost("a lane could not be opened in time".to_owned())))
            }
        }
    }

    pub(crate) async fn accept_lane(&self) -> Result<Lane, LaneError> {
        tokio::select! {
            biased;
            verdict = self.shared.fate.parted() => Err(verdict),
            lane = async { self.opened.lock().await.recv().await } => lane.ok_or(LaneError::ClosedHere),
        }
    }

    pub(crate) fn close(&self, code: ErrorCode, reason: &str) {
        self.shared.fate.close(code, reason);
    }

    pub(crate) async fn closed(&self) -> LaneError {
        self.shared.fate.parted().await
    }

    pub(crate) fn allow_lanes(&self, count: u32) {
        self.shared.slots.allow(count);
    }

    /// Returns the shortest time that an answer took; until there was one, that of a near peer.
    pub(crate) fn round_trip(&self) -> Duration {
        match self.shared.round_trip_us.load(Ordering::Relaxed) {
            u64::MAX => Duration::ZERO,
            microseconds => Duration::from_micros(microseconds),
        }
    }

    /// Returns the payload that this side sent on all connections of the link.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.shared.sum(Tally::sent)
    }

    /// Returns the payload that reached this side.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.shared.sum(Tally::received)
    }
}
