//! Where a tree stands: `HOST:/path`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::HostName;

/// A host and an absolute path on it.
///
/// A trailing slash means nothing, and `.` and `..` are refused: what a root is must be plain to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location {
    /// The registered host.
    pub host: HostName,
    /// The absolute path of the root, without a trailing slash except for `/` itself.
    pub path: String,
}

/// Why a text is not a location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// No colon parts host and path.
    #[error("`{0}` has no host: write HOST:/path")]
    NoHost(String),
    /// The host is not a name.
    #[error(transparent)]
    Host(#[from] crate::id::InvalidId),
    /// The path does not begin with a slash.
    #[error("the path in `{0}` is not absolute: write HOST:/path")]
    NotAbsolute(String),
    /// The path has a component that hides where it leads, or a NUL.
    #[error("the path in `{0}` holds `.`, `..` or a NUL: write the plain absolute path")]
    NotPlain(String),
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let (host, path) = text.split_once(':').ok_or_else(|| InvalidLocation::NoHost(text.to_owned()))?;
        let host = host.parse()?;
        if !path.starts_with('/') {
            return Err(InvalidLocation::NotAbsolute(text.to_owned()));
        }
        let mut plain = String::with_capacity(path.len());
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if matches!(name, "." | "..") || name.contains('\0') {
                return Err(InvalidLocation::NotPlain(text.to_owned()));
            }
            plain.push('/');
            plain.push_str(name);
        }
        Ok(Self { host, path: if plain.is_empty() { "/".to_owned() } else { plain } })
    }
}

impl TryFrom<String> for Location {
    type Error = InvalidLocation;

    fn try_from(text: String) -> Result<Self, InvalidLocation> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_means_nothing() {
        let plain: Location = "web1:/var/www/shop".parse().unwrap();
        assert_eq!("web1:/var//www/shop/".parse(), Ok(plain));
        assert_eq!("web1:/".parse::<Location>().map(|location| location.path), Ok("/".to_owned()));
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        for bad in ["/var/www", "web1:var", "web1:", "web1:/a/../b", "web1:/./a", "we b:/a", ":/a"] {
            assert!(bad.parse::<Location>().is_err(), "{bad:?} was accepted");
        }
    }
}
