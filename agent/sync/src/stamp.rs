//! What tells whether a file is still the one that was looked at.

use serde::{Deserialize, Serialize};

/// A time of a file system: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

impl Time {
    /// Whether the nanoseconds are those of one second.
    pub fn is_possible(self) -> bool {
        self.nanos < 1_000_000_000
    }

    /// Whether a file that was given this time, and now shows `kept`, shows it as well as its file system can.
    ///
    /// Some keep whole seconds only (ext4 with inodes of 128 bytes). Which ones do shows in the change time, which
    /// nobody can set: elsewhere it is a whole second once in a million.
    pub fn is_kept_as(self, kept: Self, ctime: Self) -> bool {
        self == kept || (kept.nanos == 0 && ctime.nanos == 0 && kept.seconds == self.seconds)
    }

    /// Returns the whole milliseconds from an earlier time; zero from a later one.
    pub fn milliseconds_since(self, earlier: Self) -> u64 {
        let nanos = |time: Self| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        u64::try_from((nanos(self) - nanos(earlier)) / 1_000_000).unwrap_or(0)
    }

    /// Returns the time that is this many seconds earlier.
    #[must_use]
    pub fn seconds_earlier(self, seconds: u32) -> Self {
        Self { seconds: self.seconds.saturating_sub(i64::from(seconds)), nanos: self.nanos }
    }
}

/// One state of one regular file: while all four are the same, so is its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode's number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

impl Stamp {
    /// Whether a file system can show such a file: sizes are signed numbers to the kernel, and two of the impossible
    /// nanoseconds mean something else to it.
    pub fn is_possible(&self) -> bool {
        i64::try_from(self.size).is_ok() && self.mtime.is_possible() && self.ctime.is_possible()
    }

    /// Whether a later look shows the same file with at least as many bytes, as a log that was appended to.
    pub fn may_have_grown_into(&self, later: &Self) -> bool {
        self.ino == later.ino && later.size >= self.size
    }
}
