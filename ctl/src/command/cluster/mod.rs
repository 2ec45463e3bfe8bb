//! `ctl cluster`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod add;
mod status;

/// Look at the coordinator's nodes and add one
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    Add(add::AddArgs),
    Status(status::StatusArgs),
}

impl ClusterCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Add(args) => add::run(context, args).await,
            Self::Status(args) => status::run(context, args).await,
        }
    }
}
