//! `ctl host show`.

use common::host::HostFacts;
use common::human;
use common::id::HostName;
use common::view::HostView;

use super::status;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// Show what is known of a host
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The host
    name: HostName,
}

/// Runs `ctl host show`.
pub(crate) async fn run(context: &CommandContext, args: ShowArgs) -> Result<u8, CommandError> {
    let host = context.client()?.host(&args.name).await?;
    context.output.answer(&host, |host| text(host, context.output.width()))?;
    Ok(0)
}

/// Returns a host for people.
pub(super) fn text(host: &HostView, width: Option<usize>) -> Text {
    let (meaning, word) = status(host);
    let mut text = Text::new();
    text.push(Meaning::Strong, host.name.as_str()).plain("  ").push(meaning, word).end_line();
    if let Some(seen) = host.last_seen {
        text.field("last seen", Meaning::Plain, human::moment(seen));
    }
    text.field("steps", Meaning::Plain, host.steps_running.to_string());
    if let Some(bandwidth) = &host.limits.bandwidth {
        text.field("bandwidth", Meaning::Plain, format!("{bandwidth} for all its migrations together"));
    }
    if let Some(migrations) = host.limits.migrations {
        let said = format!("at most {migrations} at once, the others wait");
        text.field("migrations", Meaning::Plain, said);
    }
    if let Some(ahead) = host.clock_ahead_ms {
        let way = if ahead < 0 { "behind" } else { "ahead of" };
        text.field("clock", Meaning::Plain, format!("{} ms {way} the leader's", ahead.unsigned_abs()));
    }
    if let Some(facts) = &host.facts {
        text.append(facts_text(facts, width));
    }
    text
}

fn facts_text(facts: &HostFacts, width: Option<usize>) -> Text {
    let mut text = Text::new();
    text.field("machine", Meaning::Plain, format!("{}, {}", facts.machine_name, facts.os));
    text.field("kernel", Meaning::Plain, &facts.kernel);
    text.field(
        "size",
        Meaning::Plain,
        format!(
            "{}, {} of memory",
            human::plural(facts.cpus.into(), "processor"),
            human::bytes(facts.memory_bytes)
        ),
    );
    let root = if facts.is_root { "root" } else { "not root: owners and devices cannot be set" };
    text.field("agent", Meaning::Plain, format!("{}, runs as {root}", facts.agent_version));
    let addresses: Vec<String> = facts.data_addresses.iter().map(ToString::to_string).collect();
    text.field("data port", Meaning::Plain, addresses.join(", "));
    let steps: Vec<&str> = facts.steps.iter().map(|step| step.kind.as_str()).collect();
    text.field("can run", Meaning::Plain, steps.join(", "));
    if facts.disks.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        ("MOUNT", Layout::Flexible),
        ("TYPE", Layout::Left),
        ("SIZE", Layout::Right),
        ("FREE", Layout::Right),
        ("FREE INODES", Layout::Right),
        ("MODE", Layout::Left),
    ]);
    for disk in &facts.disks {
        table.row([
            (Meaning::Plain, disk.mount_point.clone()),
            (Meaning::Plain, disk.fs_type.clone()),
            (Meaning::Plain, human::bytes(disk.size_bytes)),
            (Meaning::Plain, human::bytes(disk.free_bytes)),
            (Meaning::Plain, human::count(disk.free_inodes)),
            (Meaning::Plain, if disk.is_read_only { "read-only" } else { "read-write" }.to_owned()),
        ]);
    }
    text.end_line().append(table.render(width));
    text
}
