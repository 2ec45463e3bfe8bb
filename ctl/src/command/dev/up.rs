//! `ctl dev up`.

use std::path::PathBuf;

use common::failure::{Failure, FailureKind};
use common::human;
use serde::Serialize;

use super::binary::Binaries;
use super::layout::Layout;
use super::record::{Process, Record, Role};
use super::start::Start;
use super::status::Status;
use super::{DirArgs, port};
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Nodes at the most, as in any cluster.
const COORDINATORS_MAX: usize = 7;
/// Agents at the most: what a developer's machine still carries.
const AGENTS_MAX: usize = 100;

/// Start a local cluster, or what does not run of it
///
/// Makes coordinators named coordinator-1, coordinator-2 and so on, hosts named agent-1, agent-2 and so on, all below
/// DIR and on free ports of 127.0.0.1, and DIR/contexts.toml for `ctl --context-file`. Returns when a leader is
/// elected, all nodes vote and all agents are connected. On a cluster that exists it starts what does not run, and
/// changes nothing else. The programs are taken from DROVER_BIN_DIR, else from ctl's own folder, else from PATH.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Number of agents [default: 2]
    #[arg(long, value_name = "N")]
    agents: Option<usize>,
    /// Number of coordinators: 1, 3, 5 or 7 [default: 1]
    #[arg(long, value_name = "N")]
    coordinators: Option<usize>,
}

/// The answer with `--output json`.
#[derive(Debug, Serialize)]
struct Up {
    dir: PathBuf,
    context_file: PathBuf,
    started: Vec<String>,
    #[serde(flatten)]
    status: Status,
}

/// Runs `ctl dev up`.
pub(crate) async fn run(context: &CommandContext, args: UpArgs) -> Result<u8, CommandError> {
    let layout = Layout::new(&args.dir.dir)?;
    let existing = Record::open(&layout.record_file())?;
    let record = match existing {
        Some(record) => same_size(record, &args)?,
        None => new_record(&args)?,
    };
    let binaries = Binaries::find()?;
    layout.create(record.processes.iter().map(|process| process.name.as_str()))?;
    let _lock = layout.lock()?;
    // What another command did until it let go of the lock counts.
    let record = Record::open(&layout.record_file())?.unwrap_or(record);
    let mut start = Start::new(&context.output, layout.clone(), binaries, record);
    start.run().await?;
    let (record, started) = start.finish();
    let up = Up {
        dir: layout.dir().to_owned(),
        context_file: layout.context_file(),
        started,
        status: Status::of(&record),
    };
    context.output.answer(&up, |up| text(up, context.output.width()))?;
    Ok(0)
}

fn text(up: &Up, width: Option<usize>) -> Text {
    let mut text = up.status.text(width);
    if up.started.is_empty() {
        text.append(Text::line("Everything was running already."));
    }
    let hint = format!("export CTL_CONTEXT_FILE={}", up.context_file.display());
    text.push(Meaning::Faint, "To talk to it:  ").plain(hint).end_line();
    text
}

/// Returns the record of a cluster that exists, unless another size is asked for.
fn same_size(record: Record, args: &UpArgs) -> Result<Record, CommandError> {
    for (role, asked) in [(Role::Coordinator, args.coordinators), (Role::Agent, args.agents)] {
        let count = record.of_role(role).count();
        if asked.is_some_and(|asked| asked != count) {
            let message = format!("the local cluster has {}", human::plural(count as u64, role.as_str()));
            let hint = "leave the number out to start it as it is, or make another cluster in another folder";
            return Err(Failure::new(FailureKind::Conflict, message).hint(hint).into());
        }
    }
    Ok(record)
}

/// Returns the record of a new cluster.
fn new_record(args: &UpArgs) -> Result<Record, CommandError> {
    let (coordinators, agents) = (args.coordinators.unwrap_or(1), args.agents.unwrap_or(2));
    if !(1..=COORDINATORS_MAX).contains(&coordinators) || coordinators.is_multiple_of(2) {
        let hint = "an even number of nodes survives no more than one node less";
        return Err(CommandError::invalid(
            format!("--coordinators {coordinators}: a cluster has 1, 3, 5 or 7 nodes"),
            hint,
        ));
    }
    if agents > AGENTS_MAX {
        let message = format!("--agents {agents}: a local cluster has {AGENTS_MAX} agents at the most");
        return Err(CommandError::invalid(message, "ask for fewer"));
    }
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let mut ports = port::free(coordinators * 2 + agents, seed)?.into_iter();
    let mut processes = Vec::new();
    for (role, count, ports_each) in [(Role::Coordinator, coordinators, 2), (Role::Agent, agents, 1)] {
        processes.extend((1..=count).map(|number| Process {
            name: format!("{}-{number}", role.as_str()),
            role,
            ports: ports.by_ref().take(ports_each).collect(),
            is_member: false,
            birth: None,
        }));
    }
    Ok(Record::new(processes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(coordinators: Option<usize>, agents: Option<usize>) -> UpArgs {
        UpArgs { dir: DirArgs { dir: "/x".into() }, agents, coordinators }
    }

    fn kind(result: Result<Record, CommandError>) -> FailureKind {
        match result {
            Err(CommandError::Failure(failure)) => failure.kind,
            Err(CommandError::BrokenPipe) | Ok(_) => panic!("it was not refused"),
        }
    }

    #[test]
    fn a_new_cluster_has_the_names_and_ports_that_scripts_expect() {
        let record = new_record(&args(None, None)).unwrap();
        let names: Vec<&str> = record.processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(names, ["coordinator-1", "agent-1", "agent-2"]);
        let mut ports: Vec<u16> = record.processes.iter().flat_map(|process| process.ports.clone()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 4);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for coordinators in [0, 2, 4, 9] {
            assert_eq!(kind(new_record(&args(Some(coordinators), None))), FailureKind::Invalid);
        }
        assert_eq!(kind(new_record(&args(None, Some(101)))), FailureKind::Invalid);
        assert!(new_record(&args(Some(3), Some(0))).is_ok());
    }

    #[test]
    fn a_cluster_that_exists_keeps_its_size() {
        let record = new_record(&args(Some(3), Some(1))).unwrap();
        assert!(same_size(record.clone(), &args(None, None)).is_ok());
        assert!(same_size(record.clone(), &args(Some(3), Some(1))).is_ok());
        assert_eq!(kind(same_size(record, &args(None, Some(2)))), FailureKind::Conflict);
    }
}
