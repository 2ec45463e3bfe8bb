//! Heartbeats of one session: which leases are due, when each renewal was sent, and whether the leader is silent.
//!
//! Pure: times come in, lists go out.

use std::collections::VecDeque;
use std::time::Duration;

use common::clock::{BootTime, WallMs};
use common::limit::LEASE_RENEWAL;

use super::lease::HeldLease;

/// How often is looked whether something is to be said, or has not been answered.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle agent says that it is there.
const IDLE_INTERVAL: Duration = Duration::from_secs(3);
/// How often one does that holds leases, of which there are few at any time: it has to notice a leader that hangs.
const HOLDER_INTERVAL: Duration = Duration::from_secs(1);
/// A heartbeat that is not answered by then means that the leader is gone, hangs, or lost its quorum: a new session
/// finds out.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Heartbeats whose answers are waited for; more than fit into [`SILENCE_MAX`] and a burst of grants.
const WAITED_FOR_MAX: usize = 64;

/// The heartbeats of one session.
#[derive(Debug, Default)]
pub struct Heartbeats {
    last: u64,
    last_sent: Option<BootTime>,
    /// Number and time of those without an answer, oldest first.
    waited_for: VecDeque<(u64, BootTime)>,
}

impl Heartbeats {
    /// Returns those leases that ask to be renewed now.
    pub fn due(leases: &[HeldLease], now: BootTime) -> impl Iterator<Item = &HeldLease> {
        leases.iter().filter(move |lease| {
            let renewed_at = lease.renewed_at();
            // Some slack: the next heartbeat may come too late for three tries within one lease.
            lease.ended().is_none()
                && renewed_at.is_none_or(|sent| now.since(sent) + IDLE_INTERVAL > LEASE_RENEWAL)
        })
    }

    /// Whether it is time for a heartbeat, whatever is to be renewed.
    pub fn is_time(&self, holds_leases: bool, now: BootTime) -> bool {
        let interval = if holds_leases { HOLDER_INTERVAL } else { IDLE_INTERVAL };
        // Half a look of slack, or every one of them would wait for the look after its time.
        self.last_sent.is_none_or(|sent| now.since(sent) + LOOK_INTERVAL / 2 >= interval)
    }

    /// Numbers a heartbeat that is sent now.
    pub fn sent(&mut self, now: BootTime) -> u64 {
        self.last += 1;
        self.last_sent = Some(now);
        if self.waited_for.len() == WAITED_FOR_MAX {
            self.waited_for.pop_front();
        }
        self.waited_for.push_back((self.last, now));
        self.last
    }

    /// Returns when the heartbeat of this number was sent, once.
    pub fn answered(&mut self, number: u64) -> Option<BootTime> {
        let at = self.waited_for.iter().position(|&(waited_for, _)| waited_for == number)?;
        // The stream keeps the order, so what was sent before and is unanswered will stay so.
        self.waited_for.drain(..=at).next_back().map(|(_, sent)| sent)
    }

    /// Whether a heartbeat has waited too long for its answer.
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
    use crate::link::lease::Pace;
    use common::clock;
    use common::fence::FencingToken;

    #[test]
    fn an_answer_gives_the_time_of_its_question_once() {
        let (mut heartbeats, start) = (Heartbeats::default(), clock::boot());
        let first = heartbeats.sent(start);
        let second = heartbeats.sent(start.after(IDLE_INTERVAL));
        assert_eq!(second, first + 1);
        assert_eq!(heartbeats.answered(second + 1), None);
        assert!(heartbeats.is_silent(start.after(SILENCE_MAX * 2)));
        assert_eq!(heartbeats.answered(second), Some(start.after(IDLE_INTERVAL)));
        assert_eq!(heartbeats.answered(first), None);
        assert!(!heartbeats.is_silent(start.after(SILENCE_MAX * 2)));
    }

    #[test]
    fn who_holds_leases_speaks_more_often() {
        let (mut heartbeats, start) = (Heartbeats::default(), clock::boot());
        assert!(heartbeats.is_time(false, start));
        heartbeats.sent(start);
        assert!(!heartbeats.is_time(true, start) && heartbeats.is_time(true, start.after(HOLDER_INTERVAL)));
        assert!(!heartbeats.is_time(false, start.after(HOLDER_INTERVAL)));
        assert!(heartbeats.is_time(false, start.after(IDLE_INTERVAL)));
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
        lease.renewed(now, Vec::new(), Pace::default());
        assert!(!is_due(now.after(Duration::from_secs(6))));
        assert!(is_due(now.after(Duration::from_secs(9))));
    }
}
