//! Limits of bandwidth: one rate for always, or a timetable of rates.
//!
//! A timetable is written as `08:00-20:00=20MiB,else=none`. Its times are in UTC unless it names an offset, as in
//! `08:00-20:00=20MiB,zone=+02:00`; a change of daylight saving time is not followed. The coordinator that leads looks
//! at its own clock, and a change counts from the minute on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::WallMs;
use crate::human::{self, InvalidQuantity};

/// Windows of one timetable: one for each hour of a day.
const WINDOWS_MAX: usize = 24;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// How far a zone may be from UTC, in minutes.
const ZONE_MAX: i32 = 14 * 60;
const MINUTE_MS: u64 = 60_000;

/// How much may be sent per second, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Without overlaps, by their beginning.
    windows: Vec<Window>,
    /// Outside of them; none is no limit.
    otherwise: Option<u64>,
    /// Minutes that the timetable's times are ahead of UTC.
    zone: i32,
}

/// A part of each day; one that ends before it begins goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    from: u16,
    to: u16,
    bytes_per_s: Option<u64>,
}

/// A text that is no limit of bandwidth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBandwidth {
    /// A rate cannot be read.
    #[error("`{0}` is no rate: write 20MiB, or none for no limit")]
    Rate(String, #[source] InvalidQuantity),
    /// A part of a timetable is none.
    #[error("`{0}` is no part of a timetable: write 08:00-20:00=20MiB, else=none or zone=+02:00")]
    Part(String),
    /// Two windows hold the same minute.
    #[error("two windows of the timetable hold {0}")]
    Overlap(String),
    /// `else` or `zone` stands there twice.
    #[error("`{0}` stands in the timetable twice")]
    Twice(&'static str),
    /// It has no window, or too many.
    #[error("a timetable has 1 to {WINDOWS_MAX} windows, and this one has {0}")]
    Windows(usize),
}

impl Bandwidth {
    /// Returns the limit that is no limit.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// Returns one rate for always; 0 is no limit.
    pub fn always(bytes_per_s: u64) -> Self {
        Self { otherwise: Some(bytes_per_s).filter(|rate| *rate > 0), ..Self::default() }
    }

    /// Returns the rate, if it is the same at all times.
    pub fn fixed(&self) -> Option<u64> {
        self.otherwise.filter(|_| self.windows.is_empty())
    }

    /// Whether there is never a limit.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::unlimited()
    }

    /// Returns what may be sent per second at this time; none is no limit.
    pub fn at(&self, now: WallMs) -> Option<u64> {
        let minute = i64::try_from(now.0 / MINUTE_MS).unwrap_or(i64::MAX / 2) + i64::from(self.zone);
        let minute = u16::try_from(minute.rem_euclid(i64::from(DAY))).unwrap_or(0);
        let window = self.windows.iter().find(|window| window.holds(minute));
        window.map_or(self.otherwise, |window| window.bytes_per_s)
    }
}

