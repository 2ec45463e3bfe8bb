//! How many of something may be at once: a number, or `none`.

use std::str::FromStr;

/// A limit of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u32>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        let number = text.parse().ok().filter(|number| *number > 0);
        let invalid = || format!("`{text}` is neither a number above 0 nor `none`");
        number.map(|number| Self(Some(number))).ok_or_else(invalid)
    }
}
