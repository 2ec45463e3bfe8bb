//! What a source sends, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use sync::wire::control::Counters;

/// Counts of one connection, added to by many threads.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    content_bytes: AtomicU64,
    content_units: AtomicU64,
    digest_bytes: AtomicU64,
}

impl Counter {
    /// Counts content that goes out, before compression.
    pub(crate) fn content(&self, bytes: usize, units: usize) {
        self.content_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.content_units.fetch_add(units as u64, Ordering::Relaxed);
    }

    /// Counts bytes that were read for a digest only.
    pub(crate) fn digest(&self, bytes: usize) {
        self.digest_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the counts as they are told to the destination.
    pub(crate) fn told(&self, wire_bytes: u64) -> Counters {
        Counters {
            wire_bytes,
            content_bytes: self.content_bytes.load(Ordering::Relaxed),
            content_units: self.content_units.load(Ordering::Relaxed),
            digest_bytes: self.digest_bytes.load(Ordering::Relaxed),
        }
    }
}
