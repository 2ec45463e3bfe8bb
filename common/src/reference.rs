//! Where a secret value stands: the one syntax of all sources.
//!
//! `${secret:NAME}` is a secret of the cluster and `${vault:PATH#KEY}` one of a HashiCorp Vault: the coordinator opens
//! both and seals them to the agent that needs them. `${env:NAME}` and `${file:/PATH}` stand on the host itself, and
//! are read by the agent of the side whose part of the spec holds the reference; they never travel.
//! A reference is no secret and may be shown.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::SecretName;

/// The longest reference: a path of 4 KiB and its frame.
const TEXT_BYTES_MAX: usize = 4_200;

/// Where a secret value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reference {
    /// `${secret:NAME}`: sealed in the cluster.
    Secret(SecretName),
    /// `${env:NAME}`: in the environment of the agent.
    Env(String),
    /// `${file:/PATH}`: in a file of the agent's host that only root can write and others cannot read.
    File(String),
    /// `${vault:PATH#KEY}`: in a HashiCorp Vault, version 2 of its key-value engine.
    Vault {
        /// Mount and path, as `secret/shop/db`.
        path: String,
        /// The field of the value.
        key: String,
    },
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It has another form.
    #[error(
        "this is no reference: write ${{secret:NAME}}, ${{env:NAME}}, ${{file:/PATH}} or ${{vault:PATH#KEY}}"
    )]
    Form,
    /// It names a source that does not exist.
    #[error("`{0}` is no source of secrets: secret, env, file and vault are")]
    Source(String),
    /// The name of a secret or of a variable is not one.
    #[error("`{0}` is not a valid name")]
    Name(String),
    /// The path of a file is not absolute.
    #[error("`{0}` is not an absolute path")]
    Path(String),
    /// The path in a vault does not say mount, path and key.
    #[error("`{0}` does not name mount, path and key: write ${{vault:MOUNT/PATH#KEY}}")]
    Vault(String),
}

impl Reference {
    /// Whether the coordinator opens it; the agent reads the others by itself.
    pub fn is_opened_by_coordinator(&self) -> bool {
        match self {
            Self::Secret(_) | Self::Vault { .. } => true,
            Self::Env(_) | Self::File(_) => false,
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let inner = text.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.filter(|inner| inner.len() <= TEXT_BYTES_MAX && !inner.contains(['\0', '\n', '}']));
        let (source, place) = inner.and_then(|inner| inner.split_once(':')).ok_or(InvalidReference::Form)?;
        match source {
            "secret" => {
                place.parse().map(Self::Secret).map_err(|_invalid| InvalidReference::Name(place.to_owned()))
            }
            "env" => {
                let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                let is_name = !place.is_empty()
                    && !place.as_bytes()[0].is_ascii_digit()
                    && place.bytes().all(is_allowed);
                let invalid = || InvalidReference::Name(place.to_owned());
                is_name.then(|| Self::Env(place.to_owned())).ok_or_else(invalid)
            }
            "file" => {
                let is_absolute = place.starts_with('/') && place.split('/').all(|part| part != "..");
                let invalid = || InvalidReference::Path(place.to_owned());
                is_absolute.then(|| Self::File(place.to_owned())).ok_or_else(invalid)
            }
            "vault" => vault(place).ok_or_else(|| InvalidReference::Vault(place.to_owned())),
            other => Err(InvalidReference::Source(other.to_owned())),
        }
    }
}

fn vault(place: &str) -> Option<Reference> {
    let (path, key) = place.split_once('#')?;
    let path = path.trim_matches('/');
    // What stands in a URL must not need another reading there.
    let is_plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    let is_path = path.contains('/') && path.split('/').all(is_plain);
    let is_key = !key.is_empty() && key.chars().all(|letter| !letter.is_control());
    (is_path && is_key).then(|| Reference::Vault { path: path.to_owned(), key: key.to_owned() })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "${{secret:{name}}}"),
            Self::Env(name) => write!(f, "${{env:{name}}}"),
            Self::File(path) => write!(f, "${{file:{path}}}"),
            Self::Vault { path, key } => write!(f, "${{vault:{path}#{key}}}"),
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_read_and_shown_as_written() {
        for text in [
            "${secret:shop-db}",
            "${env:DB_PASSWORD}",
            "${file:/etc/shop/key}",
            "${vault:secret/shop/db#password}",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let vault: Reference = "${vault:/secret/shop#a b}".parse().unwrap();
        assert_eq!(vault, Reference::Vault { path: "secret/shop".to_owned(), key: "a b".to_owned() });
    }

    #[test]
    fn what_is_no_reference_is_refused_by_name() {
        for (text, needle) in [
            ("shop-db", "no reference"),
            ("${shop-db}", "no reference"),
            ("${aws:shop}", "`aws` is no source"),
            ("${secret:Shop DB}", "`Shop DB`"),
            ("${secret:}", "not a valid name"),
            ("${env:1A}", "`1A`"),
            ("${file:etc/key}", "absolute"),
            ("${file:/etc/../key}", "absolute"),
            ("${vault:secret#key}", "MOUNT/PATH#KEY"),
            ("${vault:secret/a/../b#key}", "MOUNT/PATH#KEY"),
            ("${vault:secret/a?version=1#key}", "MOUNT/PATH#KEY"),
            ("${vault:secret/a}", "MOUNT/PATH#KEY"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
