//! Which paths of a tree are left out.
//!
//! An entry is left out when an exclude pattern matches it and no include pattern does; below a directory that is left
//! out nothing is looked at, so an include there has no effect. The same filter works on both sides: what is left out
//! is neither sent nor removed.
//!
//! Patterns are those that rsync users know, on bytes:
//! `*` any bytes but `/`; `**` any bytes; `?` one byte but `/`; `[a-z]`, `[!a-z]` one byte of a set; `\x` the byte `x`.
//! A leading `/` anchors the pattern at the root; otherwise it may begin at any component. A trailing `/` matches
//! directories only. A pattern without `/` (but at its ends) and without `**` is matched against the name alone.

use common::rel_path::{RelPath, escape};

/// Patterns of one filter.
pub const PATTERNS_MAX: usize = 1_000;
/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Which paths are left out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    exclude: Vec<Pattern>,
    include: Vec<Pattern>,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It has nothing to match.
    #[error("an exclude or include pattern is empty")]
    Empty,
    /// It is too long.
    #[error("a pattern is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// A set is not closed, or a backslash stands at the end.
    #[error("the pattern `{shown}` ends inside of `[` or after `\\`")]
    Unclosed {
        /// The pattern.
        shown: String,
    },
    /// There are too many.
    #[error("more than {PATTERNS_MAX} exclude and include patterns")]
    TooMany,
}

#[derive(Clone, Debug)]
struct Pattern {
    tokens: Vec<Token>,
    is_anchored: bool,
    is_name_only: bool,
    is_directory_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Some,
    /// `**`
    Any,
    Set {
        ranges: Vec<(u8, u8)>,
        is_negated: bool,
    },
}

impl Filter {
    /// Makes a filter of patterns.
    ///
    /// # Errors
    /// When a pattern cannot be read or there are too many.
    pub fn new<P: AsRef<[u8]>>(exclude: &[P], include: &[P]) -> Result<Self, InvalidPattern> {
        if exclude.len() + include.len() > PATTERNS_MAX {
            return Err(InvalidPattern::TooMany);
        }
        let parse = |patterns: &[P]| {
            patterns.iter().map(|pattern| Pattern::parse(pattern.as_ref())).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { exclude: parse(exclude)?, include: parse(include)? })
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.exclude.is_empty()
    }

    /// Whether an entry is left out; the directories above it are not asked about. The root never is.
    pub fn leaves_out(&self, directory: &RelPath, name: &[u8], is_directory: bool) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let mut path = Vec::with_capacity(directory.as_bytes().len() + 1 + name.len());
        path.extend_from_slice(directory.as_bytes());
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let matches =
            |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&path, name, is_directory));
        matches(&self.exclude) && !matches(&self.include)
    }
}

impl Pattern {
    fn parse(text: &[u8]) -> Result<Self, InvalidPattern> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(InvalidPattern::TooLong);
        }
        let (is_anchored, rest) = text.strip_prefix(b"/").map_or((false, text), |rest| (true, rest));
        let (is_directory_only, rest) = match rest.strip_suffix(b"/") {
            Some(inner) if !inner.ends_with(b"\\") => (true, inner),
            Some(_) | None => (false, rest),
        };
        if rest.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        let tokens = tokens(rest).ok_or_else(|| InvalidPattern::Unclosed { shown: escape(text) })?;
        let spans_components = tokens.iter().any(|token| matches!(token, Token::Any | Token::Byte(b'/')));
        Ok(Self { tokens, is_anchored, is_name_only: !is_anchored && !spans_components, is_directory_only })
    }

    fn matches(&self, path: &[u8], name: &[u8], is_directory: bool) -> bool {
        if self.is_directory_only && !is_directory {
            return false;
        }
        if self.is_name_only {
            return matches(&self.tokens, name);
        }
        if self.is_anchored {
            return matches(&self.tokens, path);
        }
        let later = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        std::iter::once(0).chain(later).any(|start| matches(&self.tokens, &path[start..]))
    }
}

fn tokens(mut text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        tokens.push(match byte {
            b'?' => Token::One,
            b'*' if text.first() == Some(&b'*') => {
                while let Some(rest) = text.strip_prefix(b"*") {
                    text = rest;
                }
                Token::Any
            }
            b'*' => Token::Some,
            b'[' => set(&mut text)?,
            b'\\' => {
                let (escaped, rest) = text.split_first()?;
                text = rest;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        });
    }
    Some(tokens)
}

/// Reads a set up to its `]`; one that stands first belongs to the set.
fn set(text: &mut &[u8]) -> Option<Token> {
    let is_negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut rest = if is_negated { &text[1..] } else { *text };
    let mut ranges = Vec::new();
    loop {
        let (first, after) = rest.split_first()?;
        if *first == b']' && !ranges.is_empty() {
            *text = after;
            return Some(Token::Set { ranges, is_negated });
        }
        rest = after;
        let mut low = *first;
        if low == b'\\' {
            let (escaped, after) = rest.split_first()?;
            (low, rest) = (*escaped, after);
        }
        let mut high = low;
        if let [b'-', end, after @ ..] = rest
            && *end != b']'
        {
            (high, rest) = (*end, after);
        }
        ranges.push((low, high));
    }
}

