//! How long a source may be silent, and how long it may bring nothing.
//!
//! Two questions, asked at every beat. Is the peer there? Any packet says so, and each end asks for one at every beat,
//! whatever the lanes are doing: a destination whose disk stands still takes nothing, and then not even counters get
//! through the connection's window. Does it do what it was asked for? Only bytes of the tree say so, and only while
//! this side takes what comes.
//!
//! Beats are counted and not time, so that a host that was suspended, or too busy to look, blames nobody for it.

use std::time::Duration;

/// Beats without a packet, after which the peer counts as gone.
const SILENT_BEATS_MAX: u32 = 5;
/// The same once the leader says that the peer's agent started again, as long as nothing comes.
const RESTARTED_SILENT_BEATS_MAX: u32 = 2;

/// The bounds, as an endpoint is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Between two looks, and between two signs of life that are asked for; five without any are the end.
    pub beat: Duration,
    /// How long a source may owe something and bring nothing of it.
    pub stall: Duration,
    /// How long the slower of two transports is waited for once the other has got through.
    pub second: Duration,
}

impl Default for Patience {
    /// Five seconds of silence; ten minutes for whatever a source may wait for: a directory of ten million names, a
    /// sync of a busy file system, a disk that spins up. TCP takes three round trips to get through, and QUIC sends a
    /// packet that was lost again after a second.
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            stall: Duration::from_secs(10 * 60),
            second: Duration::from_millis(1500),
        }
    }
}

/// What is seen of a source at a beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes of all datagrams that came.
    pub(crate) received: u64,
    /// Bytes of the tree that came, or that the source has read for an answer.
    pub(crate) useful: u64,
    /// Whether something that was asked for is outstanding.
    pub(crate) is_owing: bool,
    /// Whether something that came is not taken on this side.
    pub(crate) is_held_up: bool,
}

/// Why a source is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// No packet for so long.
    Silent(Duration),
    /// Packets, and nothing of what it owes for so long.
    Stalled(Duration),
}

/// Watches one source, beat by beat.
#[derive(Debug)]
pub(crate) struct Vigil {
    patience: Patience,
    last: Seen,
    silent_beats: u32,
    silent_beats_max: u32,
    stalled_beats: u32,
}

impl Vigil {
    pub(crate) fn new(patience: Patience) -> Self {
        Self {
            patience,
            last: Seen::default(),
            silent_beats: 0,
            silent_beats_max: SILENT_BEATS_MAX,
            stalled_beats: 0,
        }
    }

    /// Notes that the peer's agent started again, so that the one at the other end may be gone; so many bytes had come.
    pub(crate) fn restarted(&mut self, received: u64) {
        self.last.received = received;
        (self.silent_beats, self.silent_beats_max) = (0, RESTARTED_SILENT_BEATS_MAX);
    }

    /// Looks at the source; `per_piece` is what the slowest piece takes under the present limit of bandwidth.
    pub(crate) fn beat(&mut self, seen: Seen, per_piece: Duration) -> Option<GivenUp> {
        let last = std::mem::replace(&mut self.last, seen);
        if seen.received == last.received {
            self.silent_beats += 1;
        } else {
            (self.silent_beats, self.silent_beats_max) = (0, SILENT_BEATS_MAX);
        }
        if seen.useful == last.useful && seen.is_owing && !seen.is_held_up {
            self.stalled_beats += 1;
        } else {
            self.stalled_beats = 0;
        }
        let (silent, stalled) =
            (self.patience.beat * self.silent_beats, self.patience.beat * self.stalled_beats);
        if self.silent_beats >= self.silent_beats_max {
            Some(GivenUp::Silent(silent))
        } else if stalled >= self.patience.stall.saturating_add(per_piece) {
            Some(GivenUp::Stalled(stalled))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        beat: Duration::from_secs(1),
        stall: Duration::from_secs(20),
        second: Duration::from_secs(1),
    };

    /// Returns at which beat a source that is seen like this is given up, out of a hundred.
    fn given_up(vigil: &mut Vigil, seen: impl Fn(u64) -> Seen) -> Option<(u64, GivenUp)> {
        (1..=100).find_map(|beat| Some((beat, vigil.beat(seen(beat), Duration::ZERO)?)))
    }

    #[test]
    fn any_packet_is_a_sign_of_life() {
        let silent = Some((6, GivenUp::Silent(Duration::from_secs(5))));
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), |_| Seen { received: 7, ..Seen::default() }), silent);
        let alive = |beat| Seen { received: beat / 4, ..Seen::default() };
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), alive), None);
    }

    #[test]
    fn a_start_shortens_the_silence_until_something_comes() {
        let mut vigil = Vigil::new(PATIENCE);
        vigil.restarted(7);
        let seen = |_| Seen { received: 7, ..Seen::default() };
        assert_eq!(given_up(&mut vigil, seen), Some((2, GivenUp::Silent(Duration::from_secs(2)))));
        vigil.restarted(7);
        assert_eq!(vigil.beat(Seen { received: 8, ..Seen::default() }, Duration::ZERO), None);
        let seen = |_| Seen { received: 8, ..Seen::default() };
        assert_eq!(given_up(&mut vigil, seen), Some((5, GivenUp::Silent(Duration::from_secs(5)))));
    }

    #[test]
    fn who_lives_and_brings_nothing_of_what_he_owes_is_given_up() {
        let owing = |beat| Seen { received: beat, is_owing: true, ..Seen::default() };
        let stalled = Some((20, GivenUp::Stalled(PATIENCE.stall)));
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), owing), stalled);
        let trickling = |beat| Seen { useful: beat / 19, ..owing(beat) };
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), trickling), None);
        let idle = |beat| Seen { is_owing: false, ..owing(beat) };
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), idle), None);
    }

    #[test]
    fn what_this_side_does_not_take_is_not_the_sources_fault() {
        let held_up =
            |beat| Seen { received: beat, is_owing: true, is_held_up: beat % 19 == 0, ..Seen::default() };
        assert_eq!(given_up(&mut Vigil::new(PATIENCE), held_up), None);
    }

    #[test]
    fn a_limit_of_bandwidth_makes_patient() {
        let mut vigil = Vigil::new(PATIENCE);
        let owing = |beat| Seen { received: beat, is_owing: true, ..Seen::default() };
        let at = (1..=100).find(|beat| vigil.beat(owing(*beat), Duration::from_secs(30)).is_some());
        assert_eq!(at, Some(50));
    }
}
