//! `ctl audit`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod call;
mod export;
mod list;
mod verify;

/// Look at who changed what and what was refused, and prove that nobody altered it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuditCommand {
    Export(export::ExportArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
}

impl AuditCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Export(args) => export::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
            Self::Verify(args) => verify::run(context, args).await,
        }
    }
}
