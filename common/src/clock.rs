//! The only callers of `now`.
//!
//! Two clocks: wall time for people and certificates, which may jump; and time since boot, which runs on while the
//! machine is suspended and never goes back, for every lease and deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Wall time in milliseconds since 1970, as this machine believes it to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallMs(pub u64);

impl WallMs {
    /// Returns the milliseconds from `earlier` to this time, zero when the clock went back.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time that is `duration` earlier, or 1970.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns the time that is `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Time since boot (CLOCK_BOOTTIME); comparable within one boot of one machine only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Returns the time from `earlier` to this one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time that is `duration` earlier, or that of the boot.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// Returns the time that is `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Returns the wall time.
pub fn wall() -> WallMs {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let now = SystemTime::now();
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the time since boot.
pub fn boot() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_runs_forward() {
        let earlier = boot();
        let later = boot();
        assert!(later >= earlier);
        assert_eq!(earlier.after(Duration::from_secs(1)).since(earlier), Duration::from_secs(1));
        assert_eq!(earlier.since(earlier.after(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(earlier.after(Duration::from_secs(1)).before(Duration::from_secs(1)), earlier);
    }
}
