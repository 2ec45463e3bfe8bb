//! `ctl version`.

use serde::Serialize;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Show the version of this program and of the protocol that it speaks
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {}

/// The answer with `--output json`.
#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    protocol: u32,
}

/// Runs `ctl version`.
pub(crate) fn run(context: &CommandContext, args: VersionArgs) -> Result<u8, CommandError> {
    let VersionArgs {} = args;
    let version = Version { version: env!("CARGO_PKG_VERSION"), protocol: proto::PROTOCOL };
    context.output.answer(&version, |version| {
        Text::line(format!("ctl {} (protocol {})", version.version, version.protocol))
    })?;
    Ok(0)
}
