//! `ctl watch`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{exit_code, follow};
use crate::summary;

/// Follow a migration to its end
///
/// Ends with the migration's result. Ctrl-C ends the watching only; the migration goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl watch`.
pub(crate) async fn run(context: &CommandContext, args: WatchArgs) -> Result<u8, CommandError> {
    let view = follow(context, &context.client()?, &args.id).await?;
    context
        .output
        .answer(&view, |view| summary::text(view, context.output.width(), context.output.is_verbose()))?;
    Ok(exit_code(&view))
}
