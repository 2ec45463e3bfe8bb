//! The destination's view of a source: ask, and receive.
//!
//! ```text
//! Source::open ──▶ manifest(request) ─▶ ManifestReceiver   the tree, in order
//!              ├─▶ content(lanes) ────▶ FetchSender, ContentReceiver
//!              ├─▶ wire_bytes(), counters()
//!              └─▶ finish()
//! ```
//!
//! One `Source` is one connection and serves one attempt. Fresh tickets and changed limits are passed on by a task of
//! its own. When the connection is lost, or the source is given up (see [`crate::patience`]), every receiver and sender answers
//! with one and the same failure, whose kind says whether another attempt can help. Dropping it closes the
//! connection.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::reach::Reach;
use common::shutdown::Shutdown;
use common::transport::Transport;
use sync::wire::control::{Bye, Cost, Counters, Opened, Sparing, ToDestination, ToSource};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, Open, PROTOCOL_VERSION, ScanRequest};
use tokio::sync::{mpsc, oneshot, watch};

use crate::breach::{breach, shown};
use crate::buffer::Buffers;
use crate::context::Peer;
use crate::endpoint::Endpoint;
use crate::lane::{LOST_HINT, Lane, LaneError, LaneSender};
use crate::link::Link;
use crate::reach::{self, Reached};

mod content;
mod demand;
mod listener;
mod manifest;

pub(crate) use content::batch_of;
pub use content::{ContentReceiver, Delivery, FetchSender};
pub(crate) use manifest::Beginning;
pub use manifest::ManifestReceiver;

use content::Packed;
use demand::Demand;
use listener::{Listener, Restart};

/// For the answer to `Open`: the source looks at its root, which may have to spin up or to be mounted.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);
/// For the source's last counters.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// An open connection to a source.
#[derive(Debug)]
pub struct Source {
    link: Link,
    reach: Reach,
    opened: Opened,
    counters: watch::Receiver<Counters>,
    cost: watch::Receiver<Option<Cost>>,
    commands: mpsc::Sender<oneshot::Sender<()>>,
    ended: Ended,
    demand: Demand,
    packed: Arc<Packed>,
    buffers: Buffers,
    tasks: Shutdown,
}

/// Why the connection ended: the first reason is kept.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    reason: Arc<OnceLock<Failure>>,
    link: Link,
}

impl Ended {
    /// Keeps a reason, unless there is one, and closes the connection.
    pub(crate) fn end(&self, code: ErrorCode, failure: Failure) {
        // First kept, then closed: whoever wakes from the close asks for the reason.
        let message = failure.message.clone();
        self.reason.get_or_init(|| failure);
        self.link.close(code, &message);
    }

    /// Keeps what an error of a lane says.
    pub(crate) fn lane(&self, error: &LaneError) {
        let code =
            if matches!(error, LaneError::Frame(_)) { ErrorCode::Protocol } else { ErrorCode::Cancelled };
        self.end(code, error.to_failure());
    }

    /// Returns the reason for an end that only an end of the connection can have; without one it is the source's.
    pub(crate) fn failure_or_breach(&self, what: &str) -> Failure {
        let failure = self.reason.get().cloned().unwrap_or_else(|| breach(what));
        self.end(ErrorCode::Protocol, failure.clone());
        failure
    }

    /// Returns the reason; only asked once something has ended.
    pub(crate) fn failure(&self) -> Failure {
        let lost = || {
            Failure::new(FailureKind::Unreachable, "the connection to the source has ended").hint(LOST_HINT)
        };
        self.reason.get().cloned().unwrap_or_else(lost)
    }
}

