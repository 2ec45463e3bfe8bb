//! What carries content between two agents.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the lanes between two agents are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Streams of one QUIC connection.
    Quic,
    /// TCP connections with TLS.
    Tcp,
}

impl Transport {
    /// Returns the word that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which transport is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportChoice {
    /// The one that is faster on the path, or that gets through at all.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// TCP only.
    Tcp,
}

impl TransportChoice {
    /// Every choice, as the word that asks for it.
    pub const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("quic", Self::Quic), ("tcp", Self::Tcp)];

    /// Returns the word that asks for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }

    /// Whether a transport is among what is asked for.
    pub fn allows(self, transport: Transport) -> bool {
        match self {
            Self::Auto => true,
            Self::Quic => transport == Transport::Quic,
            Self::Tcp => transport == Transport::Tcp,
        }
    }

    /// Whether nothing particular is asked for.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of auto, quic and tcp")]
pub struct UnknownTransport;

impl std::str::FromStr for TransportChoice {
    type Err = UnknownTransport;

    fn from_str(text: &str) -> Result<Self, UnknownTransport> {
        Self::ALL.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or(UnknownTransport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_people_read_the_same_words() {
        for transport in [Transport::Quic, Transport::Tcp] {
            assert_eq!(serde_json::to_string(&transport).unwrap(), format!("\"{transport}\""));
        }
        for (word, choice) in TransportChoice::ALL {
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{choice}\""));
            assert_eq!(word.parse(), Ok(choice));
        }
        assert!("udp".parse::<TransportChoice>().is_err());
    }

    #[test]
    fn a_choice_excludes_the_other() {
        let allowed =
            |choice: TransportChoice| [Transport::Quic, Transport::Tcp].map(|one| choice.allows(one));
        assert_eq!(allowed(TransportChoice::Auto), [true, true]);
        assert_eq!(allowed(TransportChoice::Quic), [true, false]);
        assert_eq!(allowed(TransportChoice::Tcp), [false, true]);
    }
}
