//! `ctl tenant limit`.

use common::id::TenantId;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::limit::Limit;

/// Say what a tenant may do at once
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// The tenant
    name: TenantId,
    /// So many migrations run beside each other and the others wait for their turn; none for no limit
    #[arg(long, value_name = "N|none")]
    migrations: Limit,
}

/// Runs `ctl tenant limit`.
pub(crate) async fn run(context: &CommandContext, args: LimitArgs) -> Result<u8, CommandError> {
    let tenant = context.client()?.limit_tenant(&args.name, args.migrations.0).await?;
    context.output.answer(&tenant, text)?;
    Ok(0)
}
