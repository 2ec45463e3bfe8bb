//! What of a migration is changed while it runs: the document of `ctl set`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;

/// The changes; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlChange {
    /// How fast its source may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Bandwidth>,
    /// Up to which load the source's host is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_load: Option<MaxLoad>,
    /// Which of those that wait for a place comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

impl ControlChange {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a move uses disks beside others that use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoClass {
    /// As everybody does.
    #[default]
    Normal,
    /// Only when nobody else needs them.
    Idle,
}

impl IoClass {
    /// Whether it is the one that nobody has to ask for.
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

impl FromStr for IoClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "normal" => Ok(Self::Normal),
            "idle" => Ok(Self::Idle),
            other => Err(format!("`{other}` is neither normal nor idle")),
        }
    }
}

/// Which of those that wait for a place comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others.
    Low,
    /// In the order in which they were made.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl Priority {
    /// Whether it is the one that nobody has to ask for.
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }

    /// Returns the word that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Low, Self::Normal, Self::High]
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or_else(|| format!("`{text}` is none of low, normal and high"))
    }
}

/// Up to which load average of the last minute, as `uptime` shows it, the source's host is read; none is any load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MaxLoad {
    /// In hundredths.
    pub hundredths: Option<u32>,
}

/// A text that is no load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no load average: write 4 or 2.5, at most 9999, or none")]
pub struct InvalidMaxLoad(String);

impl FromStr for MaxLoad {
    type Err = InvalidMaxLoad;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::default());
        }
        let invalid = || InvalidMaxLoad(text.to_owned());
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_number =
            |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole, 4) || !is_number(part, 2) {
            return Err(invalid());
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_error| invalid());
        let part = number(part)? * if part.len() == 1 { 10 } else { 1 };
        Ok(Self { hundredths: Some(number(whole)? * 100 + part) })
    }
}

impl fmt::Display for MaxLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hundredths {
            None => f.write_str("none"),
            Some(load) if load % 100 == 0 => write!(f, "{}", load / 100),
            Some(load) => write!(f, "{}.{:02}", load / 100, load % 100),
        }
    }
}

impl From<MaxLoad> for String {
    fn from(load: MaxLoad) -> Self {
        load.to_string()
    }
}

impl TryFrom<String> for MaxLoad {
    type Error = InvalidMaxLoad;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What all migrations of a host share, as the source or as the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLimits {
    /// What their sources may send together; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How many run beside each other; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u32>,
}

impl HostLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change of them: the document of `ctl host limit`. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostLimitChange {
    /// What the sources may send together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How many run beside each other; zero lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_read_and_written_as_uptime_shows_it() {
        for (text, hundredths, shown) in [
            ("4", 400, "4"),
            ("2.5", 250, "2.50"),
            ("0.01", 1, "0.01"),
            ("0", 0, "0"),
            ("9999.99", 999_999, "9999.99"),
        ] {
            let load: MaxLoad = text.parse().unwrap();
            assert_eq!((load.hundredths, load.to_string().as_str()), (Some(hundredths), shown), "{text}");
            assert_eq!(shown.parse(), Ok(load));
        }
        assert_eq!("none".parse(), Ok(MaxLoad::default()));
        for text in ["", "much", "-1", "1.", ".5", "1.234", "10000", "1,5", "+1"] {
            assert!(text.parse::<MaxLoad>().is_err(), "{text}");
        }
    }
}
