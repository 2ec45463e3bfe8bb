//! `ctl secret delete`.

use common::id::SecretName;
use common::view::SecretView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Forget a secret with all its values
///
/// Migrations that need it and run still fail at their next step. Asks before it does so.
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The name of the secret
    name: SecretName,
}

/// Runs `ctl secret delete`.
pub(crate) async fn run(context: &CommandContext, args: DeleteArgs) -> Result<u8, CommandError> {
    let DeleteArgs { name } = args;
    let client = context.client()?;
    context.output.confirm(&format!("The secret {name} will be gone for good, with all its values."))?;
    let view = client.delete_secret(&name).await?;
    context
        .output
        .answer(&view, |view: &SecretView| Text::line(format!("The secret {} is deleted.", view.name)))?;
    Ok(0)
}
