//! `ctl tenant create`.

use common::id::TenantId;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Make a tenant: hosts, migrations, users and keys that no other tenant sees
///
/// Then make its first admin: `ctl --tenant NAME user create USER --role admin`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The tenant
    name: TenantId,
}

/// Runs `ctl tenant create`.
pub(crate) async fn run(context: &CommandContext, args: CreateArgs) -> Result<u8, CommandError> {
    let tenant = context.client()?.create_tenant(&args.name).await?;
    context.output.answer(&tenant, text)?;
    Ok(0)
}
