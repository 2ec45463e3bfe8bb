//! `ctl retry`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Try again what failed or is stuck
///
/// What was moved already is not moved again. Waits for the end, and ends with the migration's result.
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl retry`.
pub(crate) async fn run(context: &CommandContext, args: RetryArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    act(context, &client, &args.id, Verb::Retry).await?;
    let view = follow(context, &client, &args.id).await?;
    show(context, &client, &view).await?;
    Ok(exit_code(&view))
}
