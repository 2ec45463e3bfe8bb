//! Compression that pays, and none where it does not.
//!
//! Two measurements decide. How fast the link takes bytes while there are bytes to take ([`LinkMeter`], of all lanes
//! together), and how fast this machine compresses at each level, with all that its processors have to do beside. A
//! level is worth its time while `content / speed + stored / link < content / link`; of those that are, the strongest
//! is taken that leaves the compressor twice as fast as the link. What a unit would shrink to, a sample of it says
//! first: parts from all over it, because a pack holds pictures beside pages. Where no level could pay whatever the
//! content, as on a fast local link, not even the sample is taken.
//!
//! A spec may ask for a level, or for none; what a sample says does not shrink then travels as it is, too.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::spec::Compression;
use sync::wire::content::Coding;
use zstd::bulk::Compressor;

/// Levels that are used by themselves, strongest last: each takes at most 5 MiB a lane for units of a mebibyte.
const LEVELS: [i32; 5] = [1, 3, 6, 9, 12];
/// Bytes per second of each level before they are measured, on a slow processor.
const SPEEDS_FIRST: [f64; 5] = [250e6, 120e6, 50e6, 30e6, 10e6];
/// Weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// A part of a sample.
const SAMPLE_PART_BYTES: usize = 4 * 1024;
/// Parts of a sample, spread over the unit.
const SAMPLE_PARTS: usize = 4;
/// The best that content is hoped to shrink to, before it is looked at.
const RATIO_BEST: f64 = 0.1;
/// The worst that small units, which are tried and not sampled, are taken to shrink to: what came last says little of
/// what comes next.
const RATIO_WORST: f64 = 0.8;
/// Units smaller than this are not sampled but tried.
const SAMPLED_BYTES_MIN: usize = 64 * 1024;
/// A unit must shrink to this part, or it travels as it is: decompressing costs too.
const WORTH: f64 = 0.92;
/// Below this nothing is compressed: a packet is a packet.
const UNIT_BYTES_MIN: usize = 512;
/// How long the link is measured before its rate is believed.
const MEASURED_MIN: Duration = Duration::from_millis(50);
/// A round trip from which on a link is taken for slow until it is measured.
const FAR: Duration = Duration::from_millis(2);

/// Measures how fast a connection takes bytes; shared by its lanes.
#[derive(Debug)]
pub(crate) struct LinkMeter(Mutex<Measurement>);

#[derive(Debug)]
struct Measurement {
    /// Lanes that are waiting for the link now.
    waiting: u32,
    since: Option<BootTime>,
    busy: Duration,
    bytes: f64,
    bytes_per_s: Option<f64>,
    is_far: bool,
}

impl LinkMeter {
    /// Makes a meter of a link with this round trip.
    pub(crate) fn new(round_trip: Duration) -> Self {
        let is_far = round_trip >= FAR;
        Self(Mutex::new(Measurement {
            waiting: 0,
            since: None,
            busy: Duration::ZERO,
            bytes: 0.0,
            bytes_per_s: None,
            is_far,
        }))
    }

    /// A lane hands bytes to the link and waits.
    pub(crate) fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).begin(clock::boot());
    }

    /// The link has taken the bytes of one lane.
    pub(crate) fn end(&self, bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end(bytes, clock::boot());
    }

    /// Returns how many bytes per second the link takes; none when it takes whatever comes.
    ///
    /// `path` is what the connection knows of that: its window takes the first megabytes of a lane at once, however
    /// slowly they leave.
    pub(crate) fn bytes_per_s(&self, path: Option<u64>) -> Option<f64> {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "a rate is far below 2^53 bytes per second")]
        let path = path.map(|rate| rate as f64);
        let taken = match (measured.bytes_per_s, path) {
            (Some(measured), Some(path)) => Some(measured.min(path)),
            (measured, path) => measured.or(path),
        };
        // Far links begin as slow ones: 10 Mbit/s.
        taken.or(measured.is_far.then_some(1.25e6))
    }
}

impl Measurement {
    fn begin(&mut self, now: BootTime) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    fn end(&mut self, bytes: usize, now: BootTime) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(since) = self.since {
            self.busy += now.since(since);
        }
        self.since = (self.waiting > 0).then_some(now);
        #[expect(clippy::cast_precision_loss, reason = "pieces are far below 2^53 bytes")]
        let bytes = bytes as f64;
        self.bytes += bytes;
        if self.busy >= MEASURED_MIN {
            let newest = self.bytes / self.busy.as_secs_f64();
            let before = self.bytes_per_s.unwrap_or(newest);
            self.bytes_per_s = Some(before + (newest - before) * NEWEST);
            (self.busy, self.bytes) = (Duration::ZERO, 0.0);
        }
    }
}

