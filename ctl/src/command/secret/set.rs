//! `ctl secret set`.

use std::path::PathBuf;

use common::id::SecretName;

use super::value::{self, From};
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Keep a secret, or give one its next value
///
/// The value is asked for without showing it; where there is no terminal it is read from standard input. One line end
/// at its end does not count, so `echo` and editors do no harm. From a file it is taken byte by byte, as it is. It may
/// hold any bytes, 1 to 1 MiB. It is never taken from the command line, which every user of this machine can see.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The name, as in `${secret:NAME}`
    name: SecretName,
    /// Take the value from this file, byte by byte
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// Runs `ctl secret set`.
pub(crate) async fn run(context: &CommandContext, args: SetArgs) -> Result<u8, CommandError> {
    let SetArgs { name, from_file } = args;
    value::store(context, &name, From { file: from_file }, false).await
}
