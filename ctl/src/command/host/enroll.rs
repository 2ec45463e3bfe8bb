//! `ctl host enroll`.

use common::human;
use common::id::HostName;
use common::view::JoinView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Print the command that adds a host
///
/// The command holds a token that works once and for a quarter of an hour. Run it as root on the host, then start the
/// agent's service there.
#[derive(Debug, clap::Args)]
pub(crate) struct EnrollArgs {
    /// The name under which the host is to be known
    name: HostName,
}

/// Runs `ctl host enroll`.
pub(crate) async fn run(context: &CommandContext, args: EnrollArgs) -> Result<u8, CommandError> {
    let join = context.client()?.enroll_host(&args.name).await?;
    context.output.answer(&join, |join: &JoinView| Text::line(&join.command))?;
    let mut note = Text::new();
    note.push(
        Meaning::Faint,
        format!("Run this as root on {}; it works once, until {}.", join.name, human::moment(join.expires)),
    );
    context.output.note(note.end_line());
    Ok(0)
}
