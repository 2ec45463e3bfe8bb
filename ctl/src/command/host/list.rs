//! `ctl host list`.

use common::human;
use common::view::HostView;

use super::status;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// List all hosts
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// Runs `ctl host list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let ListArgs {} = args;
    let hosts = context.client()?.hosts().await?;
    context.output.answer(&hosts, |hosts| text(hosts, context.output.width()))?;
    Ok(0)
}

fn text(hosts: &[HostView], width: Option<usize>) -> Text {
    if hosts.is_empty() {
        return Text::line("No hosts. `ctl host enroll NAME` prints the command that adds one.");
    }
    let mut table = Table::new(&[
        ("HOST", Layout::Left),
        ("STATUS", Layout::Left),
        ("STEPS", Layout::Right),
        ("SYSTEM", Layout::Flexible),
        ("AGENT", Layout::Left),
        ("LAST SEEN", Layout::Left),
    ]);
    for host in hosts {
        let (meaning, word) = status(host);
        let fact = |of: fn(&common::host::HostFacts) -> &String| {
            (Meaning::Plain, host.facts.as_ref().map(of).cloned().unwrap_or_default())
        };
        table.row([
            (Meaning::Strong, host.name.to_string()),
            (meaning, word.to_owned()),
            (Meaning::Plain, host.steps_running.to_string()),
            fact(|facts| &facts.os),
            fact(|facts| &facts.agent_version),
            (Meaning::Faint, host.last_seen.map(human::moment).unwrap_or_default()),
        ]);
    }
    table.render(width)
}
