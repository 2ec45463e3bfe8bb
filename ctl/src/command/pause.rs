//! `ctl pause`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, show};
use crate::output::style::Text;
use crate::verb::Verb;

/// Hold a migration up
///
/// The step that runs stops at once and gives its lease back; what has landed stays where it is and is not sent again.
/// A paused migration keeps its roots, frees its place under a limit, and does not use up its timeout. One that is
/// queued may be paused too; one that is being undone may not. `ctl resume` goes on, `ctl cancel` and `ctl rollback`
/// undo it. Returns at once; exit code 0 also where it was paused already.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl pause`.
pub(crate) async fn run(context: &CommandContext, args: PauseArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let view = act(context, &client, &args.id, Verb::Pause).await?;
    show(context, &client, &view).await?;
    context.output.note(&Text::line(format!("Migration {} is paused.", view.id)));
    Ok(0)
}
