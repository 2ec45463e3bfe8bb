//! `ctl dev`: a local cluster of real processes, for trying things out and for tests.

use std::path::PathBuf;

use crate::context::CommandContext;
use crate::failure::CommandError;

mod binary;
mod down;
mod launch;
mod layout;
mod port;
mod process;
mod record;
mod settings_file;
mod start;
mod status;
mod up;

/// Run a cluster of real processes on this machine
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DevCommand {
    Down(down::DownArgs),
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
    Status(status::StatusArgs),
    Up(up::UpArgs),
}

/// Where the local cluster is.
#[derive(Debug, clap::Args)]
struct DirArgs {
    /// Folder of the local cluster; everything is below it
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl DevCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Down(args) => down::run(context, args).await,
            Self::Launch(args) => Err(launch::run(&args)),
            Self::Status(args) => status::run(context, args),
            Self::Up(args) => up::run(context, args).await,
        }
    }
}
