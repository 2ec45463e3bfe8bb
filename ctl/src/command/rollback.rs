//! `ctl rollback`.

use common::id::MigrationId;
use common::view::MigrationStatus;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Give the destination back as it was before a migration
///
/// Works on a completed migration while its way back is open (see `ctl status`), and on one that stopped with a
/// failure. What others changed at the destination since is not lost: it is moved aside and listed as findings; how
/// much that is is shown, and asked about, first. Waits for the end; exit code 0 means that everything is undone.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl rollback`.
pub(crate) async fn run(context: &CommandContext, args: RollbackArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let mut view = act(context, &client, &args.id, Verb::Rollback).await?;
    if view.status != MigrationStatus::RolledBack {
        view = follow(context, &client, &args.id).await?;
    }
    show(context, &client, &view).await?;
    Ok(if view.status == MigrationStatus::RolledBack { 0 } else { exit_code(&view) })
}
