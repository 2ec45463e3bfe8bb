//! Showing names: bytes that a terminal or a log may be given.
//!
//! The result is valid UTF-8 on one line; it cannot move a cursor, reorder text or hide a byte, and two
//! different names never look the same.

use std::fmt::Write as _;

/// Returns `bytes` as text in which control characters, invisible and direction-changing characters,
/// backslashes, quotes and invalid UTF-8 are escaped.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_character(&mut text, character);
        }
        for byte in chunk.invalid() {
            push_byte(&mut text, *byte);
        }
    }
    text
}

fn push_character(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        '"' => text.push_str("\\\""),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        // ASCII controls as bytes, as `ls --escape` users know them.
        '\0'..='\u{1f}' | '\u{7f}' => push_byte(text, u8::try_from(character).unwrap_or(b'?')),
        _ if is_deceptive(character) => text.extend(character.escape_unicode()),
        _ => text.push(character),
    }
}

fn push_byte(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail");
}

/// Whether a character is a C1 control, invisible, or changes the direction of the text around it.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(escape(bytes), expected);
    }

    #[test]
    fn shows_names_without_obeying_them() {
        check(b"plain name.txt", "plain name.txt");
        check("grüße-日本".as_bytes(), "grüße-日本");
        check(b"a\nb\tc\r", "a\\nb\\tc\\r");
        check(b"\x1b[31mred\x7f", "\\x1b[31mred\\x7f");
        check(b"caf\xe9", "caf\\xe9");
        check(b"a\\x1b\"", "a\\\\x1b\\\"");
        check("\u{9b}31m".as_bytes(), "\\u{9b}31m");
        check("exe\u{202e}txt".as_bytes(), "exe\\u{202e}txt");
        check(b"\0", "\\x00");
        check(b"", "");
    }

    #[test]
    fn different_names_look_different() {
        assert_ne!(escape(b"\\n"), escape(b"\n"));
        assert_ne!(escape(b"\\xff"), escape(b"\xff"));
    }
}
