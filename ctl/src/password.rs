//! Passwords on their way from a person to the cluster: from the terminal, from standard input, or from a file.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use common::dump;
use common::secret::Secret;

use crate::failure::CommandError;
use crate::output::Output;

/// Longest password that is read; the cluster takes fewer.
const BYTES_MAX: usize = 4096;

/// Reads a password that exists.
///
/// # Errors
/// When it cannot be read, or there is none.
pub(crate) fn present(
    output: &Output,
    question: &str,
    file: Option<&Path>,
) -> Result<Secret<String>, CommandError> {
    dump::forbid();
    let bytes = match file {
        Some(path) => File::open(path)
            .and_then(|file| line(&mut io::BufReader::new(file)))
            .map_err(|error| CommandError::io("reading the password", path.display(), &error))?,
        None => match output.ask_secret(question)? {
            Some(typed) => typed,
            None => line(&mut io::stdin().lock())
                .map_err(|error| CommandError::io("reading", "standard input", &error))?,
        },
    };
    let text = std::str::from_utf8(bytes.expose()).map(|text| Secret::new(text.to_owned()));
    match text {
        Ok(text) if !text.expose().is_empty() => Ok(text),
        Ok(_) => Err(CommandError::invalid(
            "the password is empty",
            "type it when asked, pipe it in, or name a file with --password-file",
        )),
        Err(_) => Err(CommandError::invalid("the password is not UTF-8", "choose letters that can be typed")),
    }
}

/// Reads a new password; a person types it twice.
///
/// # Errors
/// When it cannot be read, there is none, or the second one differs.
pub(crate) fn chosen(
    output: &Output,
    question: &str,
    file: Option<&Path>,
) -> Result<Secret<String>, CommandError> {
    let first = present(output, question, file)?;
    if file.is_none()
        && let Some(second) = output.ask_secret("Once more: ")?
        && second.expose().as_slice() != first.expose().as_bytes()
    {
        return Err(CommandError::invalid("the two passwords differ", "try again; nothing was changed"));
    }
    Ok(first)
}

/// Reads one line without its end, into memory that is not moved while it grows.
fn line(from: &mut impl BufRead) -> io::Result<Secret<Vec<u8>>> {
    let mut line = Secret::new(Vec::with_capacity(BYTES_MAX + 1));
    from.take(BYTES_MAX as u64 + 1).read_until(b'\n', line.expose_mut())?;
    let bytes = line.expose_mut();
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_one_after_the_other() {
        let mut input = b"first one\r\nsecond\n".as_slice();
        let read = |input: &mut &[u8]| line(input).unwrap().expose().clone();
        assert_eq!(read(&mut input), b"first one");
        assert_eq!(read(&mut input), b"second");
        assert_eq!(read(&mut input), b"");
    }
}
