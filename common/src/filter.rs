//! Which paths of a tree are left out: patterns as rsync and gitignore have them, on bytes.
//!
//! | written | means |
//! |---|---|
//! | `*`, `?`, `**` | any bytes but `/`; one byte but `/`; any bytes |
//! | `/**/` | one or more `/` with any directories between, so `a/**/b` is also `a/b` |
//! | `[a-z]`, `[!a-z]`, `[[:digit:]]` | one byte of a set, or not of it; never `/` |
//! | `\x` | the byte `x` |
//! | a leading `/` | begins at the root; without it, at any component |
//! | a trailing `/` | directories only |
//! | a trailing `/***` | a directory and all that it holds |
//! | a leading `!` | keeps what an earlier exclude pattern leaves out; write `\!` for a name that begins so |
//!
//! A pattern with no `/` but at its ends, and without `**`, is matched against the name alone. Exclude patterns are
//! asked in their order, and the last that matches decides, as in a gitignore file; what an include pattern matches is
//! kept whatever they say, as where rsync is given includes first. Below a directory that is left out nothing is looked
//! at, so nothing there can be kept. The same filter works on both sides: what is left out is neither sent nor removed.

use crate::rel_path::{RelPath, escape};

/// Patterns of one filter.
pub const PATTERNS_MAX: usize = 1_000;
/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Which paths are left out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The last one that matches decides.
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    is_kept: bool,
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
    #[error("the pattern `{shown}` ends inside of `[` or after `\\`; write `\\[` for the letter itself")]
    Unclosed {
        /// The pattern.
        shown: String,
    },
    /// A class of bytes that there is not.
    #[error(
        "the pattern `{shown}` names a class that there is not; `[:alpha:]`, `[:digit:]` and those of POSIX are"
    )]
    Class {
        /// The pattern.
        shown: String,
    },
    /// An include pattern that keeps nothing.
    #[error(
        "the include pattern `{shown}` begins with `!`; exclude it instead, or write `\\!` for a name that begins so"
    )]
    NegatedInclude {
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
    /// Whether all that a matching directory holds matches too.
    is_with_contents: bool,
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
    /// `**/` behind a `/`: nothing, or whole components with the `/` behind them.
    Directories,
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
        let excluded = exclude.iter().map(|text| match text.as_ref().strip_prefix(b"!") {
            Some(kept) => Ok(Rule { pattern: Pattern::parse(kept)?, is_kept: true }),
            None => Ok(Rule { pattern: Pattern::parse(text.as_ref())?, is_kept: false }),
        });
        let included = include.iter().map(|text| match text.as_ref() {
            [b'!', ..] => Err(InvalidPattern::NegatedInclude { shown: escape(text.as_ref()) }),
            text => Ok(Rule { pattern: Pattern::parse(text)?, is_kept: true }),
        });
        Ok(Self { rules: excluded.chain(included).collect::<Result<_, _>>()? })
    }

    /// Leaves one path out whatever patterns say, with all below it.
    #[must_use]
    pub fn without(mut self, path: &RelPath) -> Self {
        let tokens = path.as_bytes().iter().map(|byte| Token::Byte(*byte)).collect();
        let pattern = Pattern {
            tokens,
            is_anchored: true,
            is_name_only: false,
            is_directory_only: false,
            is_with_contents: false,
        };
        self.rules.push(Rule { pattern, is_kept: false });
        self
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rules.iter().all(|rule| rule.is_kept)
    }

    /// Whether an entry is left out; the directories above it are not asked about. The root never is.
    pub fn leaves_out(&self, directory: &RelPath, name: &[u8], is_directory: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let mut path = Vec::with_capacity(directory.as_bytes().len() + 1 + name.len());
        path.extend_from_slice(directory.as_bytes());
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let last = self.rules.iter().rev().find(|rule| rule.pattern.matches(&path, name, is_directory));
        last.is_some_and(|rule| !rule.is_kept)
    }
}

/// Returns the patterns of a file: one a line, as in a gitignore file. Empty lines and those that begin with `#` say
/// nothing (`\#` for a name that begins so), and white space at the end of a line counts only behind a `\`.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#')).map(trimmed).filter(|line| !line.is_empty())
}

fn trimmed(line: &str) -> &str {
    let short = line.trim_end_matches([' ', '\t', '\r']);
    let backslashes = short.len() - short.trim_end_matches('\\').len();
    // The blank behind an odd backslash belongs to the name.
    let end = if backslashes % 2 == 1 { short.len() + 1 } else { short.len() };
    &line[..end.min(line.len())]
}

