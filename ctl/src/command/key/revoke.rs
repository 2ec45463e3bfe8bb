//! `ctl key revoke`.

use common::account::KeyView;
use common::id::KeyId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Void an API key for good, from the next call on
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// The key's public part, as `ctl key list` shows it
    id: KeyId,
}

/// Runs `ctl key revoke`.
pub(crate) async fn run(context: &CommandContext, args: RevokeArgs) -> Result<u8, CommandError> {
    let key = context.client()?.revoke_key(&args.id).await?;
    context.output.answer(&key, |key: &KeyView| Text::line(format!("The key {} is revoked.", key.id)))?;
    Ok(0)
}
