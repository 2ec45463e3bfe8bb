//! `ctl settle`.

use common::id::MigrationId;

use crate::client::Verb;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, show};

/// End the way back of a migration and remove what was kept for it
///
/// Afterwards `ctl rollback` is no longer possible, and the space of the kept files is free again.
#[derive(Debug, clap::Args)]
pub(crate) struct SettleArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl settle`.
pub(crate) async fn run(context: &CommandContext, args: SettleArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let view = act(context, &client, &args.id, Verb::Settle).await?;
    show(context, &client, &view).await?;
    Ok(0)
}
