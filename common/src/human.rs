//! Sizes, rates, durations and counts for people.

use std::time::Duration;

use crate::clock::WallMs;
use crate::rel_path::is_bidi_control;

/// Returns a number of bytes with a binary unit and three significant digits: `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // The value is only shown, so the loss of low bits above 2^53 does not matter.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Returns a rate: `12.0 MiB/s`.
pub fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// Returns a duration with its two largest units: `2 h 5 min`, `3.2 s`, `40 ms`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Returns a whole number with spaces between its thousands: `100 000`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns a count with its noun: `1 file`, `2 files`.
pub fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

/// Returns a moment of wall time in UTC: `2026-11-21 11:05:08 UTC`.
pub fn moment(wall: WallMs) -> String {
    let timestamp = i64::try_from(wall.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let Some(timestamp) = timestamp else { return "at no known time".to_owned() };
    timestamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Returns text that may come from another machine so that it cannot steer a terminal or change the direction of the
/// text around it: such characters are escaped, all others stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_printable(letter) {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_default());
        }
    }
    shown
}

/// Whether a letter only shows itself: it is no control character and does not change the direction of text.
pub fn is_printable(letter: char) -> bool {
    !letter.is_control() && !is_bidi_control(letter)
}

/// Why a text is not a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not a size.
    #[error("`{0}` is not a size: write a whole number and a unit, as 10MiB, 500KB or 2G")]
    Size(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write whole numbers and units, as 24h, 90m or 1h30m")]
    Duration(String),
    /// Not a moment.
    #[error("`{0}` is not a moment: write 24h for a day ago, 2026-11-21 or 2026-11-21T08:00:00Z")]
    Moment(String),
}

/// Parses a moment: `24h` for a day before `now`, `2026-11-21` for the beginning of that day in UTC, or
/// `2026-11-21T08:00:00Z` with any offset.
///
/// # Errors
/// When the text is neither a duration nor a moment after 1970.
pub fn parse_moment(text: &str, now: WallMs) -> Result<WallMs, InvalidQuantity> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(WallMs(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))));
    }
    let invalid = || InvalidQuantity::Moment(text.to_owned());
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let timestamp: jiff::Timestamp = match text.parse() {
        Ok(timestamp) => timestamp,
        Err(_no_timestamp) => day().ok_or_else(invalid)?.timestamp(),
    };
    u64::try_from(timestamp.as_millisecond()).map(WallMs).map_err(|_before_1970| invalid())
}

/// Parses a size: `10MiB`, `10M` (binary), `10MB` (decimal), `4096`.
///
/// # Errors
/// When the text is no whole number with a known unit, or is too large.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidQuantity> {
    let invalid = || InvalidQuantity::Size(text.to_owned());
    let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_not_a_number| invalid())?;
    let unit: u64 = match text[at..].trim().to_ascii_lowercase().trim_end_matches("/s") {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    number.checked_mul(unit).ok_or_else(invalid)
}

/// Parses a duration: `24h`, `90m`, `1h30m`, `30s`, `500ms`, `7d`; nothing at all needs no unit: `0`.
///
/// # Errors
/// When the text is no sequence of whole numbers with known units, or is too long.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let invalid = || InvalidQuantity::Duration(text.to_owned());
    let mut total_ms: u64 = 0;
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(invalid)?;
        let number: u64 = rest[..digits].parse().map_err(|_not_a_number| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match rest[..letters].trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid()),
        };
        let part = number.checked_mul(unit_ms).ok_or_else(invalid)?;
        total_ms = total_ms.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[letters..];
    }
    Ok(Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown = [0, 999, 1000, 1536, 10_240, 1 << 20, 123 << 20, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "999 B", "0.98 KiB", "1.50 KiB", "10.0 KiB", "1.00 MiB", "123 MiB", "16.0 EiB"]
        );
    }

    #[test]
    fn durations_have_two_units() {
        let shown = [40, 3_200, 125_000, 7_500_000, 90_000_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["40 ms", "3.2 s", "2 min 5 s", "2 h 5 min", "1 d 1 h"]);
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!((plural(1, "file"), plural(0, "file")), ("1 file".to_owned(), "0 files".to_owned()));
    }

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(moment(WallMs(1_763_723_108_999)), "2025-11-21 11:05:08 UTC");
        assert_eq!(moment(WallMs(u64::MAX)), "at no known time");
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2J\u{202e}b\n\\ä"), "a\\u{1b}[2J\\u{202e}b\\n\\ä");
    }

    #[test]
    fn quantities_are_parsed_or_refused() {
        assert_eq!(
            ["4096", "10MiB", "10m", "2 GB", "1k/s"].map(parse_bytes),
            [Ok(4096), Ok(10 << 20), Ok(10 << 20), Ok(2_000_000_000), Ok(1024)]
        );
        for bad in ["", "MiB", "-1", "1.5G", "10x", "99999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "h", "5", "1y", "1h 30", "-3s", "99999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_moment_is_written_or_ago() {
        let now = WallMs(1_763_700_000_000);
        assert_eq!(parse_moment("1h", now), Ok(WallMs(1_763_696_400_000)));
        assert_eq!(parse_moment("2025-11-21T04:40:00Z", now), Ok(now));
        assert_eq!(parse_moment("2025-11-21T05:40:00+01:00", now), Ok(now));
        assert_eq!(parse_moment("2025-11-21", now), Ok(WallMs(1_763_683_200_000)));
        for text in ["", "yesterday", "1969-01-01T00:00:00Z", "2025-11-41"] {
            assert!(parse_moment(text, now).is_err(), "{text}");
        }
    }
}
