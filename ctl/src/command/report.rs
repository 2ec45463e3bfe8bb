//! `ctl report`.

use std::path::PathBuf;

use common::atomic_file;
use common::id::MigrationId;
use common::report;
use common::view::ReportView;
use serde::Serialize;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::itemised;
use crate::output::style::Text;

/// Show everything about a migration: what moved, how long, how fast, what was proven, and every finding
///
/// Exit code 0 means that the question was answered, whatever the answer is.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// The migration
    id: MigrationId,
    /// Form of the report [default: markdown, or json with --output json]
    #[arg(long, value_enum, value_name = "FORM")]
    format: Option<ReportFormat>,
    /// Write the report into this file instead of standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only the whole list of findings (of changes, for a dry run), however long, from the destination's agent
    #[arg(long, conflicts_with_all = ["format", "file"])]
    all: bool,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
enum ReportFormat {
    /// One page for a browser, in one file; prints well
    Html,
    /// The document that the others are made of
    Json,
    /// Text that reads well as it is
    Markdown,
}

/// The answer with `--output json` where the report itself is not JSON.
#[derive(Debug, Serialize)]
struct Rendered<'a> {
    format: ReportFormat,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a str>,
}

/// Runs `ctl report`.
pub(crate) async fn run(context: &CommandContext, args: ReportArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    if args.all {
        itemised::show(context, &client, &args.id).await?;
        return Ok(0);
    }
    let output = &context.output;
    let default = if output.is_json() { ReportFormat::Json } else { ReportFormat::Markdown };
    let format = args.format.unwrap_or(default);
    let report = render(&client.report(&args.id).await?, format);
    if let Some(file) = &args.file {
        atomic_file::write(file, report.as_bytes(), 0o644)
            .map_err(|error| CommandError::io("writing", file.display(), &error))?;
        let rendered = Rendered { format, file: Some(file), report: None };
        output.answer(&rendered, |_| Text::line(file.display().to_string()))?;
    } else if output.is_json() && format != ReportFormat::Json {
        output.document(&Rendered { format, file: None, report: Some(&report) })?;
    } else if format == ReportFormat::Json {
        output.json(&report)?;
    } else {
        output.raw(report.as_bytes())?;
    }
    Ok(0)
}

fn render(view: &ReportView, format: ReportFormat) -> String {
    match format {
        ReportFormat::Html => report::html::render(view),
        ReportFormat::Json => report::json::render(view),
        ReportFormat::Markdown => report::markdown::render(view),
    }
}
