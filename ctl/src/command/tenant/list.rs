//! `ctl tenant list`.

use common::account::TenantView;
use common::human;

use super::limits;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// List all tenants
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// Runs `ctl tenant list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let ListArgs {} = args;
    let tenants = context.client()?.tenants().await?;
    context.output.answer(&tenants, |tenants| text(tenants, context.output.width()))?;
    Ok(0)
}

fn text(tenants: &[TenantView], width: Option<usize>) -> Text {
    let mut table =
        Table::new(&[("TENANT", Layout::Left), ("LIMITS", Layout::Flexible), ("CREATED", Layout::Left)]);
    for tenant in tenants {
        table.row([
            (Meaning::Strong, tenant.name.to_string()),
            (Meaning::Plain, limits(tenant)),
            (Meaning::Faint, tenant.created.map(human::moment).unwrap_or_default()),
        ]);
    }
    table.render(width)
}
