//! `ctl watch`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{exit_code, follow, show};

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
    let client = context.client()?;
    let view = follow(context, &client, &args.id).await?;
    show(context, &client, &view).await?;
    Ok(exit_code(&view))
}
