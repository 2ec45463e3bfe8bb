//! How a link over TCP ended, and who is woken by it.
//!
//! What was sent before the end is still read: words of parting come on one socket, and the last bytes of a lane on
//! another. So an end that the peer told stops writers at once and readers a moment later.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sync::wire::error_code::ErrorCode;
use tokio_util::sync::CancellationToken;

use crate::lane::LaneError;

/// How long the words of one socket may be behind those of another.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// The end of a link, shared by its lanes; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Fate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there is a link at all; a spine, and a lane that has not joined yet, stand alone.
    is_of_link: bool,
    verdict: OnceLock<LaneError>,
    /// What the peer is to be told, where this side ended the link.
    words: OnceLock<(ErrorCode, String)>,
    parted: CancellationToken,
    over: CancellationToken,
}

impl Fate {
    /// Makes the fate of a link.
    pub(super) fn of_link() -> Self {
        Self(Arc::new(Inner { is_of_link: true, ..Inner::default() }))
    }

    /// Makes the fate of a connection that belongs to no link: nothing ends it but itself.
    pub(super) fn alone() -> Self {
        Self(Arc::default())
    }

    /// Ends the link from this side; the first end counts.
    pub(super) fn close(&self, code: ErrorCode, reason: &str) {
        if self.0.verdict.set(LaneError::ClosedHere).is_ok() {
            self.0.words.set((code, reason.to_owned())).ok();
        }
        self.0.parted.cancel();
        self.0.over.cancel();
    }

    /// Notes that the link ended from the other side, or was lost.
    pub(super) async fn end(&self, verdict: LaneError) {
        self.0.verdict.set(verdict).ok();
        self.0.parted.cancel();
        tokio::select! {
            () = self.0.over.cancelled() => {}
            () = tokio::time::sleep(BEHIND_MAX) => self.0.over.cancel(),
        }
    }

    /// Waits for the end, and says how it was.
    pub(super) async fn parted(&self) -> LaneError {
        self.0.parted.cancelled().await;
        self.verdict()
    }

    /// Waits until nothing more is read.
    pub(super) async fn over(&self) -> LaneError {
        self.0.over.cancelled().await;
        self.verdict()
    }

    /// Says why a lane broke: the link's end, if that comes; else the peer gave up the lane alone.
    pub(super) async fn explain(&self) -> LaneError {
        let given_up = LaneError::Reset(ErrorCode::ResumeLater);
        if !self.0.is_of_link {
            return given_up;
        }
        tokio::time::timeout(BEHIND_MAX, self.parted()).await.unwrap_or(given_up)
    }

    /// Returns what the peer is to be told.
    pub(super) fn words(&self) -> Option<&(ErrorCode, String)> {
        self.0.words.get()
    }

    fn verdict(&self) -> LaneError {
        self.0.verdict.get().cloned().unwrap_or(LaneError::ClosedHere)
    }
}
