//! `ctl dev launch`: becomes another program in a session of its own.
//!
//! A child cannot be given a session by safe means, so `ctl` runs itself, makes the session, and turns into the daemon;
//! the process id stays the same.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::CommandError;

/// Become a program in a session of its own
#[derive(Debug, clap::Args)]
pub(crate) struct LaunchArgs {
    /// The program
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs `ctl dev launch`; returns only when that failed.
pub(crate) fn run(args: &LaunchArgs) -> CommandError {
    if let Err(error) = rustix::process::setsid() {
        return CommandError::io("making a session for", args.program.display(), &error.into());
    }
    let error = Command::new(&args.program).args(&args.arguments).exec();
    CommandError::io("starting", args.program.display(), &error)
}
