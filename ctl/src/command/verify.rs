//! `ctl verify`.

use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, exit_code, follow, show};
use crate::verb::Verb;

/// Compare both sides as they are now
///
/// Scans source and destination and lists what differs: content, kind, size, time, mode, owner, group, attributes, ACLs,
/// links. Content that the migration wrote is read again and held against what was recorded when it was written; of
/// what was there already size and time tell. With --deep, or when the way back has ended and no record is left, both
/// sides are read whole. What only the destination has is told, and is a difference if the migration ran with --delete.
///
/// Ends with 0 if everything is the same, with 5 if somebody else wrote at the destination, with 7 if anything else
/// differs, and with 8 if content is damaged although nobody wrote to it. `ctl report ID --all` has every difference.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The migration
    id: MigrationId,
    /// Read all content of both sides, also what was there already
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
