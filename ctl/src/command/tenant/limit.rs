//! `ctl tenant limit`.

use common::id::TenantId;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Say what a tenant may do at once
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// The tenant
    name: TenantId,
    /// So many migrations run beside each other and the others wait for their turn; none for no limit
    #[arg(long, value_name = "N|none", value_parser = parse_limit)]
    migrations: Limit,
}

/// A number, or none.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<u32>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .map(|number| Limit(Some(number)))
        .ok_or_else(|| format!("`{text}` is neither a number above 0 nor `none`"))
}

/// Runs `ctl tenant limit`.
pub(crate) async fn run(context: &CommandContext, args: LimitArgs) -> Result<u8, CommandError> {
    let tenant = context.client()?.limit_tenant(&args.name, args.migrations.0).await?;
    context.output.answer(&tenant, text)?;
    Ok(0)
}
