//! `ctl cluster`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod add;
mod rotate_key;
mod status;

/// Look at the coordinator's nodes, add one, rotate the key of all secrets
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    Add(add::AddArgs),
    RotateKey(rotate_key::RotateKeyArgs),
    Status(status::StatusArgs),
}

impl ClusterCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Add(args) => add::run(context, args).await,
            Self::RotateKey(args) => rotate_key::run(context, args).await,
            Self::Status(args) => status::run(context, args).await,
        }
    }
}