impl Pattern {
    fn parse(text: &[u8]) -> Result<Self, InvalidPattern> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(InvalidPattern::TooLong);
        }
        let (mut is_anchored, mut rest) = text.strip_prefix(b"/").map_or((false, text), |rest| (true, rest));
        while let Some(below) = rest.strip_prefix(b"**/") {
            // Any directories before it: it may begin at any component.
            (is_anchored, rest) = (false, below);
        }
        let (is_with_contents, rest) = match rest.strip_suffix(b"/***") {
            Some(inner) => (true, inner),
            None => (false, rest),
        };
        let (is_directory_only, rest) = match rest.strip_suffix(b"/") {
            Some(inner) if !inner.ends_with(b"\\") => (true, inner),
            Some(_) | None => (false, rest),
        };
        if rest.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        let tokens = tokens(rest).map_err(|unread| match unread {
            Unread::Unclosed => InvalidPattern::Unclosed { shown: escape(text) },
            Unread::Class => InvalidPattern::Class { shown: escape(text) },
        })?;
        let spans_components =
            tokens.iter().any(|token| matches!(token, Token::Any | Token::Directories | Token::Byte(b'/')));
        let is_name_only = !is_anchored && !spans_components && !is_with_contents;
        Ok(Self { tokens, is_anchored, is_name_only, is_directory_only, is_with_contents })
    }

    fn matches(&self, path: &[u8], name: &[u8], is_directory: bool) -> bool {
        if self.is_with_contents {
            // Every directory above it, and itself if it is one.
            let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
            return above.chain(is_directory.then_some(path)).any(|path| self.matches_path(path));
        }
        if self.is_directory_only && !is_directory {
            return false;
        }
        if self.is_name_only { matches(&self.tokens, name) } else { self.matches_path(path) }
    }

    fn matches_path(&self, path: &[u8]) -> bool {
        if self.is_anchored {
            return matches(&self.tokens, path);
        }
        let later = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        std::iter::once(0).chain(later).any(|start| matches(&self.tokens, &path[start..]))
    }
}

/// Why a text is not read as tokens.
enum Unread {
    Unclosed,
    Class,
}

fn tokens(mut text: &[u8]) -> Result<Vec<Token>, Unread> {
    let mut tokens = Vec::new();
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        tokens.push(match byte {
            b'?' => Token::One,
            b'*' if text.first() == Some(&b'*') => {
                while let Some(rest) = text.strip_prefix(b"*") {
                    text = rest;
                }
                match (tokens.last(), text.strip_prefix(b"/")) {
                    (Some(Token::Byte(b'/') | Token::Directories), Some(rest)) => {
                        text = rest;
                        Token::Directories
                    }
                    _ => Token::Any,
                }
            }
            b'*' => Token::Some,
            b'[' => set(&mut text)?,
            b'\\' => {
                let (escaped, rest) = text.split_first().ok_or(Unread::Unclosed)?;
                text = rest;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        });
    }
    Ok(tokens)
}

/// Reads a set up to its `]`; one that stands first belongs to the set.
fn set(text: &mut &[u8]) -> Result<Token, Unread> {
    let is_negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut rest = if is_negated { &text[1..] } else { *text };
    let mut ranges = Vec::new();
    loop {
        if let Some(named) = rest.strip_prefix(b"[:") {
            let end = named.windows(2).position(|two| two == b":]").ok_or(Unread::Unclosed)?;
            ranges.extend_from_slice(class(&named[..end]).ok_or(Unread::Class)?);
            rest = &named[end + 2..];
            continue;
        }
        let (first, after) = rest.split_first().ok_or(Unread::Unclosed)?;
        if *first == b']' && !ranges.is_empty() {
            *text = after;
            return Ok(Token::Set { ranges, is_negated });
        }
        let low = escapable(&mut rest)?;
        let mut high = low;
        if let [b'-', end, ..] = rest
            && *end != b']'
        {
            rest = &rest[1..];
            high = escapable(&mut rest)?;
        }
        ranges.push((low, high));
    }
}

/// Takes one byte of a set, which a backslash may stand before.
fn escapable(rest: &mut &[u8]) -> Result<u8, Unread> {
    let (first, after) = rest.split_first().ok_or(Unread::Unclosed)?;
    let (byte, after) =
        if *first == b'\\' { after.split_first().ok_or(Unread::Unclosed)? } else { (first, after) };
    *rest = after;
    Ok(*byte)
}