/// Matches all of the text, going back to the last star that can take more. Time grows with the product of the
/// lengths, and by a further factor of the text for `**`, never faster.
fn matches(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // Where to go on when a star takes one byte more: its successor, and how far it reaches.
    let mut some: Option<(usize, usize)> = None;
    let mut any: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Some) => {
                token += 1;
                some = Some((token, at));
                continue;
            }
            Some(Token::Any) => {
                token += 1;
                any = Some((token, at));
                some = None;
                continue;
            }
            Some(one) if text.get(at).is_some_and(|byte| one.takes(*byte)) => {
                token += 1;
                at += 1;
                continue;
            }
            None if at == text.len() => return true,
            Some(_) | None => {}
        }
        if let Some((next, reach)) = some
            && text.get(reach).is_some_and(|byte| *byte != b'/')
        {
            some = Some((next, reach + 1));
            (token, at) = (next, reach + 1);
        } else if let Some((next, reach)) = any
            && reach < text.len()
        {
            any = Some((next, reach + 1));
            some = None;
            (token, at) = (next, reach + 1);
        } else {
            return false;
        }
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::One => byte != b'/',
            Self::Set { ranges, is_negated } => {
                byte != b'/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *is_negated
            }
            Self::Some | Self::Any => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::rel_path::RelPath;
    use proptest::prelude::*;

    use super::{Filter, InvalidPattern, Token, matches, tokens};

    fn check(exclude: &[&str], include: &[&str], path: &str, expected: bool) {
        let filter = Filter::new(exclude, include).unwrap();
        let is_directory = path.ends_with('/');
        let path = RelPath::try_from(path.trim_end_matches('/').as_bytes().to_vec()).unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!(
            filter.leaves_out(&parent, name, is_directory),
            expected,
            "{exclude:?} {include:?} {path}"
        );
    }

    #[test]
    fn patterns_match_as_documented() {
        check(&["*.log"], &[], "a/b.log", true);
        check(&["*.log"], &[], "a/b.log.gz", false);
        check(&["/a"], &[], "a/", true);
        check(&["/a"], &[], "b/a", false);
        check(&["cache/"], &[], "x/cache/", true);
        check(&["cache/"], &[], "x/cache", false);
        check(&["wp-content/cache/**"], &[], "site/wp-content/cache/a/b", true);
        check(&["wp-content/cache/**"], &[], "site/wp-content/cache/", false);
        check(&["a/*/c"], &[], "a/b/c", true);
        check(&["a/*/c"], &[], "a/b/d/c", false);
        check(&["a/**/c"], &[], "a/b/d/c", true);
        check(&["b?c"], &[], "b/c", false);
        check(&["[a-c][!x]"], &[], "by", true);
        check(&["[a-c][!x]"], &[], "bx", false);
        check(&["[]]"], &[], "]", true);
        check(&["\\*"], &[], "*", true);
        check(&["\\*"], &[], "a", false);
        check(&["*"], &["keep*"], "keep.txt", false);
        check(&["*"], &["keep*"], "drop.txt", true);
        check(&["a*b*c"], &[], "aXbXbYc", true);
        check(&[], &["x"], "x", false);
    }

    #[test]
    fn bad_patterns_are_named() {
        assert_eq!(Filter::new(&["/"], &[]).unwrap_err(), InvalidPattern::Empty);
        assert!(matches!(Filter::new(&["a[b"], &[]).unwrap_err(), InvalidPattern::Unclosed { .. }));
        assert!(matches!(Filter::new(&["a\\"], &[]).unwrap_err(), InvalidPattern::Unclosed { .. }));
    }

    /// The definition, slow and plain.
    fn defined(tokens: &[Token], text: &[u8]) -> bool {
        match tokens.split_first() {
            None => text.is_empty(),
            Some((Token::Any, rest)) => (0..=text.len()).any(|at| defined(rest, &text[at..])),
            Some((Token::Some, rest)) => {
                let end = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                (0..=end).any(|at| defined(rest, &text[at..]))
            }
            Some((one, rest)) => {
                text.split_first().is_some_and(|(byte, text)| one.takes(*byte) && defined(rest, text))
            }
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_is_the_plain_way(pattern in "[ab/*?]{1,9}", text in "[ab/]{0,12}") {
            let tokens = tokens(pattern.as_bytes()).unwrap();
            prop_assert_eq!(matches(&tokens, text.as_bytes()), defined(&tokens, text.as_bytes()), "{} {}", pattern, text);
        }
    }
}
