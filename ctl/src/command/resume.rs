//! `ctl resume`.

use common::id::MigrationId;
use common::view::MigrationStatus;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, show};
use crate::output::style::Text;
use crate::verb::Verb;

/// Go on with a paused migration
///
/// It waits for its turn like a new one where a limit holds it, and else goes on at once with what is not there yet.
/// Returns at once; `ctl watch` follows. Exit code 0 also where it was not paused.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl resume`.
pub(crate) async fn run(context: &CommandContext, args: ResumeArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let view = act(context, &client, &args.id, Verb::Resume).await?;
    show(context, &client, &view).await?;
    let waits = view.status == MigrationStatus::Queued;
    let said = if waits { "waits for its turn" } else { "goes on" };
    context
        .output
        .note(&Text::line(format!("Migration {} {said}; `ctl watch {}` follows.", view.id, view.id)));
    Ok(0)
}
