//! `ctl user ungrant`.

use common::id::{OperatorName, TenantId};

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Take away from a person all that was granted in a tenant
#[derive(Debug, clap::Args)]
pub(crate) struct UngrantArgs {
    /// The person
    name: OperatorName,
    /// In another tenant than the person's own; for admins of the tenant `default`
    #[arg(long, value_name = "TENANT")]
    within: Option<TenantId>,
}

/// Runs `ctl user ungrant`.
pub(crate) async fn run(context: &CommandContext, args: UngrantArgs) -> Result<u8, CommandError> {
    let user = context.client()?.grant_user(&args.name, args.within.as_ref(), None).await?;
    context.output.answer(&user, text)?;
    Ok(0)
}
