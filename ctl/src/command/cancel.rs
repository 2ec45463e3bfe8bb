//! `ctl cancel`.

use common::id::MigrationId;
use common::view::MigrationStatus;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Stop a migration and undo what it did
///
/// The destination is given back as it was; what others changed there since is moved aside and listed as findings.
/// Waits for the end. Exit code 0 means that the migration was cancelled and everything is undone.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl cancel`.
pub(crate) async fn run(context: &CommandContext, args: CancelArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let mut view = act(context, &client, &args.id, Verb::Cancel).await?;
    if !view.status.is_end() {
        view = follow(context, &client, &args.id).await?;
    }
    show(context, &client, &view).await?;
    Ok(if view.status == MigrationStatus::Cancelled { 0 } else { exit_code(&view) })
}
