//! `ctl secret rotate`.

use std::path::PathBuf;

use common::id::SecretName;

use super::value::{self, From};
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Give a secret that exists its next value
///
/// Migrations that run go on with the value that they began with, and new ones get the new one. The value before the
/// last one is forgotten. The value is taken as with `ctl secret set`.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// The name of a secret that exists
    name: SecretName,
    /// Take the value from this file, byte by byte
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// Runs `ctl secret rotate`.
pub(crate) async fn run(context: &CommandContext, args: RotateArgs) -> Result<u8, CommandError> {
    let RotateArgs { name, from_file } = args;
    value::store(context, &name, From { file: from_file }, true).await
}
