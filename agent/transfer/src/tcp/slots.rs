//! How many lanes a peer may have open at once that it opens itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bound of one link, and what is open.
#[derive(Debug)]
pub(super) struct Slots {
    allowed: AtomicU32,
    open: AtomicU32,
}

/// One lane that is open, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    pub(super) fn new(allowed: u32) -> Arc<Self> {
        Arc::new(Self { allowed: AtomicU32::new(allowed), open: AtomicU32::new(0) })
    }

    /// Allows so many from now on; what is open stays.
    pub(super) fn allow(&self, count: u32) {
        self.allowed.store(count, Ordering::Release);
    }

    /// Takes a place for one more; nothing when there is none.
    pub(super) fn take(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let allowed = self.allowed.load(Ordering::Acquire);
        let more = |open: u32| (open < allowed).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Arc::new(Slot(Arc::clone(self))))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
