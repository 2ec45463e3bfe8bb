//! How much may be under way: whichever is more of what cubic allows and what the path was seen to carry.
//!
//! Cubic alone takes every lost packet for a full queue. Over a long path that loses one of two hundred by itself it
//! never gets further than a hundredth of the rate. So beside it stands a model of the path, in the way of BBR
//! (draft-ietf-ccwg-bbr), as far as quinn's controllers can: quinn paces by the window, so the model has no rate of
//! its own, and no phases.
//!
//! - It counts what was acknowledged in each round trip, and holds the path for as fast as the best of the last ten.
//! - Its window is that rate over the shortest round trip ever seen, and a fifth more. If the path carries the fifth,
//!   the rate is seen to be higher and the window grows; if not, the fifth is what stands in the bottleneck's queue.
//! - Losses up to 2 % are the path's, as in BBR since its second version. From there on they are a queue that is too
//!   short or somebody else's traffic: the model forgets what it knew, takes what just got through for the path's
//!   rate, and gives up its fifth, which it gets back slowly.
//!
//! So beside other traffic it yields as soon as it does damage, and then has what cubic has: its share. On near paths,
//! where a window of one round trip is too small for how processes are scheduled, cubic's is always the larger one and
//! nothing is different. The first growth, which doubles with every round trip, ends on long paths as soon as round
//! trips take longer (as in `HyStart`, RFC 9406), and not only when a queue has overflowed.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Round trips over which the best rate counts.
const ROUNDS: usize = 10;
/// What the window is more than rate times round trip, in hundredths.
const SURPLUS: u64 = 20;
/// What of it comes back with each undisturbed sample.
const SURPLUS_STEP: u64 = 2;
/// Losses that are the path's own, in thousandths.
const LOSS_BORNE: u64 = 20;
/// Packets that a judgement on losses needs: 2 % of fewer is chance.
const JUDGED_PACKETS: u64 = 250;
/// Packets that must be lost before the first growth ends for it.
const LOST_PACKETS_MIN: u64 = 8;
/// How often the first growth may exceed what was carried in the round before.
const GROWTH_MAX: u64 = 3;
/// Rounds without a fourth more that end the first growth.
const FLAT_ROUNDS: u32 = 3;
/// A round trip from which on a longer one is the queue's and not the scheduler's.
const LONG: Duration = Duration::from_millis(10);
/// How much longer it must be at least.
const LONGER: Duration = Duration::from_millis(4);
/// Round trips in a row that must all be longer.
const SAMPLES: u32 = 32;
/// Packets under way before anything is known of the path; they are paced.
const INITIAL_PACKETS: u64 = 32;
/// Packets under way at the least.
const WINDOW_PACKETS_MIN: u64 = 4;

/// Makes a controller for each connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Congestion;

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_PACKETS * u64::from(current_mtu));
        let cubic = Cubic::new(Arc::new(cubic), now, current_mtu);
        Box::new(Control { cubic, path: Path::new(now, u64::from(current_mtu)) })
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    cubic: Cubic,
    path: Path,
}

impl Control {
    /// Returns how many bytes per second the path carries; none while it is not full and so not known.
    pub(crate) fn filled_bytes_per_s(&self) -> Option<u64> {
        Some(self.path.bytes_per_s()).filter(|rate| *rate > 0 && self.path.is_full)
    }
}

