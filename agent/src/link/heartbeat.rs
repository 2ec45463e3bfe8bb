//! Heartbeats of one session: which leases are due, when each renewal was sent, and whether the leader is silent.
//!
//! Pure: times come in, lists go out.

use std::collections::VecDeque;
use std::time::Duration;

use common::clock::{BootTime, WallMs};
use common::limit::LEASE_RENEWAL;

use super::lease::HeldLease;

/// How often the agent says that it is there. A renewal that was not answered is repeated with the next one.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// A renewal that is not answered by then means that the leader is gone or lost its quorum: a new session finds out.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// Renewals whose answers are waited for; more than fit into [`SILENCE_MAX`] and a burst of grants.
const WAITED_FOR_MAX: usize = 64;

/// The heartbeats of one session.
#[derive(Debug, Default)]
pub struct Heartbeats {
    last: u64,
    /// Number and time of renewals without an answer, oldest first.
    waited_for: VecDeque<(u64, BootTime)>,
}

impl Heartbeats {
    /// Returns those leases that ask to be renewed now.
    pub fn due(leases: &[HeldLease], now: BootTime) -> impl Iterator<Item = &HeldLease> {
        leases.iter().filter(move |lease| {
            let renewed_at = lease.renewed_at();
            // One interval of slack: the next heartbeat may come too late for three tries within one lease.
            lease.ended().is_none()
                && renewed_at.is_none_or(|sent| now.since(sent) + HEARTBEAT_INTERVAL > LEASE_RENEWAL)
        })
    }

    /// Numbers a heartbeat that is sent now.
    pub fn sent(&mut self, renews: bool, now: BootTime) -> u64 {
        self.last += 1;
        if renews {
            if self.waited_for.len() == WAITED_FOR_MAX {
                self.waited_for.pop_front();
            }
            self.waited_for.push_back((self.last, now));
        }
        self.last
    }

    /// Returns when the heartbeat of this number was sent, once.
    pub fn answered(&mut self, number: u64) -> Option<BootTime> {
        let at = self.waited_for.iter().position(|&(waited_for, _)| waited_for == number)?;
        // The stream keeps the order, so what was sent before and is unanswered will stay so.
        self.waited_for.drain(..=at).next_back().map(|(_, sent)| sent)
    }

    /// Whether a renewal has waited too long for its answer.
    pub fn is_silent(&self, now: BootTime) -> bool {
        self.waited_for.front().is_some_and(|&(_, sent)| now.since(sent) > SILENCE_MAX)
    }
}

/// Returns how many milliseconds the leader's clock is ahead of this host's; tickets expire by the former.
pub fn ahead_ms(leader: WallMs, here: WallMs) -> i64 {
    let signed = |time: WallMs| i64::try_from(time.0).unwrap_or(i64::MAX);
    signed(leader).saturating_sub(signed(here))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::clock;
    use common::fence::FencingToken;

    #[test]
    fn an_answer_gives_the_time_of_its_question_once() {
        let (mut heartbeats, start) = (Heartbeats::default(), clock::boot());
        let first = heartbeats.sent(true, start);
        assert_eq!(heartbeats.sent(false, start), first + 1);
        let third = heartbeats.sent(true, start.after(HEARTBEAT_INTERVAL));
        assert_eq!(heartbeats.answered(first + 1), None);
        assert!(heartbeats.is_silent(start.after(SILENCE_MAX * 2)));
        assert_eq!(heartbeats.answered(third), Some(start.after(HEARTBEAT_INTERVAL)));
        assert_eq!(heartbeats.answered(first), None);
        assert!(!heartbeats.is_silent(start.after(SILENCE_MAX * 2)));
    }

    #[test]
    fn the_offset_has_a_sign() {
        assert_eq!(ahead_ms(WallMs(1_500), WallMs(1_000)), 500);
        assert_eq!(ahead_ms(WallMs(1_000), WallMs(1_500)), -500);
    }

    #[test]
    fn a_lease_is_due_at_once_and_then_every_ten_seconds() {
        let token = FencingToken { epoch: 1, index: 7 };
        let now = clock::boot();
        let lease = HeldLease::new("m1".parse().unwrap(), "s1".parse().unwrap(), token, Vec::new(), now);
        let leases = [lease.clone()];
        let is_due = |now| Heartbeats::due(&leases, now).count() == 1;
        assert!(is_due(now));
        lease.renewed(now, Vec::new(), None);
        assert!(!is_due(now.after(Duration::from_secs(6))));
        assert!(is_due(now.after(Duration::from_secs(9))));
    }
}
