//! `ctl dev down`.

use std::time::Duration;

use serde::Serialize;

use super::DirArgs;
use super::layout::Layout;
use super::process::End;
use super::record::{Process, Record, Role};
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// How long a daemon may take to end in order: it hands leases back and closes its store.
const GRACE: Duration = Duration::from_secs(10);

/// Stop the processes of a local cluster
///
/// Nothing is removed; `ctl dev up` with the same folder starts it again.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    dir: DirArgs,
}

/// The answer with `--output json`.
#[derive(Debug, Serialize)]
struct Ended {
    processes: Vec<ProcessEnd>,
}

/// How one process ended.
#[derive(Debug, Serialize)]
struct ProcessEnd {
    name: String,
    end: End,
}

/// Runs `ctl dev down`.
pub(crate) async fn run(context: &CommandContext, args: DownArgs) -> Result<u8, CommandError> {
    let DownArgs { dir } = args;
    let layout = Layout::new(&dir.dir)?;
    // First, so that a place where nothing was ever started gets no lock file; again once nobody else is at work here.
    Record::open_existing(&layout.record_file())?;
    let _lock = layout.lock()?;
    let record = Record::open_existing(&layout.record_file())?;
    // Agents first: they hand their leases back to a coordinator that is still there.
    let mut processes = Vec::new();
    for role in [Role::Agent, Role::Coordinator] {
        processes.extend(end_all(record.of_role(role).collect()).await?);
    }
    context.output.answer(&Ended { processes }, |ended| {
        let mut text = Text::new();
        for process in &ended.processes {
            let how = match process.end {
                End::NotRunning => "did not run",
                End::Terminated => "stopped",
                End::Killed => "was killed: it did not stop in time",
            };
            text.plain(format!("{} {how}", process.name)).end_line();
        }
        text
    })?;
    Ok(0)
}

/// Ends these processes together.
async fn end_all(processes: Vec<&Process>) -> Result<Vec<ProcessEnd>, CommandError> {
    let fail = |process: &Process, error| CommandError::io("stopping", &process.name, &error);
    let running: Vec<bool> = processes.iter().map(|process| process.is_running()).collect();
    for process in &processes {
        if let Some(birth) = &process.birth {
            birth.terminate().map_err(|error| fail(process, error))?;
        }
    }
    let mut ends = Vec::new();
    for (process, was_running) in processes.into_iter().zip(running) {
        let end = match &process.birth {
            Some(birth) if was_running => birth.end(GRACE).await.map_err(|error| fail(process, error))?,
            Some(_) | None => End::NotRunning,
        };
        ends.push(ProcessEnd { name: process.name.clone(), end });
    }
    Ok(ends)
}
