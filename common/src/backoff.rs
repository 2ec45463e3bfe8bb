//! Retry delays.

use std::time::Duration;

/// Delays that double from `first` up to `max`, each shortened by up to half by a jitter that the caller draws.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Makes delays from `first` up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// Returns the next delay; `jitter` is drawn uniformly from all of `u32`.
    pub fn next_delay(&mut self, jitter: u32) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        let fraction = f64::from(jitter) / f64::from(u32::MAX) / 2.0;
        delay.mul_f64(1.0 - fraction)
    }

    /// Begins again with the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let delays: Vec<_> = (0..4).map(|_| backoff.next_delay(0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next_delay(u32::MAX).as_millis(), 50);
    }
}
