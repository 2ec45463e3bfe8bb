//! `ctl cluster status`.

use common::view::{ClusterView, MemberView};

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// Show the nodes, who leads, and how far each is
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {}

/// Runs `ctl cluster status`.
pub(crate) async fn run(context: &CommandContext, args: StatusArgs) -> Result<u8, CommandError> {
    let StatusArgs {} = args;
    let cluster = context.client()?.cluster().await?;
    context.output.answer(&cluster, |cluster| text(cluster, context.output.width()))?;
    Ok(0)
}

fn text(cluster: &ClusterView, width: Option<usize>) -> Text {
    let mut text = Text::new();
    text.field("cluster", Meaning::Plain, &cluster.id);
    match &cluster.leader {
        Some(leader) => text.field("leader", Meaning::Good, leader.as_str()),
        None => text.field("leader", Meaning::Bad, "none: an election is under way, or too few nodes run"),
    };
    text.field("version", Meaning::Plain, &cluster.version);
    text.field(
        "log",
        Meaning::Plain,
        format!("term {}, applied {}, epoch {}", cluster.term, cluster.applied_index, cluster.epoch),
    );
    let mut table = Table::new(&[
        ("NODE", Layout::Left),
        ("ROLE", Layout::Left),
        ("API", Layout::Flexible),
        ("PEERS", Layout::Flexible),
        ("LOG", Layout::Right),
    ]);
    for member in &cluster.members {
        table.row([
            (Meaning::Strong, member.name.to_string()),
            (meaning(member), member.role.clone()),
            (Meaning::Plain, member.api_address.clone()),
            (Meaning::Plain, member.raft_address.clone()),
            (Meaning::Plain, member.matched_index.map_or_else(|| "?".to_owned(), |index| index.to_string())),
        ]);
    }
    text.end_line().append(table.render(width));
    text
}

/// Returns what a member's role means.
fn meaning(member: &MemberView) -> Meaning {
    match member.role.as_str() {
        "leader" => Meaning::Good,
        "unreachable" => Meaning::Bad,
        "learner" => Meaning::Caution,
        _ => Meaning::Plain,
    }
}
