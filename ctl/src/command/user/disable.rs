//! `ctl user disable`.

use common::id::OperatorName;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Accept nothing of a person any more
///
/// Certificates and logins of the person are refused from the next call on, and stay void when the person is enabled again.
#[derive(Debug, clap::Args)]
pub(crate) struct DisableArgs {
    /// The person
    name: OperatorName,
}

/// Runs `ctl user disable`.
pub(crate) async fn run(context: &CommandContext, args: DisableArgs) -> Result<u8, CommandError> {
    let user = context.client()?.disable_user(&args.name, true).await?;
    context.output.answer(&user, text)?;
    Ok(0)
}
