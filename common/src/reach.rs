//! How two agents reach each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How two agents reach each other for the connection that content comes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// The destination reaches the source: the usual way.
    #[serde(rename = "destination dials")]
    DestinationDials,
    /// The destination cannot reach the source, and the source reaches the destination.
    #[serde(rename = "source dials")]
    SourceDials,
    /// Neither reaches the other: both dial a third agent, which passes on what it cannot read.
    #[serde(rename = "relayed")]
    Relayed,
}

impl Reach {
    /// Returns the words that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DestinationDials => "destination dials",
            Self::SourceDials => "source dials",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_people_read_the_same_words() {
        for reach in [Reach::DestinationDials, Reach::SourceDials, Reach::Relayed] {
            assert_eq!(serde_json::to_string(&reach).unwrap(), format!("\"{reach}\""));
        }
    }
}
