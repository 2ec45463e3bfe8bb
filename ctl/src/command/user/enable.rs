//! `ctl user enable`.

use common::id::OperatorName;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Let a disabled person log in again
///
/// Certificates from before stay void; the person logs in anew.
#[derive(Debug, clap::Args)]
pub(crate) struct EnableArgs {
    /// The person
    name: OperatorName,
}

/// Runs `ctl user enable`.
pub(crate) async fn run(context: &CommandContext, args: EnableArgs) -> Result<u8, CommandError> {
    let user = context.client()?.disable_user(&args.name, false).await?;
    context.output.answer(&user, text)?;
    Ok(0)
}
