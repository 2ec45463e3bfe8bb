//! `ctl completion`.

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::context::CommandContext;
use crate::failure::CommandError;

/// Print the completions of a shell
///
/// For bash: `ctl completion bash > /etc/bash_completion.d/ctl`
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// The answer with `--output json`.
#[derive(Debug, Serialize)]
struct Completion {
    shell: String,
    script: String,
}

/// Runs `ctl completion`.
pub(crate) fn run(context: &CommandContext, args: &CompletionArgs) -> Result<u8, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::Cli::command(), "ctl", &mut script);
    if context.output.is_json() {
        let script = String::from_utf8_lossy(&script).into_owned();
        context.output.document(&Completion { shell: args.shell.to_string(), script })?;
    } else {
        context.output.raw(&script)?;
    }
    Ok(0)
}