impl Window {
    fn holds(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl FromStr for Bandwidth {
    type Err = InvalidBandwidth;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.contains('=') {
            timetable(text)
        } else {
            Ok(rate(text)?.map_or_else(Self::unlimited, Self::always))
        }
    }
}

/// Reads a rate; none is no limit.
fn rate(text: &str) -> Result<Option<u64>, InvalidBandwidth> {
    if text == "none" {
        return Ok(None);
    }
    let read = human::parse_bytes(text).map_err(|error| InvalidBandwidth::Rate(text.to_owned(), error))?;
    Ok(Some(read).filter(|rate| *rate > 0))
}

fn timetable(text: &str) -> Result<Bandwidth, InvalidBandwidth> {
    let (mut windows, mut otherwise, mut zone) = (Vec::new(), None, None);
    for part in text.split(',').map(str::trim) {
        let bad = || InvalidBandwidth::Part(part.to_owned());
        let (name, value) = part.split_once('=').ok_or_else(bad)?;
        match name.trim() {
            "else" if otherwise.is_some() => return Err(InvalidBandwidth::Twice("else")),
            "else" => otherwise = Some(rate(value.trim())?),
            "zone" if zone.is_some() => return Err(InvalidBandwidth::Twice("zone")),
            "zone" => zone = Some(offset(value.trim()).ok_or_else(bad)?),
            name => {
                let (from, to) = name.split_once('-').ok_or_else(bad)?;
                let from = time(from.trim()).filter(|from| *from < DAY).ok_or_else(bad)?;
                let to = time(to.trim()).filter(|to| *to != from).ok_or_else(bad)?;
                windows.push(Window { from, to, bytes_per_s: rate(value.trim())? });
            }
        }
        if windows.len() > WINDOWS_MAX {
            return Err(InvalidBandwidth::Windows(windows.len()));
        }
    }
    if windows.is_empty() {
        return Err(InvalidBandwidth::Windows(0));
    }
    windows.sort_by_key(|window| window.from);
    let is_twice = |minute: &u16| windows.iter().filter(|window| window.holds(*minute)).count() > 1;
    if let Some(minute) = (0..DAY).find(is_twice) {
        return Err(InvalidBandwidth::Overlap(shown(minute)));
    }
    Ok(Bandwidth { windows, otherwise: otherwise.flatten(), zone: zone.unwrap_or(0) })
}

/// Reads `HH:MM`; 24:00 is the end of a day.
fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| is_number)
    };
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (minutes < 60).then_some(hours * 60 + minutes).filter(|minute| *minute <= DAY)
}

/// Reads `+02:00`, `-03:30` or `UTC`.
fn offset(text: &str) -> Option<i32> {
    if text == "UTC" {
        return Some(0);
    }
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+')?),
    };
    Some(sign * i32::from(time(text)?)).filter(|minutes| minutes.abs() <= ZONE_MAX)
}