impl Source {
    /// Meets the source, whichever of both dials, and presents the ticket.
    ///
    /// `bandwidth` is what the source may send per second, now and whenever it changes.
    ///
    /// # Errors
    /// When the source cannot be reached, does not take the ticket, or cannot read its root.
    pub async fn open(
        endpoint: &Endpoint,
        peer: &Peer,
        bandwidth: watch::Receiver<Option<u64>>,
    ) -> Result<Self, Failure> {
        let Reached { link, reach, incarnation } = reach::connect(endpoint, peer).await?;
        let mut tickets = peer.ticket.clone();
        let ticket = tickets.borrow_and_update().clone();
        let bandwidth_limit = *bandwidth.borrow();
        let open = Open { version: PROTOCOL_VERSION, ticket, bandwidth_limit, compression: peer.compression };
        let opening = greet(&link, open);
        let (lane, opened) = match tokio::time::timeout(OPEN_DEADLINE, opening).await {
            Ok(opened) => opened.map_err(|failure| failure.context("host", peer.host.to_string()))?,
            Err(_elapsed) => return Err(silent(peer)),
        };
        let ended = Ended { reason: Arc::new(OnceLock::new()), link: link.clone() };
        let tasks = endpoint.stop().child();
        let (counted, counters) = watch::channel(Counters::default());
        let (cost_told, cost) = watch::channel(None);
        let (commands, finish) = mpsc::channel(1);
        let Lane { sender, receiver } = lane;
        let (speaker_ended, listener_ended) = (ended.clone(), ended.clone());
        let (peer_name, mut sparing) = (peer.host.to_string(), peer.sparing.clone());
        // What is no wish needs no word.
        if *sparing.borrow_and_update() != Sparing::default() {
            sparing.mark_changed();
        }
        let restart = Restart { news: peer.news.clone(), reach, incarnation };
        let demand = Demand::default();
        let listener = Listener {
            link: link.clone(),
            counted,
            demand: demand.clone(),
            restart: restart.clone(),
            bandwidth: bandwidth.clone(),
            sparing: peer.sparing.clone(),
            cost: cost_told,
            patience: endpoint.patience(),
        };
        tasks.spawn(async move {
            let speaker = Speaker { sender, tickets, bandwidth, sparing, restart, finish };
            if let Err(error) = speaker.run().await {
                speaker_ended.lane(&error);
            }
        });
        tasks.spawn(async move {
            let (code, failure) = listener.run(receiver).await;
            listener_ended.end(code, failure.context("host", peer_name));
        });
        let buffers = Buffers::default();
        let packed = Arc::default();
        Ok(Self { link, reach, opened, counters, cost, commands, ended, demand, buffers, packed, tasks })
    }

    /// Returns which of both agents dialled the other.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns what content comes over.
    pub fn transport(&self) -> Transport {
        self.link.transport()
    }

    /// Returns what the source said of itself.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Asks for the whole tree; once for each connection.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn manifest(&self, request: ScanRequest) -> Result<ManifestReceiver, Failure> {
        let Lane { mut sender, receiver } = self.lane(&Hello::Manifest(request)).await?;
        sender.finish().await;
        Ok(ManifestReceiver::start(receiver, self.demand.clone(), self.ended.clone(), &self.tasks))
    }

    /// Opens lanes for content; the source serves each with a thread. With a nonce it may prove that it has what this side
    /// holds.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn content(
        &self,
        lanes: usize,
        nonce: Option<[u8; 32]>,
    ) -> Result<(FetchSender, ContentReceiver), Failure> {
        let hello = nonce.map_or(Hello::Content, |nonce| Hello::ContentProven { nonce });
        self.content_as(&hello, lanes).await
    }

    /// The same, where links are followed.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn content_through_links(
        &self,
        lanes: usize,
    ) -> Result<(FetchSender, ContentReceiver), Failure> {
        self.content_as(&Hello::ContentThroughLinks, lanes).await
    }

    async fn content_as(
        &self,
        hello: &Hello,
        lanes: usize,
    ) -> Result<(FetchSender, ContentReceiver), Failure> {
        // At once: over TCP each takes round trips.
        let open = (0..lanes.max(1)).map(|_| self.lane(hello));
        let open = futures_util::future::try_join_all(open).await?;
        Ok(content::start(open, &self.buffers, &self.demand, &self.packed, &self.ended, &self.tasks))
    }

    /// Returns what counts the content that comes compressed.
    pub(crate) fn packed(&self) -> Arc<Packed> {
        Arc::clone(&self.packed)
    }

    /// Returns what the source has counted, a second ago as a rule; while this side takes nothing, what it told last.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Returns what the source tells of what it costs its host, once a second.
    pub(crate) fn cost(&self) -> watch::Receiver<Option<Cost>> {
        self.cost.clone()
    }

    /// Returns the UDP or TCP payload of this connection, sent by both ends.
    pub fn wire_bytes(&self) -> u64 {
        // The source tells its count each second: what has come since was sent too.
        let theirs = self.counters().wire_bytes.max(self.link.received_bytes());
        self.link.wire_bytes().saturating_add(theirs)
    }

    /// Returns why the connection ended, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.ended.reason.get().cloned()
    }

    /// Says goodbye, and returns [`Source::wire_bytes`] and the counters with all that was sent.
    pub async fn finish(self) -> (u64, Counters) {
        let (answered, answer) = oneshot::channel();
        let farewell = async {
            self.commands.send(answered).await.ok()?;
            answer.await.ok()?;
            // The source answers a goodbye with its counters and closes. What says that it closed may be ahead of them,
            // so it is the listener's end that counts: it reads to the end of its lane.
            let mut counters = self.counters.clone();
            while counters.changed().await.is_ok() {}
            Some(())
        };
        // A source that does not answer has told what it told.
        tokio::time::timeout(FINISH_DEADLINE, farewell).await.ok();
        let totals = (self.wire_bytes(), self.counters());
        self.link.close(ErrorCode::Done, "done");
        self.tasks.finish().await;
        totals
    }

    async fn lane(&self, hello: &Hello) -> Result<Lane, Failure> {
        let open = async {
            let mut lane = self.link.open_lane().await?;
            lane.sender.message(hello).await?;
            Ok(lane)
        };
        open.await.map_err(|error: LaneError| {
            self.ended.lane(&error);
            self.ended.failure()
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.link.close(ErrorCode::Cancelled, "the step ended");
        self.tasks.cancel();
    }
}

async fn greet(link: &Link, open: Open) -> Result<(Lane, Opened), Failure> {
    let talk = async {
        let mut lane = link.open_lane().await?;
        lane.sender.message(&Hello::Control(open)).await?;
        let answer = lane.receiver.message::<ToDestination>(&mut Vec::new()).await?;
        Ok((lane, answer))
    };
    let (lane, answer) = talk.await.map_err(|error: LaneError| error.to_failure())?;
    match answer {
        Some(ToDestination::Opened(opened)) if opened.version == PROTOCOL_VERSION => Ok((lane, opened)),
        Some(ToDestination::Opened(opened)) => Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "the source answers in version {} of the data protocol, which this agent does not speak",
                opened.version
            ),
        )
        .hint("Bring both agents to the same version.")),
        Some(ToDestination::Bye(bye)) => Err(farewell(&bye)),
        Some(ToDestination::Counters(_) | ToDestination::Cost(_)) | None => {
            Err(breach("it did not answer the request to open"))
        }
    }
}