impl Controller for Control {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
        self.path.sent(last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        self.path.acknowledged(now - sent, bytes, app_limited);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        let was_growing = self.path.is_growing;
        if let Some(largest) = largest_packet_num_acked {
            self.path.acknowledged_up_to(largest, now);
        }
        if was_growing && !self.path.is_growing && self.path.is_queueing {
            // Cubic's own first growth would go on until the queue overflows.
            self.cubic.on_congestion_event(now, now, false, 0);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        self.path.lost(lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.path.mtu = u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.path.window())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What is known of a path.
#[derive(Clone, Debug)]
struct Path {
    mtu: u64,
    last_sent: u64,
    /// The shortest round trip ever seen. It never grows: a path that becomes longer is left to cubic.
    shortest: Duration,
    /// Rates of the last rounds, in bytes per second.
    rates: [u64; ROUNDS],
    next_rate: usize,
    surplus: u64,
    round: Round,
    latest: Latest,
    /// What was acknowledged and lost since losses were last judged.
    judged: Judged,
    /// Whether the window still doubles with each round.
    is_growing: bool,
    growing_window: u64,
    flat_rounds: u32,
    /// Whether growth ended because round trips had become longer.
    is_queueing: bool,
    /// Whether there was more to send in the last round than the path takes.
    is_full: bool,
}

#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    /// The last packet that was sent before it began; the round ends with the acknowledgement of a later one.
    last_sent: u64,
    acknowledged: u64,
    lost: u64,
    /// Whether there was nothing to send at some time.
    is_limited: bool,
}

/// The latest round trips.
#[derive(Clone, Debug)]
struct Latest {
    shortest: Duration,
    samples: u32,
}

#[derive(Clone, Debug, Default)]
struct Judged {
    acknowledged: u64,
    lost: u64,
}

impl Path {
    fn new(now: Instant, mtu: u64) -> Self {
        Self {
            mtu,
            last_sent: 0,
            shortest: Duration::MAX,
            rates: [0; ROUNDS],
            next_rate: 0,
            surplus: SURPLUS,
            round: Round::begin(now, 0),
            latest: Latest::default(),
            judged: Judged::default(),
            is_growing: true,
            growing_window: INITIAL_PACKETS * mtu,
            flat_rounds: 0,
            is_queueing: false,
            is_full: false,
        }
    }

    fn sent(&mut self, packet: u64) {
        self.last_sent = self.last_sent.max(packet);
    }

    fn acknowledged(&mut self, took: Duration, bytes: u64, is_limited: bool) {
        self.shortest = self.shortest.min(took);
        self.latest.shortest = self.latest.shortest.min(took);
        self.latest.samples += 1;
        if self.latest.samples == SAMPLES {
            if self.is_growing && self.latest.is_longer_than(self.shortest) {
                self.is_growing = false;
                self.is_queueing = true;
            }
            self.latest = Latest::default();
        }
        self.round.acknowledged += bytes;
        self.judged.acknowledged += bytes;
        self.round.is_limited |= is_limited;
        if self.is_growing && !is_limited {
            self.growing_window += bytes;
        }
    }

    fn lost(&mut self, bytes: u64, is_persistent: bool) {
        // Explicit marks come without bytes; each speaks for more than a packet.
        let bytes = if bytes == 0 { LOST_PACKETS_MIN * self.mtu } else { bytes };
        self.round.lost += bytes;
        self.judged.lost += bytes;
        if is_persistent {
            // Nothing gets through: whatever was known is void.
            self.rates = [0; ROUNDS];
            self.is_growing = false;
        }
    }

    fn acknowledged_up_to(&mut self, packet: u64, now: Instant) {
        if packet <= self.round.last_sent {
            return;
        }
        let round = std::mem::replace(&mut self.round, Round::begin(now, self.last_sent));
        let rate = rate(round.acknowledged, now - round.began);
        let before = self.bytes_per_s();
        // A round in which there was little to send says only what the path carries at least.
        if !round.is_limited || rate > before {
            self.rates[self.next_rate] = rate;
            self.next_rate = (self.next_rate + 1) % ROUNDS;
        }
        if self.is_growing {
            self.judge_growth(&round, rate, before);
        }
        self.is_full = !self.is_growing && !round.is_limited;
        self.judge_losses(rate);
    }

    /// Ends the first growth when the path is full.
    fn judge_growth(&mut self, round: &Round, rate: u64, before: u64) {
        if !round.is_limited {
            let is_flat = rate < before + before / 4;
            self.flat_rounds = if is_flat { self.flat_rounds + 1 } else { 0 };
        }
        let sent = round.lost + round.acknowledged;
        let is_lossy = round.lost >= LOST_PACKETS_MIN * self.mtu && round.lost * 1_000 > sent * LOSS_BORNE;
        self.is_growing = self.flat_rounds < FLAT_ROUNDS && !is_lossy;
    }

    /// Takes losses for a queue that overflows when they are more than a path's own.
    fn judge_losses(&mut self, rate: u64) {
        let Judged { acknowledged, lost } = self.judged;
        if acknowledged + lost < JUDGED_PACKETS * self.mtu {
            return;
        }
        self.judged = Judged::default();
        if lost * 1_000 <= (acknowledged + lost) * LOSS_BORNE {
            self.surplus = (self.surplus + SURPLUS_STEP).min(SURPLUS);
            return;
        }
        self.surplus = 0;
        self.rates = [0; ROUNDS];
        self.rates[self.next_rate] = rate;
    }

    fn bytes_per_s(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    fn window(&self) -> u64 {
        let rate = self.bytes_per_s();
        let carried = if self.shortest == Duration::MAX { 0 } else { carried(rate, self.shortest) };
        let window = carried * (100 + self.surplus) / 100;
        let growing = self.growing_window.min((carried * GROWTH_MAX).max(INITIAL_PACKETS * self.mtu));
        let window = if self.is_growing { window.max(growing) } else { window };
        window.max(WINDOW_PACKETS_MIN * self.mtu)
    }
}

impl Round {
    fn begin(now: Instant, last_sent: u64) -> Self {
        Self { began: now, last_sent, acknowledged: 0, lost: 0, is_limited: false }
    }
}

impl Default for Latest {
    fn default() -> Self {
        Self { shortest: Duration::MAX, samples: 0 }
    }
}

impl Latest {
    /// Whether even the shortest of them went through a queue.
    fn is_longer_than(&self, shortest: Duration) -> bool {
        shortest >= LONG && self.shortest > shortest + (shortest / 8).max(LONGER)
    }
}

/// Returns bytes per second; none for no time.
fn rate(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    if time.is_zero() { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) }
}

/// Returns what is carried in so much time.
fn carried(bytes_per_s: u64, time: Duration) -> u64 {
    let bytes = u128::from(bytes_per_s) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MTU: u64 = 1_452;
    const TICK: Duration = Duration::from_millis(1);

    /// A bottleneck with a queue before it and a delay behind it.
    struct Bottleneck {
        bytes_per_tick: u64,
        queue_packets: usize,
        round_trip: Duration,
        /// One of so many packets is lost on the way; none for zero.
        lost_of: u64,
    }

    /// What came of a run.
    #[derive(Debug)]
    struct Outcome {
        bytes_per_s: u64,
        /// In thousandths of what was sent.
        overflowed: u64,
    }

    /// Sends through a bottleneck for so many ticks, by the model alone.
    fn run(bottleneck: &Bottleneck, ticks: u32) -> Outcome {
        let start = tokio::time::Instant::now().into_std();
        let mut path = Path::new(start, MTU);
        let (mut sent, mut under_way, mut overflowed, mut arrived) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut queue: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut echoes: VecDeque<(Instant, Option<(u64, Instant)>)> = VecDeque::new();
        let mut credit = 0;
        for tick in 0..ticks {
            let now = start + TICK * tick;
            // Quinn paces: a window in four fifths of a round trip.
            let round_trip = u64::try_from(bottleneck.round_trip.as_millis()).unwrap();
            let mut paced = path.window() * 5 / 4 / round_trip + MTU;
            while under_way + MTU <= path.window() && paced >= MTU {
                paced -= MTU;
                sent += 1;
                under_way += MTU;
                path.sent(sent);
                if queue.len() < bottleneck.queue_packets {
                    queue.push_back((sent, now));
                } else {
                    overflowed += 1;
                    echoes.push_back((now + bottleneck.round_trip, None));
                }
            }
            credit += bottleneck.bytes_per_tick;
            while credit >= MTU {
                credit -= MTU;
                let Some((number, sent_at)) = queue.pop_front() else { continue };
                let is_lost = bottleneck.lost_of > 0 && number.is_multiple_of(bottleneck.lost_of);
                echoes.push_back((now + bottleneck.round_trip, (!is_lost).then_some((number, sent_at))));
            }
            while echoes.front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, echo)) = echoes.pop_front() else { break };
                under_way -= MTU;
                if let Some((number, sent_at)) = echo {
                    arrived += 1;
                    path.acknowledged(now - sent_at, MTU, false);
                    path.acknowledged_up_to(number, now);
                } else {
                    path.lost(MTU, false);
                }
            }
        }
        Outcome {
            bytes_per_s: arrived * MTU * 1_000 / u64::from(ticks),
            overflowed: overflowed * 1_000 / sent.max(1),
        }
    }

    #[test]
    fn a_long_path_that_loses_packets_is_filled() {
        let path = Bottleneck {
            bytes_per_tick: 37_500,
            queue_packets: 2_000,
            round_trip: Duration::from_millis(100),
            lost_of: 200,
        };
        let outcome = run(&path, 20_000);
        assert!(outcome.bytes_per_s > 30_000_000, "of 37.5 MB/s: {outcome:?}");
        // Of the first growth alone: what is sent in the round trip before the first late answer.
        assert!(outcome.overflowed <= 10, "thousandths: {outcome:?}");
    }

    #[test]
    fn a_short_queue_is_heeded() {
        let path = Bottleneck {
            bytes_per_tick: 2_500,
            queue_packets: 20,
            round_trip: Duration::from_millis(100),
            lost_of: 0,
        };
        let outcome = run(&path, 60_000);
        assert!(outcome.overflowed <= 20, "thousandths: {outcome:?}");
        assert!(outcome.bytes_per_s > 2_000_000, "of 2.5 MB/s: {outcome:?}");
    }

    #[test]
    fn a_path_that_loses_more_than_its_own_is_left_to_cubic() {
        let path = Bottleneck {
            bytes_per_tick: 37_500,
            queue_packets: 2_000,
            round_trip: Duration::from_millis(100),
            lost_of: 10,
        };
        assert!(run(&path, 20_000).bytes_per_s < 5_000_000);
    }

    #[test]
    fn what_was_sent_for_want_of_more_says_nothing_against_the_path() {
        let start = tokio::time::Instant::now().into_std();
        let mut path = Path::new(start, MTU);
        let mut number = 0;
        let mut round = |path: &mut Path, ms: u32, packets: u64, is_limited| {
            for _ in 0..packets {
                number += 1;
                path.sent(number);
                path.acknowledged(Duration::from_millis(50), MTU, is_limited);
            }
            path.acknowledged_up_to(number, start + TICK * ms);
        };
        for at in 1..=20 {
            round(&mut path, at * 50, 1_000, false);
        }
        let fast = path.bytes_per_s();
        for at in 21..=60 {
            round(&mut path, at * 50, 3, true);
        }
        assert_eq!(path.bytes_per_s(), fast);
    }
}
