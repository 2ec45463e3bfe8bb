//! `ctl verify`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Prove again what a migration wrote
///
/// Reads at the destination what the migration wrote and compares it with what was recorded when it was written.
/// Waits for the end, and ends with the migration's result.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The migration
    id: MigrationId,
    /// Read both sides whole and compare them, also what was there already
    #[arg(long)]
    deep: bool,
}

/// Runs `ctl verify`.
pub(crate) async fn run(context: &CommandContext, args: VerifyArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    act(context, &client, &args.id, Verb::Verify { deep: args.deep }).await?;
    let view = follow(context, &client, &args.id).await?;
    show(context, &client, &view).await?;
    Ok(exit_code(&view))
}
