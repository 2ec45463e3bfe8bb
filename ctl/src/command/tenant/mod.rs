//! `ctl tenant`.

use common::account::TenantView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

mod create;
mod limit;
mod list;

/// Look at tenants, make one, limit one
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TenantCommand {
    Create(create::CreateArgs),
    Limit(limit::LimitArgs),
    List(list::ListArgs),
}

impl TenantCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Create(args) => create::run(context, args).await,
            Self::Limit(args) => limit::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
        }
    }
}

fn text(tenant: &TenantView) -> Text {
    Text::line(format!("{}: {}", tenant.name, limits(tenant)))
}

/// Returns what a tenant may do at once, in words.
fn limits(tenant: &TenantView) -> String {
    match tenant.limits.migrations {
        Some(1) => "1 migration at once".to_owned(),
        Some(count) => format!("{count} migrations at once"),
        None => "no limits".to_owned(),
    }
}
