//! What a source says on the control lane, and whether it is there and does what it was asked for.

use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::human;
use common::reach::Reach;
use sync::wire::control::{Cost, Counters, Sparing, ToDestination};
use sync::wire::error_code::ErrorCode;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::breach::breach;
use crate::context::PeerNews;
use crate::lane::{LOST_HINT, LaneReceiver};
use crate::link::Link;
use crate::patience::{GivenUp, Patience, Vigil};
use crate::peer::demand::Demand;
use crate::peer::farewell;

/// What a source sends at once under a limit of bandwidth, and waits off before the next: several lanes take turns.
const PIECES_BYTES: u64 = 1024 * 1024;

/// Why the connection ends, and with which code.
type End = (ErrorCode, Failure);

/// What the leader says of starts of the source's agent, against the one that this connection is with.
#[derive(Clone, Debug)]
pub(super) struct Restart {
    pub(super) news: watch::Receiver<PeerNews>,
    pub(super) reach: Reach,
    /// Not later than the start at the other end; that one exactly, if the source dialled.
    pub(super) incarnation: u64,
}

impl Restart {
    /// Waits until the leader names a later start.
    pub(super) async fn next(&mut self) {
        let known = self.incarnation;
        let found = self.news.wait_for(|news| news.incarnation > known).await;
        let found = found.map(|news| news.incarnation);
        match found {
            Ok(incarnation) => self.incarnation = incarnation,
            // The lease is gone, and with it the leader's news.
            Err(_gone) => std::future::pending().await,
        }
    }
}

/// Takes what comes on the control lane.
pub(super) struct Listener {
    pub(super) link: Link,
    pub(super) counted: watch::Sender<Counters>,
    pub(super) demand: Demand,
    pub(super) restart: Restart,
    pub(super) bandwidth: watch::Receiver<Option<u64>>,
    pub(super) sparing: watch::Receiver<Sparing>,
    pub(super) cost: watch::Sender<Option<Cost>>,
    pub(super) patience: Patience,
}

impl Listener {
    /// Takes counters until something else comes or the source is given up, and says how it ended.
    pub(super) async fn run(mut self, mut receiver: LaneReceiver) -> End {
        let mut vigil = Vigil::new(self.patience);
        let mut beats: Interval = tokio::time::interval(self.patience.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut body = Vec::new();
        loop {
            let message = receiver.message::<ToDestination>(&mut body);
            tokio::pin!(message);
            let heard = loop {
                tokio::select! {
                    heard = &mut message => break heard,
                    _ = beats.tick() => if let Some(why) = self.beat(&mut vigil) {
                        return given_up(why);
                    },
                    () = self.restart.next() => match self.restart.reach {
                        Reach::SourceDials => {
                            let text = "the source's agent started again";
                            return (ErrorCode::Cancelled, Failure::new(FailureKind::Unreachable, text));
                        }
                        // The connection may be with the new one already, which is heard.
                        Reach::DestinationDials | Reach::Relayed => vigil.restarted(self.link.received_bytes()),
                    },
                }
            };
            match heard {
                Ok(Some(ToDestination::Counters(counters))) => {
                    self.counted.send_replace(counters);
                    self.link.tune();
                }
                Ok(Some(ToDestination::Cost(cost))) => {
                    self.cost.send_replace(Some(cost));
                }
                Ok(Some(ToDestination::Bye(bye))) => return (ErrorCode::Done, farewell(&bye)),
                Ok(Some(ToDestination::Opened(_))) => {
                    return (ErrorCode::Protocol, breach("it answered the request to open twice"));
                }
                Ok(None) => {
                    let text = "the source ended the connection";
                    return (ErrorCode::Done, Failure::new(FailureKind::Unreachable, text).hint(LOST_HINT));
                }
                Err(error) => return (ErrorCode::Cancelled, error.to_failure()),
            }
        }
    }

    fn beat(&self, vigil: &mut Vigil) -> Option<GivenUp> {
        let mut seen = self.demand.seen(self.link.received_bytes(), self.counted.borrow().digest_bytes);
        // A source holds back for its load only where it was asked to.
        let may_hold_back = self.sparing.borrow().max_load.is_some();
        seen.is_held_up |= may_hold_back && self.cost.borrow().is_some_and(|cost| cost.is_throttled);
        let per_piece = self.bandwidth.borrow().map(|limit| PIECES_BYTES / limit.max(1));
        vigil.beat(seen, Duration::from_secs(per_piece.unwrap_or(0)))
    }
}

fn given_up(why: GivenUp) -> End {
    let failure = match why {
        GivenUp::Silent(silence) => Failure::new(
            FailureKind::Unreachable,
            format!("nothing was heard from the source for {} s", silence.as_secs()),
        )
        .hint(LOST_HINT),
        GivenUp::Stalled(stall) => Failure::new(
            FailureKind::Timeout,
            format!(
                "the source's agent lives, but for {} nothing came of what it was asked for",
                human::duration(stall)
            ),
        )
        .hint("Does the source's disk answer, and what does its agent's log say? What has landed stays; another attempt goes on from there. `stall_limit` in this host's agent.toml is how long is waited."),
    };
    (ErrorCode::Timeout, failure)
}
