//! `ctl status`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::show;

/// Show where a migration stands
///
/// Exit code 0 means that the question was answered, whatever the answer is.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl status`.
pub(crate) async fn run(context: &CommandContext, args: StatusArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let view = client.migration(&args.id).await?;
    show(context, &client, &view).await?;
    Ok(0)
}
