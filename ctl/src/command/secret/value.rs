//! The value of a secret on its way from its owner to the cluster.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::dump;
use common::id::SecretName;
use common::limit::SECRET_BYTES_MAX;
use common::secret::Secret;
use common::view::SecretView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Where a value is taken from.
#[derive(Debug)]
pub(super) struct From {
    /// A file; otherwise a person is asked, or standard input is read.
    pub(super) file: Option<PathBuf>,
}

/// Takes a value and has the cluster keep it.
pub(super) async fn store(
    context: &CommandContext,
    name: &SecretName,
    from: From,
    must_exist: bool,
) -> Result<u8, CommandError> {
    dump::forbid();
    let client = context.client()?;
    let value = match from.file {
        Some(path) => of_file(&path)?,
        None => context.output.ask_secret(&format!("Value of {name}: "))?.map_or_else(of_input, Ok)?,
    };
    check(&value)?;
    let view = client.set_secret(name, &value, must_exist).await?;
    context.output.answer(&view, |view: &SecretView| {
        Text::line(format!("The secret {} is kept, as version {}.", view.name, view.version))
    })?;
    Ok(0)
}

fn of_file(path: &Path) -> Result<Secret<Vec<u8>>, CommandError> {
    let read = File::open(path).and_then(read_bounded);
    read.map_err(|error| CommandError::io("reading", path.display(), &error))
}

/// Reads standard input; one line end at its end does not count.
fn of_input() -> Result<Secret<Vec<u8>>, CommandError> {
    let mut value = read_bounded(io::stdin().lock())
        .map_err(|error| CommandError::io("reading", "standard input", &error))?;
    let bytes = value.expose_mut();
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(value)
}

/// Reads at most one byte more than a secret may have, into memory that is not moved while it grows.
fn read_bounded(from: impl Read) -> io::Result<Secret<Vec<u8>>> {
    let mut value = Secret::new(Vec::with_capacity(SECRET_BYTES_MAX + 2));
    from.take(SECRET_BYTES_MAX as u64 + 2).read_to_end(value.expose_mut())?;
    Ok(value)
}

/// Refuses before anything is sent what the cluster would refuse.
fn check(value: &Secret<Vec<u8>>) -> Result<(), CommandError> {
    match value.expose().len() {
        0 => Err(CommandError::invalid(
            "the value is empty",
            "type it when asked, pipe it in, or name a file with --from-file; `ctl secret delete` takes a secret away",
        )),
        length if length > SECRET_BYTES_MAX => Err(CommandError::invalid(
            format!("the value has more than {SECRET_BYTES_MAX} bytes"),
            "keep larger things in files on the host that needs them, and name them as ${file:/PATH}",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes_up_to_their_bound() {
        let bounds = [(0, false), (1, true), (SECRET_BYTES_MAX, true), (SECRET_BYTES_MAX + 1, false)];
        for (length, is_good) in bounds {
            let value = read_bounded(vec![0xff; length].as_slice()).unwrap();
            assert_eq!(value.expose().len(), length);
            assert_eq!(check(&value).is_ok(), is_good, "{length}");
        }
        let endless = read_bounded(io::repeat(7)).unwrap();
        assert!(check(&endless).is_err());
    }
}
