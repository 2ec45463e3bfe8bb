//! Masking parts of a text: same length, same kinds of letters, nothing of what stood there. Pure.
//!
//! With a key, equal texts become equal masks, so that what belongs together still does; without the key a mask
//! cannot be computed from a guess. Every expression looks at the text as it was, so their order does not matter.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};
use zeroize::Zeroize;

use crate::sanitize::{Find, Mask, With};
use crate::secret::Secret;

/// Memory that one compiled expression may take.
const REGEX_BYTES_MAX: usize = 1024 * 1024;
/// Separates the key of masks from every other use of the same secret.
const KEY_CONTEXT: &str = "drover 2026-11 key of masks";

/// Domains of addresses end in these, which nobody can register.
const TOP_LEVEL_FILLER: u8 = b'q';

const EMAIL: &str = r"(?-u)[a-zA-Z0-9._%+\-\x80-\xff]{1,64}(?:@|%40)[a-zA-Z0-9\-\x80-\xff]{1,63}(?:\.[a-zA-Z0-9\-\x80-\xff]{1,63})+";
const PAYMENT_KEY: &str = r"(?-u)\b(?:(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{8,}|sq0[a-z]{3}-[A-Za-z0-9_\-]{16,}|access_token\$[a-z]+\$[a-z0-9]{8,}\$[a-f0-9]{16,})";
const CARD: &str = r"(?-u)\b[0-9](?:[ \-]?[0-9]){12,18}\b";
const TOKEN: &str = r"(?-u)\b(?:eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_\-]{16,}|xox[abprs]-[A-Za-z0-9\-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16})";
const ASSIGNED: &str = r#"(?i-u)(?:bearer\s+|(?:api[_\-]?key|secret|token|passw(?:or)?d|pwd)[a-z0-9_\-]*["']?\s*(?:=>|[:=,])\s*["']?)([^\s"',;<>(){}]{6,})"#;

/// Why a mask cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMask {
    /// The expression does not compile.
    #[error("the regular expression `{0}` cannot be used: {1}")]
    Regex(String, String),
    /// The expression matches nothing as well.
    #[error("the regular expression `{0}` matches the empty text")]
    Empty(String),
}

/// Why a text cannot be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmaskable {
    /// It is no text: what it holds may stand there in a form that no expression sees.
    #[error("it is not a text, so what is to be masked in it cannot be found")]
    Binary,
}

/// Masks by the expressions of one rule.
#[derive(Clone, Debug)]
pub struct Masker {
    expressions: Vec<Expression>,
    with: Filling,
}

#[derive(Clone, Debug)]
struct Expression {
    regex: Regex,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Email,
    Card,
}

#[derive(Clone, Debug)]
enum Filling {
    Filler,
    Key(Secret<[u8; 32]>),
}

impl Masker {
    /// Makes it for a rule; without a key, a rule that needs one fills like one that does not.
    ///
    /// # Errors
    /// When an expression cannot be used.
    pub fn new(mask: &Mask, key: Option<&Secret<Vec<u8>>>) -> Result<Self, InvalidMask> {
        let mut expressions = Vec::new();
        for find in &mask.find {
            for (text, kind) in match find {
                Find::Email => &[(EMAIL, Kind::Email)][..],
                Find::PaymentKey => &[(PAYMENT_KEY, Kind::Plain), (CARD, Kind::Card)],
                Find::Token => &[(TOKEN, Kind::Plain), (ASSIGNED, Kind::Plain)],
            } {
                expressions.push(Expression { regex: compile(text)?, kind: *kind });
            }
        }
        for text in &mask.regex {
            let regex = compile(text)?;
            if regex.is_match(b"") {
                return Err(InvalidMask::Empty(text.clone()));
            }
            expressions.push(Expression { regex, kind: Kind::Plain });
        }
        let with = match (mask.with, key) {
            (With::Key, Some(key)) => {
                Filling::Key(Secret::new(blake3::derive_key(KEY_CONTEXT, key.expose())))
            }
            (With::Key, None) | (With::Filler, _) => Filling::Filler,
        };
        Ok(Self { expressions, with })
    }

    /// Masks a text in place.
    pub fn mask(&self, text: &mut [u8]) {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut domains: Vec<Range<usize>> = Vec::new();
        for Expression { regex, kind } in &self.expressions {
            for captures in regex.captures_iter(text) {
                let groups = captures.iter().skip(1).flatten().map(|group| group.range());
                let before = ranges.len();
                ranges.extend(groups);
                let Some(whole) = captures.get(0).map(|whole| whole.range()) else { continue };
                if ranges.len() > before {
                    continue;
                }
                match kind {
                    Kind::Card if !is_card(&text[whole.clone()]) => continue,
                    Kind::Email => domains.extend(top_level(text, &whole)),
                    Kind::Card | Kind::Plain => {}
                }
                ranges.push(whole);
            }
        }
        for range in joined(ranges) {
            self.fill(&mut text[range]);
        }
        for domain in domains {
            let letters = text[domain].iter_mut().filter(|byte| byte.is_ascii_alphabetic());
            letters.for_each(|byte| *byte = TOP_LEVEL_FILLER);
        }
    }

    fn fill(&self, part: &mut [u8]) {
        let mut stream = vec![0; part.len()];
        if let Filling::Key(key) = &self.with {
            let mut hasher = blake3::Hasher::new_keyed(key.expose());
            hasher.update(part);
            hasher.finalize_xof().fill(&mut stream);
        }
        for (byte, drawn) in part.iter_mut().zip(&stream) {
            *byte = match (&self.with, *byte) {
                (Filling::Filler, b'A'..=b'Z') => b'X',
                (Filling::Filler, b'a'..=b'z' | 0x80..) => b'x',
                (Filling::Filler, b'0'..=b'9') => b'0',
                (Filling::Key(_), b'A'..=b'Z') => b'A' + drawn % 26,
                (Filling::Key(_), b'a'..=b'z' | 0x80..) => b'a' + drawn % 26,
                (Filling::Key(_), b'0'..=b'9') => b'0' + drawn % 10,
                (Filling::Filler | Filling::Key(_), other) => other,
            };
        }
        stream.zeroize();
    }
}

