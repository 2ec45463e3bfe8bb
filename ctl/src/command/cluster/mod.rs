//! `ctl cluster`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod status;

/// Look at the coordinator's nodes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    Status(status::StatusArgs),
}

impl ClusterCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Status(args) => status::run(context, args).await,
        }
    }
}