/// Returns the failure that a goodbye of the source stands for.
fn farewell(bye: &Bye) -> Failure {
    let failure = Failure::new(
        bye.code.failure_kind(),
        format!("the source ended the connection: {}", shown(&bye.message)),
    );
    if bye.hint.is_empty() { failure } else { failure.hint(shown(&bye.hint)) }
}

fn silent(peer: &Peer) -> Failure {
    Failure::new(FailureKind::Timeout, format!("the agent on {} does not answer on its data port", peer.host))
        .context("host", peer.host.to_string())
        .hint("Look at that agent's log; its disk may not answer.")
}

/// What this side says on the control lane.
struct Speaker {
    sender: LaneSender,
    tickets: watch::Receiver<Vec<u8>>,
    bandwidth: watch::Receiver<Option<u64>>,
    sparing: watch::Receiver<Sparing>,
    restart: Restart,
    finish: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Speaker {
    async fn run(mut self) -> Result<(), LaneError> {
        let (mut has_tickets, mut has_limits, mut has_sparing) = (true, true, true);
        loop {
            tokio::select! {
                // What was told first is said first: a fresh ticket is never behind a limit.
                biased;
                changed = self.tickets.changed(), if has_tickets => {
                    has_tickets = changed.is_ok();
                    if has_tickets {
                        let ticket = self.tickets.borrow_and_update().clone();
                        self.sender.message(&ToSource::Renew { ticket }).await?;
                    }
                }
                changed = self.bandwidth.changed(), if has_limits => {
                    has_limits = changed.is_ok();
                    if has_limits {
                        self.limit().await?;
                    }
                }
                changed = self.sparing.changed(), if has_sparing => {
                    has_sparing = changed.is_ok();
                    if has_sparing {
                        let sparing = *self.sparing.borrow_and_update();
                        self.sender.message(&ToSource::Spare(sparing)).await?;
                    }
                }
                // An agent that started again answers the next packet by saying that it knows no such connection; so
                // something is said.
                () = self.restart.next() => self.limit().await?,
                finish = self.finish.recv() => {
                    let Some(answer) = finish else { return Ok(()) };
                    let bye = Bye { code: ErrorCode::Done, message: "done".to_owned(), hint: String::new() };
                    self.sender.message(&ToSource::Bye(bye)).await?;
                    self.sender.finish().await;
                    // Whoever asked may have given up waiting.
                    answer.send(()).ok();
                    return Ok(());
                }
            }
        }
    }

    async fn limit(&mut self) -> Result<(), LaneError> {
        // A limit of nothing would stop the move for good; pausing is done by whoever asks.
        let bytes_per_s = self.bandwidth.borrow_and_update().map(|limit| limit.max(1));
        self.sender.message(&ToSource::Limit { bytes_per_s }).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