/// Says whether what is to be masked in a file can be found at all.
///
/// # Errors
/// When it holds control characters that no text has, or begins like a file of packed content.
pub fn check_text(content: &[u8]) -> Result<(), Unmaskable> {
    let is_control = |byte: &u8| *byte < 0x20 && !b"\t\n\r\x0b\x0c\x1b".contains(byte);
    // Short packed files may happen to hold no control character.
    let packed: [&[u8]; 6] = [b"\x1f\x8b", b"PK", b"BZh", b"%PDF", b"\xfd7z", b"7z\xbc\xaf"];
    let is_packed = packed.iter().any(|start| content.starts_with(start));
    if is_packed || content.iter().any(is_control) { Err(Unmaskable::Binary) } else { Ok(()) }
}

fn compile(text: &str) -> Result<Regex, InvalidMask> {
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| InvalidMask::Regex(text.to_owned(), error.to_string()))
}

/// Joins ranges that overlap, so that each byte is masked once.
fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match joined.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// Returns where the last label of an address's domain is.
fn top_level(text: &[u8], address: &Range<usize>) -> Option<Range<usize>> {
    let dot = text[address.clone()].iter().rposition(|byte| *byte == b'.')?;
    Some(address.start + dot + 1..address.end)
}

/// Whether digits have the check digit of a card number.
fn is_card(text: &[u8]) -> bool {
    let digits = text.iter().rev().filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit * 2) {
            (0, _) => digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masker(find: &[Find], regex: &[&str], key: Option<&str>) -> Masker {
        let with = if key.is_some() { With::Key } else { With::Filler };
        let regex = regex.iter().map(|text| (*text).to_owned()).collect();
        let key = key.map(|key| Secret::new(key.as_bytes().to_vec()));
        Masker::new(&Mask { find: find.to_vec(), regex, with }, key.as_ref()).unwrap()
    }

    fn masked(masker: &Masker, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        masker.mask(&mut bytes);
        assert_eq!(bytes.len(), text.len());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn known_kinds_are_found_and_the_rest_stays() {
        let all = masker(&[Find::Email, Find::PaymentKey, Find::Token], &[], None);
        for (text, expected) in [
            ("to: Eva.Maier7@shop-1.example.com, ok", "to: Xxx.Xxxxx0@xxxx-0.xxxxxxx.qqq, ok"),
            ("s:15:\"a@example.com.au\";", "s:15:\"x@xxxxxxx.xxx.qq\";"),
            ("jürgen@example.org", "xxxxxxx@xxxxxxx.qqq"),
            ("x%40example.com", "x%00xxxxxxx.qqq"),
            ("key sk_live_4eC39HqLyjWD ", "key xx_xxxx_0xX00XxXxxXX "),
            ("card 4111 1111 1111 1111.", "card 0000 0000 0000 0000."),
            ("order 4111 1111 1111 1112.", "order 4111 1111 1111 1112."),
            ("AKIAIOSFODNN7EXAMPLE", "XXXXXXXXXXXX0XXXXXXX"),
            ("define('DB_PASSWORD', 'hunter22');", "define('DB_PASSWORD', 'xxxxxx00');"),
            ("password: short", "password: short"),
            ("nothing to see at 12:30", "nothing to see at 12:30"),
        ] {
            assert_eq!(masked(&all, text), expected, "{text}");
        }
    }

    #[test]
    fn of_an_expression_with_groups_only_the_groups_are_masked() {
        let own = masker(&[], &[r"name=(\w+);"], None);
        assert_eq!(masked(&own, "name=Eva; id=7"), "name=Xxx; id=7");
    }

    #[test]
    fn a_key_masks_equal_texts_alike_and_another_key_otherwise() {
        let (one, two) = (masker(&[Find::Email], &[], Some("one")), masker(&[Find::Email], &[], Some("two")));
        let first = masked(&one, "a eva@example.com b eva@example.com");
        assert_eq!(first[2..17], first[20..35]);
        assert_ne!(first, masked(&two, "a eva@example.com b eva@example.com"));
        assert_ne!(first[2..5], *"eva");
        assert_eq!(first, masked(&one, "a eva@example.com b eva@example.com"));
    }

    #[test]
    fn only_texts_can_be_masked() {
        assert_eq!(check_text("Grüße\n\tx\x1b[1m".as_bytes()), Ok(()));
        assert_eq!(check_text(b"Gr\xfc\xdfe"), Ok(()));
        for binary in [&b"a\0b"[..], b"\x1f\x8b", b"PK\x03\x04", b"%PDF-1.4", b"\x01"] {
            assert_eq!(check_text(binary), Err(Unmaskable::Binary));
        }
    }

    proptest! {
        #[test]
        fn length_and_line_ends_stay_and_no_address_is_left(text in "[a-z0-9@. \n%]{0,80}") {
            let email = masker(&[Find::Email], &[], Some("k"));
            let after = masked(&email, &text);
            prop_assert_eq!(after.match_indices('\n').count(), text.match_indices('\n').count());
            let found = Regex::new(EMAIL).unwrap();
            for address in found.find_iter(after.as_bytes()) {
                prop_assert!(address.as_bytes().iter().rev().take_while(|byte| **byte != b'.').all(|byte| !byte.is_ascii_lowercase() || *byte == b'q'));
            }
        }
    }
}
