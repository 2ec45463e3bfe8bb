//! Asking a person.

use std::io::{self, BufRead};

/// The longest line that is read as an answer; nobody types more.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Reads the answer to a question of yes or no; anything but a clear yes is a no, and so is the end of the input.
///
/// # Errors
/// When the input cannot be read.
pub(crate) fn is_yes(input: &mut impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        let mut answers = b"y\n YES \nn\nyep\n\n".as_slice();
        let read: Vec<bool> = (0..6).map(|_| is_yes(&mut answers).unwrap()).collect();
        assert_eq!(read, [true, true, false, false, false, false]);
    }
}