/// Returns the bytes of a class of POSIX, those of ASCII.
fn class(name: &[u8]) -> Option<&'static [(u8, u8)]> {
    Some(match name {
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"blank" => &[(b' ', b' '), (b'\t', b'\t')],
        b"cntrl" => &[(0, 31), (127, 127)],
        b"digit" => &[(b'0', b'9')],
        b"graph" => &[(b'!', b'~')],
        b"lower" => &[(b'a', b'z')],
        b"print" => &[(b' ', b'~')],
        b"punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        b"space" => &[(b'\t', b'\r'), (b' ', b' ')],
        b"upper" => &[(b'A', b'Z')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

/// Matches all of the text, going back to the last star that can take more. Time grows with the product of the
/// lengths, and by a further factor of the text for `**`, never faster.
fn matches(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // Where to go on when a star takes one byte more: its successor, and how far it reaches.
    let mut some: Option<(usize, usize)> = None;
    // The same for what spans components; whole ones only, if it ends behind a `/`.
    let mut any: Option<(usize, usize, bool)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Some) => {
                token += 1;
                some = Some((token, at));
                continue;
            }
            Some(spanning @ (Token::Any | Token::Directories)) => {
                token += 1;
                any = Some((token, at, *spanning == Token::Directories));
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
        } else if let Some((next, reach, takes_whole)) = any
            && let Some(reach) = further(text, reach, takes_whole)
        {
            any = Some((next, reach, takes_whole));
            some = None;
            (token, at) = (next, reach);
        } else {
            return false;
        }
    }
}

/// Returns how far the next try reaches: one byte more, or one component with its `/`.
fn further(text: &[u8], reach: usize, takes_whole: bool) -> Option<usize> {
    let left = text.get(reach..)?;
    if takes_whole {
        return left.iter().position(|byte| *byte == b'/').map(|slash| reach + slash + 1);
    }
    (!left.is_empty()).then_some(reach + 1)
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::One => byte != b'/',
            Self::Set { ranges, is_negated } => {
                byte != b'/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *is_negated
            }
            Self::Some | Self::Any | Self::Directories => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Filter, InvalidPattern, Token, lines, matches, tokens};
    use crate::rel_path::RelPath;

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
        check(&["a/**/c"], &[], "a/c", true);
        check(&["a/**/c"], &[], "ab/c", false);
        check(&["**/c"], &[], "c", true);
        check(&["/**/c"], &[], "a/c", true);
        check(&["a/***"], &[], "a/", true);
        check(&["a/***"], &[], "a", false);
        check(&["a/***"], &[], "x/a/b/c", true);
        check(&["/a/***"], &[], "x/a/b", false);
        check(&["*", "!*.php"], &[], "x.php", false);
        check(&["*", "!*.php", "secret*"], &[], "secret.php", true);
        check(&["\\!x"], &[], "!x", true);
        check(&["[[:digit:]]*"], &[], "7up", true);
        check(&["[![:alpha:]-]"], &[], "-", false);
        check(&["[a\\]-z]"], &[], "]", true);
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
    fn a_path_is_left_out_whatever_patterns_say() {
        let path = |text: &str| RelPath::try_from(text.as_bytes().to_vec()).unwrap();
        let filter = Filter::new(&["!k*"], &["*"]).unwrap().without(&path("a/k[1]"));
        assert!(
            filter.leaves_out(&path("a"), b"k[1]", true) && filter.leaves_out(&path("a"), b"k[1]", false)
        );
        assert!(
            !filter.leaves_out(&path("a"), b"k1", true) && !filter.leaves_out(&path("b/a"), b"k[1]", true)
        );
    }

    #[test]
    fn bad_patterns_are_named() {
        assert_eq!(Filter::new(&["/"], &[]).unwrap_err(), InvalidPattern::Empty);
        assert!(matches!(Filter::new(&["a[b"], &[]).unwrap_err(), InvalidPattern::Unclosed { .. }));
        assert!(matches!(Filter::new(&["a\\"], &[]).unwrap_err(), InvalidPattern::Unclosed { .. }));
        assert!(matches!(Filter::new(&["!["], &[]).unwrap_err(), InvalidPattern::Unclosed { .. }));
        assert!(matches!(Filter::new(&["[[:letter:]]"], &[]).unwrap_err(), InvalidPattern::Class { .. }));
        assert!(matches!(Filter::new(&[], &["!a"]).unwrap_err(), InvalidPattern::NegatedInclude { .. }));
    }

    #[test]
    fn a_file_of_patterns_is_read_as_git_reads_it() {
        let text = "# all\n*.log \n\n!keep.log\r\n\\#name\nwith\\ \n";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["*.log", "!keep.log", "\\#name", "with\\ "]);
    }

    /// The definition, slow and plain.
    fn defined(tokens: &[Token], text: &[u8]) -> bool {
        match tokens.split_first() {
            None => text.is_empty(),
            Some((Token::Any, rest)) => (0..=text.len()).any(|at| defined(rest, &text[at..])),
            Some((Token::Directories, rest)) => {
                (0..=text.len()).any(|at| (at == 0 || text[at - 1] == b'/') && defined(rest, &text[at..]))
            }
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
            let Ok(tokens) = tokens(pattern.as_bytes()) else { return Err(TestCaseError::fail("unread")) };
            prop_assert_eq!(matches(&tokens, text.as_bytes()), defined(&tokens, text.as_bytes()), "{} {}", pattern, text);
        }
    }
}
