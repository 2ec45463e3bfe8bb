//! Asking a person.

use std::io::{self, BufRead};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};

/// The longest line that is read as an answer; nobody types more.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Waits until there is something to read. An interrupt ends the waiting, where a plain read would go on: once this
/// process has asked to be told of Ctrl-C, Ctrl-C no longer ends it by itself.
///
/// # Errors
/// When a signal arrived, as `Interrupted`, or the input cannot be waited for.
pub(crate) fn wait(input: &impl AsFd) -> io::Result<()> {
    let mut inputs = [PollFd::new(input, PollFlags::IN)];
    rustix::event::poll(&mut inputs, None)?;
    Ok(())
}

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
