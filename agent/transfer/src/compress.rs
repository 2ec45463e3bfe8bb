//! Compression that pays, and none where it does not.
//!
//! Two measurements decide. How fast the link takes bytes while there are bytes to take ([`LinkMeter`], of all lanes
//! together), and how fast this machine compresses at each level. A level is worth its time while
//! `content / speed + stored / link < content / link`; of those that are, the strongest is taken that leaves the
//! compressor twice as fast as the link. A sample of each unit says first whether its bytes compress at all.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use sync::wire::content::Coding;
use zstd::bulk::Compressor;

/// Levels that are used, strongest last.
const LEVELS: [i32; 3] = [1, 3, 6];
/// Bytes per second of each level before they are measured, on a slow processor.
const SPEEDS_FIRST: [f64; 3] = [250e6, 120e6, 50e6];
/// Weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// Compressed to find out whether a unit compresses.
const SAMPLE_BYTES: usize = 16 * 1024;
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
    compressor: Compressor<'static>,
    level: i32,
    speeds: [f64; 3],
    /// What units shrank to of late.
    ratio: f64,
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
    pub(crate) fn new() -> io::Result<Self> {
        let level = LEVELS[0];
        let compressor = Compressor::new(level)?;
        Ok(Self { compressor, level, speeds: SPEEDS_FIRST, ratio: 0.4, scratch: Vec::new() })
    }

    /// Compresses `content` into `stored` if that pays on a link of this rate; else leaves `stored` empty and says [`Coding::Plain`].
    pub(crate) fn compress(&mut self, content: &[u8], stored: &mut Vec<u8>, link: Option<f64>) -> Coding {
        stored.clear();
        let level = link.and_then(|rate| choose(rate, self.ratio, &self.speeds));
        let Some(level) = level.filter(|_| content.len() >= UNIT_BYTES_MIN) else { return Coding::Plain };
        if content.len() >= SAMPLED_BYTES_MIN && !self.sample_shrinks(content) {
            return Coding::Plain;
        }
        let begun = clock::boot();
        if !self.run(LEVELS[level], content, stored) {
            stored.clear();
            return Coding::Plain;
        }
        self.learn(level, content.len(), stored.len(), clock::boot().since(begun));
        if !shrank(content.len(), stored.len()) {
            stored.clear();
            return Coding::Plain;
        }
        Coding::Zstd
    }

    fn sample_shrinks(&mut self, content: &[u8]) -> bool {
        let start = (content.len() - SAMPLE_BYTES) / 2;
        let mut sample = std::mem::take(&mut self.scratch);
        let is_done = self.run(LEVELS[0], &content[start..start + SAMPLE_BYTES], &mut sample);
        let shrinks = is_done && shrank(SAMPLE_BYTES, sample.len());
        self.scratch = sample;
        shrinks
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

    fn learn(&mut self, level: usize, content: usize, stored: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "units are at most a few mebibytes")]
        let (content, stored) = (content as f64, stored as f64);
        self.ratio += (stored / content - self.ratio) * NEWEST;
        if took > Duration::ZERO {
            let newest = content / took.as_secs_f64();
            self.speeds[level] += (newest - self.speeds[level]) * NEWEST;
        }
    }
}

fn shrank(content: usize, stored: usize) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "units are at most a few mebibytes")]
    let part = stored as f64 / content as f64;
    part < WORTH
}

/// Returns the index of the level to use on a link of this rate; none where plain bytes arrive sooner.
fn choose(link: f64, ratio: f64, speeds: &[f64; 3]) -> Option<usize> {
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
        let speeds = [400e6, 200e6, 80e6];
        assert_eq!(choose(1.25e9, 0.4, &speeds), None, "10 Gbit/s");
        assert_eq!(choose(117e6, 0.4, &speeds), Some(0), "1 Gbit/s");
        assert_eq!(choose(60e6, 0.4, &speeds), Some(1));
        assert_eq!(choose(12e6, 0.4, &speeds), Some(2), "100 Mbit/s");
        assert_eq!(choose(117e6, 0.99, &speeds), None, "what does not shrink");
    }

    #[test]
    fn only_what_shrinks_is_compressed_and_comes_back() {
        let slow = LinkMeter::new(FAR).bytes_per_s(None);
        let mut compressor = UnitCompressor::new().unwrap();
        let mut stored = Vec::new();
        let text = b"the same words again and again ".repeat(5_000);
        assert_eq!(compressor.compress(&text, &mut stored, slow), Coding::Zstd);
        assert_eq!(zstd::bulk::decompress(&stored, text.len()).unwrap(), text);
        let mut noise = vec![0; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(compressor.compress(&noise, &mut stored, slow), Coding::Plain);
        assert_eq!(compressor.compress(&noise[..5_000], &mut stored, slow), Coding::Plain);
        assert_eq!(compressor.compress(b"short", &mut stored, slow), Coding::Plain);
        let near = LinkMeter::new(Duration::ZERO).bytes_per_s(None);
        assert_eq!(compressor.compress(&text, &mut stored, near), Coding::Plain);
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
