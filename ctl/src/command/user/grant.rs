//! `ctl user grant`.

use common::grant::ScopeItem;
use common::id::{OperatorName, TenantId};
use common::role::Role;

use super::text;
use crate::account::role_grant;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Grant a role to a person, beside what was granted before
#[derive(Debug, clap::Args)]
pub(crate) struct GrantArgs {
    /// The person
    name: OperatorName,
    /// What the person may do: viewer, operator, approver, admin, auditor
    #[arg(long)]
    role: Role,
    /// Only for this: host:NAME or label:KEY=VALUE; may be repeated
    #[arg(long, value_name = "PART")]
    scope: Vec<ScopeItem>,
    /// In another tenant than the person's own; for admins of the tenant `default`
    #[arg(long, value_name = "TENANT")]
    within: Option<TenantId>,
}

/// Runs `ctl user grant`.
pub(crate) async fn run(context: &CommandContext, args: GrantArgs) -> Result<u8, CommandError> {
    let GrantArgs { name, role, scope, within } = args;
    let grant = role_grant(role, &scope);
    let user = context.client()?.grant_user(&name, within.as_ref(), Some(grant)).await?;
    context.output.answer(&user, text)?;
    Ok(0)
}
