//! `ctl host drain`.

use common::id::HostName;

use super::show;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Give a host no new steps, or give it steps again
///
/// Steps that run there go on to their end.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// The host
    name: HostName,
    /// End the draining: the host takes steps again
    #[arg(long)]
    end: bool,
}

/// Runs `ctl host drain`.
pub(crate) async fn run(context: &CommandContext, args: DrainArgs) -> Result<u8, CommandError> {
    let host = context.client()?.drain_host(&args.name, !args.end).await?;
    context.output.answer(&host, |host| show::text(host, context.output.width()))?;
    Ok(0)
}
