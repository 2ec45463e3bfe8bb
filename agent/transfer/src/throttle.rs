//! How fast this side may send: a token bucket that can be changed while it runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};

/// What may be saved up while nothing is sent: a quarter of a second.
const BURST: f64 = 0.25;
/// A changed rate is noticed this soon by whoever waits.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A limit that all lanes of a connection share.
#[derive(Debug)]
pub(crate) struct Throttle {
    bucket: Mutex<Bucket>,
    /// While it holds nothing is read or sent at all.
    is_held: AtomicBool,
}

#[derive(Debug)]
struct Bucket {
    bytes_per_s: Option<u64>,
    /// Negative after a piece larger than what was saved up: it is paid off before the next.
    available: f64,
    filled: BootTime,
}

impl Throttle {
    /// Makes a limit; none lets everything through.
    pub(crate) fn new(bytes_per_s: Option<u64>) -> Self {
        let bucket = Mutex::new(Bucket { bytes_per_s, available: 0.0, filled: clock::boot() });
        Self { bucket, is_held: AtomicBool::new(false) }
    }

    /// Changes the limit.
    pub(crate) fn set(&self, bytes_per_s: Option<u64>) {
        let mut bucket = self.lock();
        bucket.fill(clock::boot());
        bucket.bytes_per_s = bytes_per_s;
        // A debt made under another rate is forgiven: paid at a slow rate it could take hours.
        bucket.available = 0.0;
    }

    /// Holds everything back, or lets go.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Whether everything is held back.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Waits while everything is held back.
    pub(crate) async fn released(&self) {
        while self.is_held() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Makes a thread wait while everything is held back.
    pub(crate) fn wait(&self) {
        while self.is_held() {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets everything through: the connection has ended, and nobody shall wait for it.
    pub(crate) fn end(&self) {
        self.hold(false);
        self.set(None);
    }

    /// Waits until so many bytes may be sent.
    pub(crate) async fn take(&self, bytes: usize) {
        loop {
            let wait = self.lock().take(bytes, clock::boot());
            let Some(wait) = wait else { return };
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn fill(&mut self, now: BootTime) {
        let Some(rate) = self.bytes_per_s else { return };
        #[expect(clippy::cast_precision_loss, reason = "a rate beyond 2^53 bytes per second limits nothing")]
        let rate = rate as f64;
        let passed = now.since(self.filled).as_secs_f64();
        self.available = (self.available + rate * passed).min(rate * BURST);
        self.filled = now;
    }

    /// Takes the bytes, or says how long to wait first.
    fn take(&mut self, bytes: usize, now: BootTime) -> Option<Duration> {
        let rate = self.bytes_per_s?;
        self.fill(now);
        #[expect(clippy::cast_precision_loss, reason = "pieces are far below 2^53 bytes")]
        let (rate, bytes) = (rate.max(1) as f64, bytes as f64);
        if self.available >= 0.0 {
            self.available -= bytes;
            return None;
        }
        Some(Duration::from_secs_f64((-self.available / rate).max(0.001)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_a_second_s_worth_through() {
        let start = clock::boot();
        let mut bucket = Bucket { bytes_per_s: Some(1_000), available: 0.0, filled: start };
        let mut sent = 0;
        let mut now = start;
        while now.since(start) < Duration::from_secs(10) {
            match bucket.take(700, now) {
                None => sent += 700,
                Some(wait) => now = now.after(wait),
            }
        }
        assert!((9_300..=11_400).contains(&sent), "{sent}");
    }

    #[test]
    fn no_limit_never_waits_and_a_new_limit_forgives_the_debt() {
        let throttle = Throttle::new(None);
        assert_eq!(throttle.lock().take(usize::MAX, clock::boot()), None);
        throttle.set(Some(1));
        assert_eq!(throttle.lock().take(1_000_000, clock::boot()), None);
        assert!(throttle.lock().take(1, clock::boot()).is_some());
        throttle.set(Some(1_000_000));
        assert_eq!(throttle.lock().take(1, clock::boot()), None);
    }
}
