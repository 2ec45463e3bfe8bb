//! `ctl key`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod create;
mod list;
mod revoke;

/// Look at API keys, make one, revoke one
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Revoke(revoke::RevokeArgs),
}

impl KeyCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Create(args) => create::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
            Self::Revoke(args) => revoke::run(context, args).await,
        }
    }
}