/// Compresses units of one lane.
pub(crate) struct UnitCompressor {
    policy: Compression,
    compressor: Compressor<'static>,
    level: i32,
    speeds: [f64; LEVELS.len()],
    /// What small units shrank to of late.
    ratio: f64,
    sample: Vec<u8>,
    scratch: Vec<u8>,
}

impl fmt::Debug for UnitCompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitCompressor")
            .field("speeds", &self.speeds)
            .field("ratio", &self.ratio)
            .finish_non_exhaustive()
    }
}

impl UnitCompressor {
    pub(crate) fn new(policy: Compression) -> io::Result<Self> {
        let level = LEVELS[0];
        Ok(Self {
            policy,
            compressor: Compressor::new(level)?,
            level,
            speeds: SPEEDS_FIRST,
            ratio: 0.4,
            sample: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Compresses `content` into `stored` if that pays on a link of this rate; else leaves `stored` empty and says
    /// [`Coding::Plain`].
    pub(crate) fn compress(&mut self, content: &[u8], stored: &mut Vec<u8>, link: Option<f64>) -> Coding {
        stored.clear();
        let Some(level) = self.level_for(content, link) else { return Coding::Plain };
        let begun = clock::boot();
        if !self.run(level, content, stored) {
            stored.clear();
            return Coding::Plain;
        }
        self.learn(level, content.len(), stored.len(), clock::boot().since(begun));
        if part_of(content.len(), stored.len()) >= WORTH {
            stored.clear();
            return Coding::Plain;
        }
        Coding::Zstd
    }

    /// Returns the level for a unit; none if it shall travel as it is.
    fn level_for(&mut self, content: &[u8], link: Option<f64>) -> Option<i32> {
        if content.len() < UNIT_BYTES_MIN {
            return None;
        }
        let is_sampled = content.len() >= SAMPLED_BYTES_MIN;
        match self.policy {
            Compression::Off => None,
            Compression::Level(level) => {
                (!is_sampled || self.sampled(content) < WORTH).then_some(level.into())
            }
            Compression::Auto => {
                let link = link?;
                choose(link, RATIO_BEST, &self.speeds)?;
                let ratio = if is_sampled { self.sampled(content) } else { self.ratio.min(RATIO_WORST) };
                let level = choose(link, ratio, &self.speeds).filter(|_| ratio < WORTH)?;
                Some(LEVELS[level])
            }
        }
    }

    /// Returns what a sample of the content shrinks to.
    fn sampled(&mut self, content: &[u8]) -> f64 {
        let mut sample = std::mem::take(&mut self.sample);
        sample.clear();
        let step = content.len() / SAMPLE_PARTS;
        for part in content.chunks(step.max(1)).take(SAMPLE_PARTS) {
            sample.extend_from_slice(&part[..part.len().min(SAMPLE_PART_BYTES)]);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let is_done = self.run(LEVELS[0], &sample, &mut scratch);
        let ratio = if is_done { part_of(sample.len(), scratch.len()) } else { 1.0 };
        (self.sample, self.scratch) = (sample, scratch);
        ratio
    }

    fn run(&mut self, level: i32, content: &[u8], out: &mut Vec<u8>) -> bool {
        if self.level != level && self.compressor.set_compression_level(level).is_err() {
            return false;
        }
        self.level = level;
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(content.len()));
        self.compressor.compress_to_buffer(content, out).is_ok()
    }

    fn learn(&mut self, level: i32, content: usize, stored: usize, took: Duration) {
        if content < SAMPLED_BYTES_MIN {
            self.ratio += (part_of(content, stored) - self.ratio) * NEWEST;
        }
        let Some(at) = LEVELS.iter().position(|used| *used == level) else { return };
        if took > Duration::ZERO {
            #[expect(clippy::cast_precision_loss, reason = "units are at most a few mebibytes")]
            let newest = content as f64 / took.as_secs_f64();
            self.speeds[at] += (newest - self.speeds[at]) * NEWEST;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "units are at most a few mebibytes")]
fn part_of(content: usize, stored: usize) -> f64 {
    stored as f64 / content as f64
}

/// Returns the index of the level to use on a link of this rate; none where plain bytes arrive sooner.
fn choose(link: f64, ratio: f64, speeds: &[f64; LEVELS.len()]) -> Option<usize> {
    let pays = |speed: f64| 1.0 / speed + ratio.min(1.0) / link < 1.0 / link;
    let mut chosen = pays(speeds[0]).then_some(0);
    for (level, speed) in speeds.iter().enumerate().skip(1) {
        // The stronger levels only where the link is left waiting by none of them.
        if pays(*speed) && *speed > 2.0 * link {
            chosen = Some(level);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_link() {
        let speeds = [400e6, 200e6, 80e6, 50e6, 20e6];
        assert_eq!(choose(1.25e9, 0.4, &speeds), None, "10 Gbit/s");
        assert_eq!(choose(117e6, 0.4, &speeds), Some(0), "1 Gbit/s");
        assert_eq!(choose(60e6, 0.4, &speeds), Some(1));
        assert_eq!(choose(12e6, 0.4, &speeds), Some(3), "100 Mbit/s");
        assert_eq!(choose(2.5e6, 0.4, &speeds), Some(4), "20 Mbit/s");
        assert_eq!(choose(117e6, 0.99, &speeds), None, "what does not shrink");
    }

    #[test]
    fn only_what_shrinks_is_compressed_and_comes_back() {
        let slow = LinkMeter::new(FAR).bytes_per_s(None);
        let mut compressor = UnitCompressor::new(Compression::Auto).unwrap();
        let mut stored = Vec::new();
        let text = b"the same words again and again ".repeat(5_000);
        assert_eq!(compressor.compress(&text, &mut stored, slow), Coding::Zstd);
        assert_eq!(zstd::bulk::decompress(&stored, text.len()).unwrap(), text);
        let noise = noise(200_000);
        assert_eq!(compressor.compress(&noise, &mut stored, slow), Coding::Plain);
        assert_eq!(compressor.compress(&noise[..5_000], &mut stored, slow), Coding::Plain);
        assert_eq!(compressor.compress(b"short", &mut stored, slow), Coding::Plain);
        let near = LinkMeter::new(Duration::ZERO).bytes_per_s(None);
        assert_eq!(compressor.compress(&text, &mut stored, near), Coding::Plain);
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut noise = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn pictures_before_pages_do_not_hide_them() {
        let slow = LinkMeter::new(FAR).bytes_per_s(None);
        let mut compressor = UnitCompressor::new(Compression::Auto).unwrap();
        let mut stored = Vec::new();
        // Hundreds of small units that do not shrink, and a mixed one.
        for _ in 0..300 {
            assert_eq!(compressor.compress(&noise(5_000), &mut stored, slow), Coding::Plain);
        }
        let page = b"the same words again and again ".repeat(200);
        assert_eq!(compressor.compress(&page, &mut stored, slow), Coding::Zstd);
        let mixed = [noise(200_000), b"the same words again and again ".repeat(10_000)].concat();
        assert_eq!(compressor.compress(&mixed, &mut stored, slow), Coding::Zstd);
        assert!(stored.len() < 250_000, "{}", stored.len());
    }

    #[test]
    fn what_is_asked_for_is_done_whatever_the_link() {
        let text = b"the same words again and again ".repeat(5_000);
        let mut stored = Vec::new();
        let mut asked = UnitCompressor::new(Compression::Level(19)).unwrap();
        assert_eq!(asked.compress(&text, &mut stored, None), Coding::Zstd);
        assert_eq!(zstd::bulk::decompress(&stored, text.len()).unwrap(), text);
        assert_eq!(asked.compress(&noise(200_000), &mut stored, None), Coding::Plain);
        let mut off = UnitCompressor::new(Compression::Off).unwrap();
        assert_eq!(off.compress(&text, &mut stored, Some(1e3)), Coding::Plain);
    }

    #[test]
    fn the_connection_knows_better_than_a_buffer_that_fills() {
        let meter = LinkMeter::new(Duration::ZERO);
        assert_eq!(meter.bytes_per_s(None), None);
        assert_eq!(meter.bytes_per_s(Some(2_500_000)), Some(2.5e6));
        meter.0.lock().unwrap().bytes_per_s = Some(1e9);
        assert_eq!(meter.bytes_per_s(Some(2_500_000)), Some(2.5e6));
        meter.0.lock().unwrap().bytes_per_s = Some(1e6);
        assert_eq!(meter.bytes_per_s(Some(2_500_000)), Some(1e6), "a limit of bandwidth");
    }

    #[test]
    fn waiting_lanes_are_measured_as_one_link() {
        let start = clock::boot();
        let at = |ms| start.after(Duration::from_millis(ms));
        let meter = LinkMeter::new(Duration::ZERO);
        let mut measured = meter.0.lock().unwrap();
        measured.begin(at(0));
        measured.begin(at(0));
        measured.end(1_000_000, at(50));
        measured.end(1_000_000, at(100));
        let rate = measured.bytes_per_s.unwrap();
        assert!((19e6..21e6).contains(&rate), "{rate}");
    }
}
