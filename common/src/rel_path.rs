//! A path below a root: bytes that cannot be absolute and cannot climb out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A relative path of zero or more components; the empty one is the root itself.
///
/// Components are non-empty, are neither `.` nor `..`, and hold neither `/` nor NUL; any other byte may stand in them.
/// The order is that of a walk: a directory before what it holds, and siblings by the bytes of their names.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct RelPath(Vec<u8>);

/// Why bytes are not a path below a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a path below a root")]
pub struct InvalidRelPath {
    shown: String,
}

/// Whether bytes may be one component of a path.
pub fn is_component(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

impl RelPath {
    /// Returns the path of the root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns the bytes, components parted by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Returns the path of an entry of this directory.
    ///
    /// # Errors
    /// When `name` is not a component.
    pub fn join(&self, name: &[u8]) -> Result<Self, InvalidRelPath> {
        if !is_component(name) {
            return Err(InvalidRelPath { shown: escape(name) });
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Ok(Self(bytes))
    }

    /// Returns the directory that holds this entry and the entry's name; nothing for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let name = self.components().next_back()?;
        let parent_len = self.0.len() - name.len();
        Some((Self(self.0[..parent_len.saturating_sub(1)].to_vec()), name))
    }

    /// Whether this path is `other` or stands below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }
}

impl TryFrom<Vec<u8>> for RelPath {
    type Error = InvalidRelPath;

    fn try_from(bytes: Vec<u8>) -> Result<Self, InvalidRelPath> {
        if bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(is_component) {
            Ok(Self(bytes))
        } else {
            Err(InvalidRelPath { shown: escape(&bytes) })
        }
    }
}

impl From<RelPath> for Vec<u8> {
    fn from(path: RelPath) -> Self {
        path.0
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // `/` sorts below every other byte, so that `a/b` comes before `a.b` as it does in a walk.
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&if self.is_root() { ".".to_owned() } else { escape(&self.0) })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

/// Returns bytes as text that is safe on a terminal and in a log: control characters and stray bytes are escaped.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() || letter == '\\' || is_bidi_control(letter) {
                text.extend(letter.escape_default());
            } else {
                text.push(letter);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Whether a letter changes the direction of the text around it, which can make a name look like another.
pub(crate) fn is_bidi_control(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn nothing_climbs_out() {
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(RelPath::try_from(bad.as_bytes().to_vec()).is_err(), "{bad:?} was accepted");
        }
        for bad in ["", ".", "..", "a/b"] {
            assert!(path("x").join(bad.as_bytes()).is_err(), "{bad:?} was joined");
        }
    }

    #[test]
    fn order_is_that_of_a_walk() {
        let mut paths = ["b", "a.b", "a/b", "a", "a/b/c", "a/c", ""].map(path);
        paths.sort();
        assert_eq!(paths.map(|path| path.to_string()), [".", "a", "a/b", "a/b/c", "a/c", "a.b", "b"]);
    }

    #[test]
    fn splits_and_joins() {
        assert_eq!(path("a/b").split(), Some((path("a"), b"b".as_slice())));
        assert_eq!(path("a").split(), Some((RelPath::root(), b"a".as_slice())));
        assert_eq!(RelPath::root().split(), None);
        assert_eq!(path("a").join(b"b"), Ok(path("a/b")));
        assert!(path("a/b").is_within(&path("a")) && !path("ab").is_within(&path("a")));
    }

    #[test]
    fn names_are_shown_safely() {
        assert_eq!(escape(b"a\x1b[2J\xff\n\xc3\xa4"), "a\\u{1b}[2J\\xff\\n\u{e4}");
    }
}
