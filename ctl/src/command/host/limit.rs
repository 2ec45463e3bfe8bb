//! `ctl host limit`.

use common::bandwidth::Bandwidth;
use common::control::HostLimitChange;
use common::id::HostName;

use super::show;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::limit::Limit;

/// Limit what all migrations of a host share
///
/// Counts for every migration that has the host as its source or as its destination, within about a second and also
/// for those that run. What is not named stays as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// The host
    name: HostName,
    #[command(flatten)]
    limits: Limits,
}

/// What can be limited.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Limits {
    /// So much per second for all of them together, in equal shares, as 50MiB; none for no limit. By the time of day
    /// as 08:00-20:00=20MiB,else=none
    #[arg(long, value_name = "LIMIT")]
    bandwidth: Option<Bandwidth>,
    /// So many run beside each other and the others wait for their turn; none for no limit
    #[arg(long, value_name = "N|none")]
    migrations: Option<Limit>,
}

/// Runs `ctl host limit`.
pub(crate) async fn run(context: &CommandContext, args: LimitArgs) -> Result<u8, CommandError> {
    let Limits { bandwidth, migrations } = args.limits;
    let change = HostLimitChange { bandwidth, migrations: migrations.map(|limit| limit.0.unwrap_or(0)) };
    let host = context.client()?.limit_host(&args.name, &change).await?;
    context.output.answer(&host, |host| show::text(host, context.output.width()))?;
    Ok(0)
}
