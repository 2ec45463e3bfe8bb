//! The root of the command line: global flags, and what a command's end means for the process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;

use crate::command::Command;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::{Format, Output, Verbosity};
use crate::settings::{self, Settings};

/// Moves servers: starts migrations, shows where they are, and takes them back.
///
/// SOURCE and DESTINATION are written HOST:/path, where HOST is registered (see `ctl host list`).
#[derive(Debug, Parser)]
#[command(
    name = "ctl",
    bin_name = "ctl",
    version,
    propagate_version = false,
    max_term_width = 100,
    after_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What each exit code means.
const EXIT_CODES: &str = "Exit codes: 0 everything asked for was done and verified; 2 invalid input; 3 not allowed; \
4 not found; 5 conflict; 6 not supported; 7 changed or unreadable while it was read; 8 content damaged; 9 no space; \
10 too much at once; 11 unreachable or too late; 12 an undo failed, a person is needed; 70 a bug; 130 stopped by you.";

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// File of the clusters that you know [default: ~/.config/drover/contexts.toml]
    #[arg(long, global = true, value_name = "FILE", env = "CTL_CONTEXT_FILE", hide_env_values = true)]
    context_file: Option<PathBuf>,
    /// Cluster to talk to, by its name in that file [default: the file's current one]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Show the API key in this file in the place of a certificate; CTL_API_KEY may hold the key itself
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Tenant to act in [default: your own]
    #[arg(long, global = true, value_name = "TENANT")]
    tenant: Option<TenantId>,
    /// Form of the answer: text for people, or exactly one JSON document
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Format,
    /// Agree to everything that would be asked
    #[arg(long, short = 'y', global = true)]
    yes: bool,
    /// Never use colours; NO_COLOR does the same
    #[arg(long, global = true)]
    no_color: bool,
    /// Say what is done on the way
    #[arg(long, short = 'v', global = true)]
    verbose: bool,
    /// Say nothing but the answer and errors
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose")]
    quiet: bool,
}

impl GlobalArgs {
    /// Makes what every command is given.
    fn into_context(self) -> CommandContext {
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        let is_color_wanted = !self.no_color && settings::is_color_welcome();
        CommandContext {
            output: Output::new(self.output, verbosity, is_color_wanted, self.yes),
            settings: Settings::new(self.context_file, self.context)
                .calling_as(self.api_key_file, self.tenant),
        }
    }
}

/// Runs the command line of this process to its end.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, std::env::args_os()),
    };
    let context = cli.global.into_context();
    let code = match run(cli.command, &context) {
        Ok(code) => code,
        // Whoever closed the pipe has read enough.
        Err(CommandError::BrokenPipe) => 0,
        Err(CommandError::Failure(failure)) => context.output.failure(&failure),
    };
    ExitCode::from(code)
}

/// Runs one command and returns the exit code.
fn run(command: Command, context: &CommandContext) -> Result<u8, CommandError> {
    // A second installation is refused, which is no harm: there is one provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        context.output.detail("a crypto provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::of(FailureKind::Exhausted, &error)
            .hint("look at the limits of this session with `ulimit -a`")
    })?;
    runtime.block_on(command.run(context))
}

/// Ends a command line that could not be understood, or that asked for help.
fn refuse(error: &clap::Error, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that left has read enough of the help.
            return ExitCode::from(u8::from(
                error.print().is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe),
            ));
        }
        _ if !is_json_asked(arguments) => {
            return ExitCode::from(if error.print().is_ok() { 2 } else { 70 });
        }
        _ => {}
    }
    let output = Output::new(Format::Json, Verbosity::Normal, false, false);
    ExitCode::from(output.failure(&usage_failure(error)))
}

/// Returns what clap says as a failure: its first paragraph is the cause, the rest is the help that it repeats.
fn usage_failure(error: &clap::Error) -> Failure {
    if matches!(
        error.kind(),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return Failure::new(FailureKind::Invalid, "no command was given").hint("see `ctl --help`");
    }
    let text = error.render().to_string();
    let cause = text.split("\n\n").next().unwrap_or_default();
    let cause = cause.strip_prefix("error: ").unwrap_or(cause).trim();
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = tip.map_or_else(|| "see `ctl --help`".to_owned(), str::to_owned);
    Failure::new(FailureKind::Invalid, cause).hint(hint)
}

/// Whether a command line that could not be parsed asks for JSON.
fn is_json_asked(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.take_while(|argument| argument != "--").collect();
    arguments.iter().any(|argument| argument == "--output=json")
        || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

#[cfg(test)]
mod tests;
