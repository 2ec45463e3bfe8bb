//! PURE. How often somebody may try.
//!
//! A bucket for each name: so many tries at once, and one more with each pause. The number of buckets is bounded; when
//! there are too many, the fullest go first, so that a flood of names never gives back the tries of one that is empty.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::BootTime;

/// Names that are remembered; one takes about a hundred bytes.
const NAMES_MAX: usize = 4096;

/// Buckets of one kind.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    pause: Duration,
    buckets: BTreeMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    /// When `left` was right.
    then: BootTime,
}

impl Throttle {
    /// Makes buckets that hold `burst` tries and get one more with each `pause`.
    pub fn new(burst: u32, pause: Duration) -> Self {
        Self { burst, pause, buckets: BTreeMap::new() }
    }

    /// Takes one try; false when there is none.
    pub fn take(&mut self, name: &str, now: BootTime) -> bool {
        if !self.buckets.contains_key(name) && self.buckets.len() >= NAMES_MAX {
            self.forget(now);
        }
        let full = Bucket { left: self.burst, then: now };
        let bucket = self.buckets.entry(name.to_owned()).or_insert(full);
        bucket.refill(self.burst, self.pause, now);
        if bucket.left == 0 {
            return false;
        }
        bucket.left -= 1;
        true
    }

    /// Forgets the fuller half; among equals what was used least recently.
    fn forget(&mut self, now: BootTime) {
        let mut buckets: Vec<(String, Bucket)> = std::mem::take(&mut self.buckets).into_iter().collect();
        for (_, bucket) in &mut buckets {
            bucket.refill(self.burst, self.pause, now);
        }
        buckets.sort_by_key(|(_, bucket)| (bucket.left, now.since(bucket.then)));
        self.buckets = buckets.into_iter().take(NAMES_MAX / 2).collect();
    }
}

impl Bucket {
    /// Gives back what the time has.
    fn refill(&mut self, burst: u32, pause: Duration, now: BootTime) {
        let passed = now.since(self.then).as_millis() / pause.as_millis().max(1);
        if passed > 0 {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)).min(burst);
            self.then = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time so many milliseconds after the boot.
    fn at(ms: u64) -> BootTime {
        common::clock::boot().before(Duration::MAX).after(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_passes_and_then_one_with_each_pause() {
        let mut throttle = Throttle::new(3, Duration::from_secs(1));
        let tries = |throttle: &mut Throttle, ms, count| {
            (0..count).filter(|_| throttle.take("1.2.3.4", at(ms))).count()
        };
        assert_eq!(tries(&mut throttle, 0, 1000), 3);
        assert_eq!(tries(&mut throttle, 999, 10), 0);
        assert_eq!(tries(&mut throttle, 2_100, 10), 2);
        assert_eq!(tries(&mut throttle, 1_000_000, 10), 3);
        assert!(throttle.take("1.2.3.5", at(1_000_000)), "another name has its own bucket");
    }

    #[test]
    fn names_are_bounded() {
        let mut throttle = Throttle::new(1, Duration::from_secs(1));
        for name in 0..3 * u64::try_from(NAMES_MAX).unwrap() {
            assert!(throttle.take(&name.to_string(), at(name)));
        }
        assert!(throttle.buckets.len() <= NAMES_MAX);
    }

    #[test]
    fn a_flood_of_names_gives_no_try_back() {
        let mut throttle = Throttle::new(3, Duration::from_secs(3_600));
        assert_eq!((0..9).filter(|_| throttle.take("eve", at(0))).count(), 3);
        for name in 0..3 * u64::try_from(NAMES_MAX).unwrap() {
            assert!(throttle.take(&format!("n{name}"), at(name)));
        }
        assert!(!throttle.take("eve", at(60_000)), "names that nobody has forgot the one that is guessed at");
    }
}