fn shown(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Writes a rate so that it is read as the same one.
fn written(bytes_per_s: Option<u64>) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some(rate) = bytes_per_s else { return "none".to_owned() };
    let whole = UNITS.into_iter().find(|(unit, _)| rate.is_multiple_of(*unit));
    whole.map_or_else(|| rate.to_string(), |(unit, name)| format!("{}{name}", rate / unit))
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Window { from, to, bytes_per_s } in &self.windows {
            write!(f, "{}-{}={},", shown(*from), shown(*to), written(*bytes_per_s))?;
        }
        if self.windows.is_empty() {
            return f.write_str(&written(self.otherwise));
        }
        write!(f, "else={}", written(self.otherwise))?;
        if self.zone == 0 {
            return Ok(());
        }
        let (sign, minutes) = (if self.zone < 0 { '-' } else { '+' }, self.zone.abs());
        write!(f, ",zone={sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// One rate is a number, as it was before there were timetables; anything else is text.
impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.fixed() {
            Some(rate) => serializer.serialize_u64(rate),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Rate(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Rate(rate) => Ok(Self::always(rate)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn read(text: &str) -> Bandwidth {
        text.parse().unwrap()
    }

    /// A minute of some day.
    fn at(hours: u64, minutes: u64) -> WallMs {
        WallMs((20_000 * 24 * 60 + hours * 60 + minutes) * MINUTE_MS)
    }

    #[test]
    fn a_rate_is_one_at_all_times_and_none_is_no_limit() {
        assert_eq!(read("20MiB").at(at(3, 0)), Some(20 * MIB));
        assert_eq!(read("20MiB").fixed(), Some(20 * MIB));
        for none in ["none", "0", "0MiB"] {
            assert!(read(none).is_unlimited(), "{none}");
            assert_eq!(read(none).at(at(3, 0)), None);
        }
    }

    #[test]
    fn a_timetable_changes_on_the_minute() {
        let office = read("08:00-20:00=20MiB,else=0");
        assert_eq!(office.at(at(7, 59)), None);
        assert_eq!(office.at(WallMs(at(8, 0).0 - 1)), None);
        assert_eq!(office.at(at(8, 0)), Some(20 * MIB));
        assert_eq!(office.at(at(19, 59)), Some(20 * MIB));
        assert_eq!(office.at(at(20, 0)), None);
        let night = read("22:00-06:00=none, else=1MiB");
        assert_eq!([night.at(at(21, 59)), night.at(at(22, 0)), night.at(at(5, 59))], [Some(MIB), None, None]);
        assert_eq!(night.at(at(6, 0)), Some(MIB));
        let whole = read("00:00-24:00=3MiB");
        assert_eq!([whole.at(at(0, 0)), whole.at(at(23, 59))], [Some(3 * MIB); 2]);
    }

    #[test]
    fn times_are_in_utc_or_in_the_zone_that_is_named() {
        let east = read("08:00-20:00=20MiB,zone=+02:00");
        assert_eq!([east.at(at(5, 59)), east.at(at(6, 0)), east.at(at(18, 0))], [None, Some(20 * MIB), None]);
        let west = read("08:00-20:00=20MiB,zone=-03:30");
        assert_eq!([west.at(at(11, 29)), west.at(at(11, 30))], [None, Some(20 * MIB)]);
        assert_eq!(read("00:00-01:00=1MiB,zone=+02:00").at(WallMs(0)), None, "before there was time");
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_is_wrong() {
        for (text, part) in [
            ("fast", "20MiB"),
            ("-5MiB", "20MiB"),
            ("8:00-20:00=1MiB", "8:00-20:00"),
            ("08:00-20:00=quick", "quick"),
            ("08:00-08:00=1MiB", "08:00-08:00"),
            ("24:00-08:00=1MiB", "24:00-08:00"),
            ("08:60-09:00=1MiB", "08:60"),
            ("08:00-25:00=1MiB", "25:00"),
            ("08:00=1MiB", "08:00=1MiB"),
            ("08:00-20:00=1MiB,", "no part"),
            ("08:00-20:00=1MiB,19:59-21:00=2MiB", "19:59"),
            ("23:00-01:00=1MiB,00:30-02:00=2MiB", "00:30"),
            ("08:00-20:00=1MiB,else=0,else=1MiB", "else"),
            ("else=1MiB", "1 to 24 windows"),
            ("08:00-20:00=1MiB,zone=Europe/Berlin", "zone=Europe/Berlin"),
            ("08:00-20:00=1MiB,zone=+15:00", "+15:00"),
            ("08:00-20:00=1MiB,zone=+01:00,zone=+02:00", "zone"),
        ] {
            let error = text.parse::<Bandwidth>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let many: Vec<String> = (0..25)
            .map(|n| format!("{:02}:{:02}-{:02}:{:02}=1MiB", n / 2, n % 2 * 30, n / 2, n % 2 * 30 + 1))
            .collect();
        assert_eq!(many.join(",").parse::<Bandwidth>(), Err(InvalidBandwidth::Windows(25)));
    }

    #[test]
    fn what_is_written_is_read_as_the_same_and_a_rate_stays_a_number() {
        for text in ["none", "20MiB", "1500", "08:00-20:00=20MiB,22:00-06:00=512KiB,else=none,zone=-03:30"] {
            let limit = read(text);
            assert_eq!(limit.to_string(), text);
            let json = serde_json::to_string(&limit).unwrap();
            assert_eq!(serde_json::from_str::<Bandwidth>(&json).unwrap(), limit, "{json}");
        }
        assert_eq!(serde_json::to_string(&read("1KiB")).unwrap(), "1024");
        assert_eq!(serde_json::from_str::<Option<Bandwidth>>("1024").unwrap(), Some(read("1KiB")));
        assert_eq!(serde_json::from_str::<Option<Bandwidth>>("null").unwrap(), None);
    }
}
