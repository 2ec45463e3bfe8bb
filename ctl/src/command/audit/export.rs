//! `ctl audit export`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use common::audit::file::Export as Checked;
use common::audit::head::Head;
use common::audit::walk::Walk;
use common::failure::{Failure, FailureKind};
use serde::Serialize;

use super::call::Export;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Write the whole audit as JSON lines, in a form that can be verified without the cluster
///
/// The lines of your tenant, as a chain of their own that tells nothing of other tenants. The last line is the head of
/// the chain, signed by the cluster; kept elsewhere, it shows later whether what it covers was changed since.
/// `ctl audit verify --file FILE` checks such a file.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Write into this file instead of standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The lines of all tenants, in the cluster's own chain; for who may verify the cluster
    #[arg(long)]
    all_tenants: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Exported<'a> {
    file: &'a Path,
    lines: u64,
    head: Head,
}

/// Runs `ctl audit export`.
pub(crate) async fn run(context: &CommandContext, args: ExportArgs) -> Result<u8, CommandError> {
    let output = &context.output;
    if args.file.is_none() && output.is_json() {
        return Err(CommandError::invalid(
            "an export is lines of JSON and not one document",
            "leave --output out, or name a file with --file",
        ));
    }
    let mut file = args.file.as_deref().map(NewFile::create).transpose()?;
    let mut export = Export::begin(&context.client()?, args.all_tenants).await?;
    let (mut walk, mut checked) = (Walk::new(), Checked::default());
    walk.begin("export", 1, None);
    while let Some(lines) = export.next().await? {
        for line in lines.lines() {
            checked.take(&mut walk, line);
        }
        match &mut file {
            Some(file) => file.write(lines.as_bytes())?,
            None => output.raw(lines.as_bytes())?,
        }
    }
    let (_, head) = checked.end(&mut walk);
    let verdict = walk.finish();
    if let Some(finding) = verdict.findings.first() {
        let message = format!("what the coordinator sent is no intact audit: {finding}");
        return Err(Failure::new(FailureKind::Corrupt, message).hint("see `ctl audit verify`").into());
    }
    if let (Some(file), Some(head)) = (file, head) {
        let path = file.finish()?;
        output.answer(&Exported { file: &path, lines: verdict.lines, head }, |_| {
            Text::line(path.display().to_string())
        })?;
    }
    Ok(0)
}

/// A file that takes its place once it is whole.
struct NewFile {
    path: PathBuf,
    beside: PathBuf,
    writer: BufWriter<File>,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, CommandError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let file = opened.map_err(|error| CommandError::io("writing", beside.display(), &error))?;
        Ok(Self { path: path.to_owned(), beside, writer: BufWriter::new(file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let written = self.writer.write_all(bytes);
        written.map_err(|error| CommandError::io("writing", self.beside.display(), &error))
    }

    fn finish(mut self) -> Result<PathBuf, CommandError> {
        let done = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        let done = done.and_then(|()| std::fs::rename(&self.beside, &self.path));
        done.map_err(|error| CommandError::io("writing", self.path.display(), &error))?;
        Ok(self.path)
    }
}
