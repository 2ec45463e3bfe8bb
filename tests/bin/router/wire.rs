//! One direction of a long link: which packets come out of it, and when.
//!
//! Pure: time comes in as a parameter and chance from a seed, so the same packets at the same times fare the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ::tests::random::Random;
use serde::Serialize;

/// Chances are told in parts of a million.
pub(super) const MILLION: u64 = 1_000_000;
/// Without a rate nothing queues, and this is the most that is under way: a second at 4 Gbit/s.
const UNDER_WAY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// What a link does to packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weather {
    /// From one end to the other, without the queue.
    pub(super) delay: Duration,
    /// Bytes per second; none is as fast as the machine.
    pub(super) bytes_per_s: Option<u64>,
    /// What waits for its turn at the most, in bytes; what comes then is dropped.
    pub(super) queue_bytes: u64,
    /// Packets that vanish, out of a million.
    pub(super) lost: u64,
    /// Packets that are overtaken by those of the next [`Weather::held`], out of a million.
    pub(super) reordered: u64,
    /// How long an overtaken packet is held.
    pub(super) held: Duration,
    /// Packets that arrive twice, out of a million.
    pub(super) duplicated: u64,
}

/// What happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counters {
    /// Packets that came.
    pub(super) taken: u64,
    /// Bytes of them.
    pub(super) taken_bytes: u64,
    /// Packets that went out, twins included.
    pub(super) delivered: u64,
    /// Packets that vanished by chance.
    pub(super) lost: u64,
    /// Packets for which the queue had no room.
    pub(super) overflowed: u64,
    /// Packets that were held, so that others overtook them.
    pub(super) reordered: u64,
    /// Packets that had a twin.
    pub(super) duplicated: u64,
    /// The most bytes that waited for their turn.
    pub(super) queued_bytes_max: u64,
}

/// A packet under way, ordered by when it arrives.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    arrives: Duration,
    number: u64,
    packet: Vec<u8>,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Wire {
    weather: Weather,
    random: Random,
    /// When the last packet of the queue will have been sent.
    free_at: Duration,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    under_way_bytes: u64,
    counters: Counters,
}

impl Wire {
    pub(super) fn new(weather: Weather, seed: u64) -> Self {
        let random = Random::new(seed);
        let counters = Counters::default();
        Self {
            weather,
            random,
            free_at: Duration::ZERO,
            under_way: BinaryHeap::new(),
            under_way_bytes: 0,
            counters,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Takes a packet in.
    pub(super) fn take(&mut self, now: Duration, packet: &[u8]) {
        let bytes = packet.len() as u64;
        self.counters.taken += 1;
        self.counters.taken_bytes += bytes;
        let Some(sent) = self.sent(now, bytes) else {
            self.counters.overflowed += 1;
            return;
        };
        if self.happens(self.weather.lost) {
            self.counters.lost += 1;
            return;
        }
        let mut arrives = sent + self.weather.delay;
        if self.happens(self.weather.reordered) {
            self.counters.reordered += 1;
            arrives += self.weather.held;
        }
        if self.happens(self.weather.duplicated) {
            self.counters.duplicated += 1;
            self.push(arrives, packet.to_vec());
        }
        self.push(arrives, packet.to_vec());
    }

    /// Gives out the next packet that has arrived by now.
    pub(super) fn give(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.under_way.peek().is_none_or(|Reverse(next)| next.arrives > now) {
            return None;
        }
        let Reverse(next) = self.under_way.pop()?;
        self.under_way_bytes -= next.packet.len() as u64;
        self.counters.delivered += 1;
        Some(next.packet)
    }

    /// Returns when the last bit of a packet that comes now has left; none if there is no room for it to wait.
    fn sent(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let Some(bytes_per_s) = self.weather.bytes_per_s else {
            return (self.under_way_bytes + bytes <= UNDER_WAY_BYTES_MAX).then_some(now);
        };
        let begins = self.free_at.max(now);
        let waiting = (begins - now).as_nanos() * u128::from(bytes_per_s) / 1_000_000_000;
        let waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
        if waiting + bytes > self.weather.queue_bytes {
            return None;
        }
        self.counters.queued_bytes_max = self.counters.queued_bytes_max.max(waiting + bytes);
        self.free_at = begins + Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_s.max(1));
        Some(self.free_at)
    }

    fn happens(&mut self, chance: u64) -> bool {
        self.random.below(MILLION) < chance
    }

    fn push(&mut self, arrives: Duration, packet: Vec<u8>) {
        self.under_way_bytes += packet.len() as u64;
        // What arrives at the same moment keeps its order.
        let number = self.counters.taken + self.counters.duplicated;
        self.under_way.push(Reverse(UnderWay { arrives, number, packet }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn drained(wire: &mut Wire, now: Duration) -> Vec<u8> {
        std::iter::from_fn(|| wire.give(now)).map(|packet| packet[0]).collect()
    }

    #[test]
    fn a_packet_takes_its_time_and_no_longer() {
        let mut wire = Wire::new(Weather { delay: 50 * MS, ..Weather::default() }, 1);
        wire.take(MS, &[7; 100]);
        assert_eq!(wire.give(50 * MS), None);
        assert_eq!(wire.give(51 * MS), Some(vec![7; 100]));
        assert!(wire.is_idle());
    }

    #[test]
    fn a_rate_is_kept_and_the_queue_is_bounded() {
        let weather = Weather { bytes_per_s: Some(1_000_000), queue_bytes: 10_000, ..Weather::default() };
        let mut wire = Wire::new(weather, 1);
        for number in 0..20 {
            wire.take(Duration::ZERO, &[number; 1000]);
        }
        assert_eq!(drained(&mut wire, 5 * MS), [0, 1, 2, 3, 4]);
        assert_eq!(drained(&mut wire, 20 * MS), [5, 6, 7, 8, 9]);
        let counters = wire.counters();
        assert_eq!((counters.overflowed, counters.queued_bytes_max), (10, 10_000));
        wire.take(20 * MS, &[99; 1000]);
        assert_eq!(drained(&mut wire, 21 * MS), [99], "the queue has room again");
    }

    #[test]
    fn chance_is_what_it_is_said_to_be_and_the_same_for_a_seed() {
        let weather = Weather {
            lost: 10_000,
            reordered: 20_000,
            held: 5 * MS,
            duplicated: 5_000,
            ..Weather::default()
        };
        let run = |seed| {
            let mut wire = Wire::new(weather.clone(), seed);
            for _ in 0..100_000 {
                wire.take(Duration::ZERO, &[0; 10]);
            }
            while wire.give(MS).is_some() {}
            let held = wire.under_way.len() as u64;
            assert_eq!(drained(&mut wire, 5 * MS).len() as u64, held);
            wire.counters()
        };
        let counters = run(7);
        assert_eq!(counters, run(7));
        assert_ne!(counters, run(8));
        assert!((900..1_100).contains(&counters.lost), "{counters:?}");
        assert!((1_850..2_100).contains(&counters.reordered), "{counters:?}");
        assert!((430..570).contains(&counters.duplicated), "{counters:?}");
        assert_eq!(counters.delivered, counters.taken - counters.lost + counters.duplicated);
    }

    #[test]
    fn an_overtaken_packet_comes_after_later_ones() {
        let weather = Weather { reordered: MILLION, held: 5 * MS, ..Weather::default() };
        let mut wire = Wire::new(weather, 1);
        wire.take(Duration::ZERO, &[1]);
        wire.weather.reordered = 0;
        wire.take(MS, &[2]);
        assert_eq!(drained(&mut wire, 9 * MS), [2, 1]);
    }
}
