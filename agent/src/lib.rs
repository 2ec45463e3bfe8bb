//! The agent: a daemon on every host that runs the steps it is granted.
//!
//! It is told what to do over one session with the coordinator, which it dials itself; bytes go from agent to agent. It
//! decides nothing about a migration: what it may do is a lease, and what it did is an event.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod journal;
pub mod link;
pub mod state_dir;
pub mod step;
pub mod survey;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use common::failure::Failure;

/// Runs the agent's command line, and returns the exit code of its failure.
pub fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whoever closed stderr does not want to know.
            write!(std::io::stderr().lock(), "{}", in_words(&failure)).ok();
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Returns a failure as people read it.
fn in_words(failure: &Failure) -> String {
    let mut text = format!("error: {}\n", failure.message);
    for (field, value) in &failure.context {
        text.push_str(&format!("  {field}: {value}\n"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}
