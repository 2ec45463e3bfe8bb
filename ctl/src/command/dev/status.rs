//! `ctl dev status`.

use serde::Serialize;

use super::DirArgs;
use super::layout::Layout;
use super::record::Record;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout as Column, Table};

/// Show the processes of a local cluster
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    dir: DirArgs,
}

/// The answer with `--output json`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    processes: Vec<ProcessStatus>,
}

/// One process; the process id is that of the last start.
#[derive(Debug, Serialize)]
struct ProcessStatus {
    name: String,
    role: &'static str,
    pid: Option<i32>,
    running: bool,
}

impl Status {
    /// Looks at the processes of a record.
    pub(super) fn of(record: &Record) -> Self {
        let processes = record.processes.iter().map(|process| ProcessStatus {
            name: process.name.clone(),
            role: process.role.as_str(),
            pid: process.birth.as_ref().map(|birth| birth.pid),
            running: process.is_running(),
        });
        Self { processes: processes.collect() }
    }

    /// Returns the processes as a table.
    pub(super) fn text(&self, width: Option<usize>) -> Text {
        let mut table = Table::new(&[
            ("NAME", Column::Left),
            ("ROLE", Column::Left),
            ("PID", Column::Right),
            ("RUNNING", Column::Left),
        ]);
        for process in &self.processes {
            let running = if process.running { (Meaning::Good, "yes") } else { (Meaning::Bad, "no") };
            table.row([
                (Meaning::Strong, process.name.clone()),
                (Meaning::Plain, process.role.to_owned()),
                (Meaning::Plain, process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
                (running.0, running.1.to_owned()),
            ]);
        }
        table.render(width)
    }
}

/// Runs `ctl dev status`.
pub(crate) fn run(context: &CommandContext, args: StatusArgs) -> Result<u8, CommandError> {
    let StatusArgs { dir } = args;
    let record = Record::open_existing(&Layout::new(&dir.dir)?.record_file())?;
    context.output.answer(&Status::of(&record), |status| status.text(context.output.width()))?;
    Ok(0)
}
