//! `ctl set`.

use common::bandwidth::Bandwidth;
use common::control::{ControlChange, MaxLoad, Priority};
use common::id::MigrationId;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::show;

/// Change how a migration runs
///
/// Counts within about a second for the step that runs, and for all that follow, through retries, failovers and
/// restarts. What is not named stays as it is. A migration that has ended or is being undone is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The migration
    id: MigrationId,
    #[command(flatten)]
    changes: Changes,
}

/// What can be changed.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Send at most so much per second, as 20MiB; none or 0 for no limit. By the time of day as
    /// 08:00-20:00=20MiB,else=none, in UTC unless zone=+02:00 stands there too
    #[arg(long, value_name = "LIMIT")]
    bandwidth: Option<Bandwidth>,
    /// Read nothing at the source while its load average of the last minute, as uptime shows it, is at least N; none
    /// for any load
    #[arg(long, value_name = "N|none")]
    max_load: Option<MaxLoad>,
    /// Where limits let migrations wait, begin this one before or after the others: low, normal or high
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,
}

/// Runs `ctl set`.
pub(crate) async fn run(context: &CommandContext, args: SetArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let Changes { bandwidth, max_load, priority } = args.changes;
    let change = ControlChange { bandwidth_limit: bandwidth, max_load, priority };
    let view = client.set(&args.id, &change).await?;
    show(context, &client, &view).await?;
    Ok(0)
}
