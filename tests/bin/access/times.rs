//! How long things took.

use std::time::Duration;

use common::clock;

/// Times of one thing.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Runs something and notes how long it took.
    pub(crate) fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = clock::boot();
        let done = work();
        self.0.push(clock::boot().since(began));
        done
    }

    /// Awaits something and notes how long it took.
    pub(crate) async fn awaited<T>(&mut self, work: impl Future<Output = T>) -> T {
        let began = clock::boot();
        let done = work.await;
        self.0.push(clock::boot().since(began));
        done
    }

    /// Returns the median in microseconds.
    pub(crate) fn median(&self) -> f64 {
        self.micros(50)
    }

    /// Prints the median and what 99 of 100 and all took at most.
    pub(crate) fn print(&self, what: &str) {
        println!(
            "{what}: median {:.1} us, 99 % below {:.1} us, slowest {:.1} us, of {}",
            self.micros(50),
            self.micros(99),
            self.micros(100),
            self.0.len()
        );
    }

    fn micros(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}
