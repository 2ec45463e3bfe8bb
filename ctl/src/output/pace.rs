//! How fast a migration moves: what the coordinator says, or else what is seen here.

use std::collections::VecDeque;
use std::time::Duration;

use common::clock::BootTime;
use common::view::{MigrationStatus, MigrationView};

/// Over how long a rate is measured: long enough to be steady, short enough to follow a change.
const WINDOW: Duration = Duration::from_secs(5);
/// What is seen over a shorter time is chance.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// Moments that are kept; a coordinator sends two views a second.
const SAMPLES_MAX: usize = 64;

/// A rate, and how long the rest takes at that rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Zero when it is not known.
    pub(crate) bytes_per_s: u64,
    /// None when it is not known.
    pub(crate) eta_ms: Option<u64>,
}

/// What was seen of a migration lately.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    samples: VecDeque<(BootTime, u64)>,
}

impl Seen {
    /// Takes in where the migration stands, and returns its pace.
    pub(crate) fn pace(&mut self, view: &MigrationView, now: BootTime) -> Pace {
        // A step that is tried again begins anew, and what is undone does not move forward.
        let is_back = self.samples.back().is_some_and(|(_, bytes)| *bytes > view.bytes_done);
        if is_back || view.status != MigrationStatus::Running {
            self.samples.clear();
        }
        self.samples.push_back((now, view.bytes_done));
        let is_old = |samples: &VecDeque<(BootTime, u64)>| {
            samples.len() > SAMPLES_MAX || samples.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW)
        };
        while is_old(&self.samples) {
            self.samples.pop_front();
        }
        let bytes_per_s = if view.bytes_per_s > 0 { view.bytes_per_s } else { self.rate(now) };
        let left = view.bytes_total.saturating_sub(view.bytes_done);
        let own_eta = (left > 0).then(|| left.saturating_mul(1000).checked_div(bytes_per_s)).flatten();
        Pace { bytes_per_s, eta_ms: view.eta_ms.or(own_eta) }
    }

    fn rate(&self, now: BootTime) -> u64 {
        let (Some((first, before)), Some((_, after))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let elapsed = now.since(*first);
        if elapsed < WINDOW_MIN {
            return 0;
        }
        u64::try_from(u128::from(after - before) * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use common::clock;

    use super::*;
    use crate::output::progress::tests::view;

    fn silent(bytes_done: u64) -> MigrationView {
        MigrationView { bytes_per_s: 0, eta_ms: None, bytes_done, bytes_total: 10_000, ..view() }
    }

    #[test]
    fn what_the_coordinator_says_wins() {
        let pace = Seen::default().pace(&view(), clock::boot());
        assert_eq!(pace, Pace { bytes_per_s: 10 << 10, eta_ms: Some(12_000) });
    }

    #[test]
    fn a_silent_coordinator_is_measured_over_the_last_seconds() {
        let (start, mut seen) = (clock::boot(), Seen::default());
        let mut at = |ms, bytes| seen.pace(&silent(bytes), start.after(Duration::from_millis(ms)));
        assert_eq!(at(0, 0), Pace::default());
        assert_eq!(at(500, 100), Pace::default(), "half a second is chance");
        assert_eq!(at(2_000, 2_000), Pace { bytes_per_s: 1_000, eta_ms: Some(8_000) });
        // The slow beginning has left the window.
        assert_eq!(at(7_000, 7_000), Pace { bytes_per_s: 1_000, eta_ms: Some(3_000) });
        assert_eq!(at(12_000, 7_000), Pace::default(), "nothing moved for a whole window");
    }

    #[test]
    fn another_attempt_begins_anew() {
        let (start, mut seen) = (clock::boot(), Seen::default());
        seen.pace(&silent(9_000), start);
        assert_eq!(seen.pace(&silent(100), start.after(Duration::from_secs(2))), Pace::default());
    }
}
