//! What a source owes and what this side takes of it: tells a source that does nothing from one that is kept waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sync::wire::content::{Fetch, Reply, What};

use crate::patience::Seen;

/// Counts of one connection; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Wishes without an answer, and the manifest while it has no end.
    owed: AtomicU64,
    /// Lanes of which something has come that waits for a thread of this side.
    held_up: AtomicU64,
    /// Bytes that came on lanes of the manifest and of content.
    taken: Arc<AtomicU64>,
    /// Bytes that the source was asked to read and not to send.
    to_be_read: AtomicU64,
}

/// Something that is owed as long as this lives.
#[derive(Debug)]
pub(super) struct Debt(Demand);

/// Something that waits for a thread of this side as long as this lives.
#[derive(Debug)]
pub(super) struct HeldUp(Demand);

impl Demand {
    /// Notes wishes that go out.
    pub(super) fn ask(&self, fetches: &[Fetch]) {
        let is_read_only = |fetch: &&Fetch| matches!(fetch.what, What::Digest | What::Confirm);
        let bytes = fetches.iter().filter(is_read_only).map(|fetch| fetch.stamp.size);
        self.0.to_be_read.fetch_add(bytes.fold(0, u64::saturating_add), Relaxed);
        self.0.owed.fetch_add(fetches.len() as u64, Relaxed);
    }

    /// Notes an answer.
    pub(super) fn answered(&self, reply: &Reply) {
        self.pay(reply.wishes() as u64);
    }

    /// Owes one thing more until the debt is dropped.
    pub(super) fn owe(&self) -> Debt {
        self.0.owed.fetch_add(1, Relaxed);
        Debt(self.clone())
    }

    /// Notes that something which has come is handed on.
    pub(super) fn hold_up(&self) -> HeldUp {
        self.0.held_up.fetch_add(1, Relaxed);
        HeldUp(self.clone())
    }

    /// Returns where lanes count what comes.
    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.taken)
    }

    /// Returns what is seen now; the source says that it has read so many bytes only for digests.
    pub(super) fn seen(&self, received: u64, digest_bytes: u64) -> Seen {
        // More than it was asked for is of no use.
        let read = digest_bytes.min(self.0.to_be_read.load(Relaxed));
        Seen {
            received,
            useful: self.0.taken.load(Relaxed).saturating_add(read),
            is_owing: self.0.owed.load(Relaxed) > 0,
            is_held_up: self.0.held_up.load(Relaxed) > 0,
        }
    }

    /// A hostile source may answer more than it was asked, which is found out by whoever asked.
    fn pay(&self, count: u64) {
        self.0.owed.fetch_update(Relaxed, Relaxed, |owed| Some(owed.saturating_sub(count))).ok();
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.0.pay(1);
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        self.0.0.held_up.fetch_sub(1, Relaxed);
    }
}
