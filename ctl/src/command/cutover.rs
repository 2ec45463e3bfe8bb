//! `ctl cutover`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Let the last pass of a migration begin
///
/// For a migration with --cutover manual that awaits it. Stop the writers at the source first: what is written after
/// the last pass has begun may not arrive. `ctl status` shows how long the pass is predicted to take. Waits for the end,
/// and ends with the migration's result.
#[derive(Debug, clap::Args)]
pub(crate) struct CutoverArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl cutover`.
pub(crate) async fn run(context: &CommandContext, args: CutoverArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    act(context, &client, &args.id, Verb::Cutover).await?;
    let view = follow(context, &client, &args.id).await?;
    show(context, &client, &view).await?;
    Ok(exit_code(&view))
}
