//! `ctl secret`.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod delete;
mod label;
mod list;
mod rotate;
mod set;
mod value;

/// Keep passwords, keys and tokens in the cluster
///
/// A secret is sealed before it is stored and can never be read back. A spec names it as `${secret:NAME}`; it is opened
/// only for the agents of a migration that names it, each for its own side, and only while a step runs there.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SecretCommand {
    Delete(delete::DeleteArgs),
    Label(label::LabelArgs),
    List(list::ListArgs),
    Rotate(rotate::RotateArgs),
    Set(set::SetArgs),
}

impl SecretCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Delete(args) => delete::run(context, args).await,
            Self::Label(args) => label::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
            Self::Rotate(args) => rotate::run(context, args).await,
            Self::Set(args) => set::run(context, args).await,
        }
    }
}
