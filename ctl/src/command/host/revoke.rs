//! `ctl host revoke`.

use common::id::HostName;

use super::show;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::Consent;

/// Void a host's certificate for good
///
/// The agent's connections are cut and it can never come back under this certificate. Asks first on a terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// The host
    name: HostName,
}

/// Runs `ctl host revoke`.
pub(crate) async fn run(context: &CommandContext, args: RevokeArgs) -> Result<u8, CommandError> {
    // Where nobody can be asked, naming the host is consent enough: a stolen key must be voided by a script too.
    if context.output.consent() == Consent::Ask {
        context.output.confirm(&format!("This voids the certificate of {} for good.", args.name))?;
    }
    let host = context.client()?.revoke_host(&args.name).await?;
    context.output.answer(&host, |host| show::text(host, context.output.width()))?;
    Ok(0)
}
