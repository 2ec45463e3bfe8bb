//! Typed names and ids.
//!
//! Every id is a short ASCII string that is safe in a path component, a log line and a URL.
//! Which alphabet and length an id may have is checked once, when it is parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid {noun}: 1 to {length_max} characters of a-z, 0-9, `-`, `_` and `.`, beginning with a letter or digit"
)]
pub struct InvalidId {
    noun: &'static str,
    text: String,
    length_max: usize,
}

/// Whether `text` has the form that every id and name has.
fn is_well_formed(text: &str, length_max: usize) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let begins_well =
        text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    begins_well && text.len() <= length_max && text.bytes().all(is_allowed)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $noun:literal, $length_max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_well_formed(&text, $length_max) {
                    Ok(Self(text))
                } else {
                    Err(InvalidId { noun: $noun, text, length_max: $length_max })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A migration, unique in its tenant.
    MigrationId, "migration id", 32;
    /// A step of a plan, unique in its plan: the kind and a number, as `file.copy-1`.
    StepId, "step id", 64;
    /// A registered host: the name that its certificate carries.
    HostName, "host name", 63;
    /// A coordinator node's name.
    NodeName, "node name", 63;
    /// An operator's name, unique in its tenant.
    OperatorName, "operator name", 63;
    /// A tenant.
    TenantId, "tenant id", 63;
    /// An API key's public part, unique in its tenant.
    KeyId, "key id", 32;
    /// What a label is about, as `team`.
    LabelKey, "label", 63;
    /// What a label says, as `shop`.
    LabelValue, "label's value", 63;
    /// A secret, unique in its tenant.
    SecretName, "secret name", 63;
}

impl TenantId {
    /// Returns the tenant that every cluster has.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

impl KeyId {
    /// Makes an id of ten characters out of random bytes.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        Self(MigrationId::from_random(bytes).0)
    }
}

/// Letters of [`MigrationId::from_random`]: no vowels and no look-alikes, so that no word and no doubt arises.
const ALPHABET: &[u8; 28] = b"23456789bcdfghjkmnpqrstvwxyz";

impl MigrationId {
    /// Makes an id of ten characters out of random bytes.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        let letter = |byte: u8| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]);
        Self(bytes.into_iter().map(letter).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_parsed() {
        for good in ["web1", "agent-1", "a.b_c", "7"] {
            assert_eq!(good.parse::<HostName>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", ".a", "Web1", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} was accepted");
        }
        assert!(serde_json::from_str::<HostName>("\"../x\"").is_err());
    }

    #[test]
    fn random_ids_are_well_formed() {
        for byte in 0..=255 {
            let id = MigrationId::from_random([byte; 10]);
            assert_eq!(id.as_str().parse::<MigrationId>(), Ok(id.clone()));
        }
    }
}
