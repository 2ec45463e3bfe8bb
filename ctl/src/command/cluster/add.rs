//! `ctl cluster add`.

use common::human;
use common::id::NodeName;
use common::view::JoinView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Print the command that adds a coordinator node
///
/// The command holds a token that works once and for a quarter of an hour. Run it on the new node's machine, then start
/// the coordinator's service there: it becomes a voter by itself.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// The name under which the node is to be known
    name: NodeName,
}

/// Runs `ctl cluster add`.
pub(crate) async fn run(context: &CommandContext, args: AddArgs) -> Result<u8, CommandError> {
    let join = context.client()?.enroll_node(&args.name).await?;
    context.output.answer(&join, |join: &JoinView| Text::line(&join.command))?;
    let mut note = Text::new();
    note.push(
        Meaning::Faint,
        format!("Run this on {}'s machine; it works once, until {}.", join.name, human::moment(join.expires)),
    );
    context.output.note(note.end_line());
    Ok(0)
}
