//! Asking a person.

use std::io::{self, BufRead};
use std::os::fd::AsFd;

use common::secret::Secret;
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// The longest line that is read as an answer; nobody types more.
const ANSWER_BYTES_MAX: u64 = 1024;

/// The longest line that is typed; more comes from a file or a pipe.
const LINE_BYTES_MAX: usize = 4096;

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

/// Reads a line from a terminal that does not show it, without the line end; the terminal is then as it was before.
///
/// The terminal hands over each key, so that Ctrl-C comes here and does not end the process while nothing is shown.
///
/// # Errors
/// When Ctrl-C was typed, as `Interrupted`, or the terminal cannot be read.
pub(crate) fn unseen_line(input: &mut io::StdinLock<'_>) -> io::Result<Secret<Vec<u8>>> {
    let shown = termios::tcgetattr(&*input)?;
    let mut unseen = shown.clone();
    unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
    termios::tcsetattr(&*input, OptionalActions::Now, &unseen)?;
    let restore = Restore { terminal: io::stdin(), shown };
    let line = typed_line(input);
    drop(restore);
    line
}

/// Reads keys up to the end of a line.
fn typed_line(input: &mut impl BufRead) -> io::Result<Secret<Vec<u8>>> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const ERASE: [u8; 2] = [0x08, 0x7f];
    const ERASE_ALL: u8 = 0x15;
    let mut line = Secret::new(Vec::with_capacity(LINE_BYTES_MAX));
    for byte in io::Read::bytes(input) {
        let typed = line.expose_mut();
        match byte? {
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            b'\n' | b'\r' | END => break,
            erase if ERASE.contains(&erase) => {
                // A letter of several bytes goes with its first one.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            ERASE_ALL => typed.clear(),
            byte if typed.len() < LINE_BYTES_MAX => typed.push(byte),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "more was typed than a line holds")),
        }
    }
    Ok(line)
}

/// Shows again what is typed, however the reading ends.
struct Restore {
    terminal: io::Stdin,
    shown: Termios,
}

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing to anybody.
        termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.shown).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_can_be_mended_and_interrupted() {
        let typed = |keys: &str| typed_line(&mut keys.as_bytes()).map(|line| line.expose().clone());
        assert_eq!(typed("p\u{e4}x\x7f\x7fw\nrest").unwrap(), b"pw");
        assert_eq!(typed("wrong\x15right\r").unwrap(), b"right");
        assert_eq!(typed("abc\x04").unwrap(), b"abc");
        assert_eq!(typed("abc\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(typed(&"x".repeat(LINE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let mut answers = b"y\n YES \nn\nyep\n\n".as_slice();
        let read: Vec<bool> = (0..6).map(|_| is_yes(&mut answers).unwrap()).collect();
        assert_eq!(read, [true, true, false, false, false, false]);
    }
}
