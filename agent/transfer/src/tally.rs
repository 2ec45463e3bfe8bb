//! What a pass has counted so far, for progress and for the output.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use common::progress::Progress;
use common::step::file::FileOutput;

/// Counted by several threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) files_total: AtomicU64,
    pub(crate) directories_total: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    /// Entries that the source told of.
    pub(crate) entries_seen: AtomicU64,
    pub(crate) is_scan_complete: AtomicBool,
    pub(crate) files_done: AtomicU64,
    pub(crate) bytes_done: AtomicU64,
    /// Files whose content was brought and committed: in this attempt, and in those of this step before it.
    pub(crate) files_sent: AtomicU64,
    pub(crate) bytes_landed: AtomicU64,
    /// Those of them that this attempt found landed.
    pub(crate) files_landed_before: AtomicU64,
    /// Content that landed, holes left out: in this attempt, and in those before it.
    pub(crate) data_landed: AtomicU64,
    /// What of these bytes was not sent, but is a copy of what was here, over all attempts.
    pub(crate) bytes_deduplicated: AtomicU64,
    /// Holes left out, in this attempt alone.
    pub(crate) data_deduplicated: AtomicU64,
    pub(crate) files_unchanged: AtomicU64,
    pub(crate) metadata_changed: AtomicU64,
    pub(crate) deleted: AtomicU64,
    /// Entries at the destination, for the guard of deletes.
    pub(crate) destination_entries: AtomicU64,
    /// Files that the source leaves out for their size, and for their age.
    pub(crate) left_out: [AtomicU64; 2],
    /// Whether something could not be brought as asked.
    pub(crate) is_partial: AtomicBool,
    /// To how many files each rule of the spec applied at the source.
    pub(crate) sanitized: Mutex<Vec<u64>>,
}

/// What a step has landed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Landed {
    /// Entries that were brought, changed or removed.
    pub(crate) entries: u64,
    /// Content of them.
    pub(crate) bytes: u64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

impl Counters {
    /// Notes that something could not be brought as asked.
    pub(crate) fn set_partial(&self) {
        self.is_partial.store(true, Relaxed);
    }

    /// Goes on from what an earlier pass of the same attempt counted as landed.
    pub(crate) fn go_on_from(&self, earlier: &Self) {
        let counters: [fn(&Self) -> &AtomicU64; 5] = [
            |counters| &counters.files_sent,
            |counters| &counters.bytes_landed,
            |counters| &counters.data_landed,
            |counters| &counters.metadata_changed,
            |counters| &counters.deleted,
        ];
        for counter in counters {
            counter(self).store(counter(earlier).load(Relaxed), Relaxed);
        }
        self.files_landed_before.store(self.files_sent.load(Relaxed), Relaxed);
    }

    /// Takes the totals of files and bytes as they are known, for a pass that does not look at everything.
    pub(crate) fn know(&self, (files, bytes): (u64, u64)) {
        for counter in [&self.files_total, &self.files_done, &self.destination_entries] {
            counter.store(files, Relaxed);
        }
        for counter in [&self.bytes_total, &self.bytes_done] {
            counter.store(bytes, Relaxed);
        }
    }

    /// Returns what the step has landed so far.
    pub(crate) fn landed(&self) -> Landed {
        let counters = [&self.files_sent, &self.metadata_changed, &self.deleted];
        let entries = counters.iter().map(|counter| counter.load(Relaxed)).sum();
        Landed { entries, bytes: self.bytes_landed.load(Relaxed) }
    }

    /// Counts a file that needs nothing more.
    pub(crate) fn done(&self, bytes: u64) {
        add(&self.files_done, 1);
        add(&self.bytes_done, bytes);
    }

    /// Returns the progress, never below an earlier one of this step.
    pub(crate) fn progress(&self, bytes_on_wire: u64, bytes_per_s: u64, earlier: &Progress) -> Progress {
        let is_known_again = self.is_scan_complete.load(Relaxed);
        // A scan that is under way again knows less than the one before, whose totals hold until it has ended.
        let total = |now: &AtomicU64, earlier: u64| {
            if is_known_again { now.load(Relaxed) } else { now.load(Relaxed).max(earlier) }
        };
        let files_total = total(&self.files_total, earlier.files_total);
        let bytes_total = total(&self.bytes_total, earlier.bytes_total);
        Progress {
            files_done: self.files_done.load(Relaxed).max(earlier.files_done).min(files_total),
            files_total,
            bytes_done: self.bytes_done.load(Relaxed).max(earlier.bytes_done).min(bytes_total),
            bytes_total,
            is_scan_complete: is_known_again || earlier.is_scan_complete,
            bytes_on_wire: bytes_on_wire.max(earlier.bytes_on_wire),
            bytes_per_s,
            reach: earlier.reach,
            transport: earlier.transport,
            source_cost: earlier.source_cost,
        }
    }

    /// Writes what this attempt counted into an output.
    pub(crate) fn fill(&self, output: &mut FileOutput) {
        output.files_total = self.files_total.load(Relaxed);
        output.directories_total = self.directories_total.load(Relaxed);
        output.bytes_total = self.bytes_total.load(Relaxed);
        output.files_sent = self.files_sent.load(Relaxed);
        output.bytes_deduplicated = self.bytes_deduplicated.load(Relaxed);
        // The ledger knows what earlier attempts landed, not where from: what the group copied that a kill stopped counts
        // as sent.
        output.bytes_sent = self.bytes_landed.load(Relaxed).saturating_sub(output.bytes_deduplicated);
        // What an earlier attempt brought looks unchanged to this one, and was not there already.
        let unchanged = self.files_unchanged.load(Relaxed);
        output.files_unchanged = unchanged.saturating_sub(self.files_landed_before.load(Relaxed));
        output.metadata_changed = self.metadata_changed.load(Relaxed);
        output.deleted = self.deleted.load(Relaxed);
        output.is_partial = self.is_partial.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_falls_below_that_of_an_earlier_attempt() {
        let counters = Counters::default();
        add(&counters.files_total, 10);
        add(&counters.files_done, 4);
        let earlier = Progress { files_done: 50, files_total: 80, bytes_on_wire: 7, ..Progress::default() };
        let progress = counters.progress(3, 0, &earlier);
        assert_eq!((progress.files_done, progress.files_total, progress.bytes_on_wire), (50, 80, 7));
        add(&counters.files_total, 90);
        counters.is_scan_complete.store(true, Relaxed);
        let progress = counters.progress(9, 0, &earlier);
        assert_eq!((progress.files_done, progress.files_total, progress.bytes_on_wire), (50, 100, 9));
    }
}
