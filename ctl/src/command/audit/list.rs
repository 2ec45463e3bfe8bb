//! `ctl audit list`.

use common::audit::line::Line;
use common::clock::{self, WallMs};
use common::human;
use proto::v1::AuditListRequest;

use super::call;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// Lines in one answer.
const PAGE_LINES: u32 = 500;

/// Show who changed what in your tenant, and what was refused, newest first
///
/// Refusals of one caller from one address are one line for each minute, with their number.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Not older than this: 24h, 7d, or a moment as 2026-11-21T08:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Older than this, written in the same way
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Only of who has this in the name, as `root` or `agent:`
    #[arg(long, value_name = "TEXT")]
    principal: Option<String>,
    /// Only about what has this in the name
    #[arg(long, value_name = "TEXT")]
    object: Option<String>,
    /// Only what begins with this, as `migration.` or `host.revoke`
    #[arg(long, value_name = "TEXT")]
    action: Option<String>,
    /// Only what was done, or only what was refused
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<Outcome>,
    /// At most this many lines
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    limit: usize,
    /// All lines, however many
    #[arg(long)]
    all: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Outcome {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
}

/// Runs `ctl audit list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let limit = if args.all { usize::MAX } else { args.limit };
    let mut request = request(args, clock::wall())?;
    let client = context.client()?;
    let mut lines: Vec<Line> = Vec::new();
    while lines.len() < limit {
        let (part, next) = call::list(&client, &request).await?;
        lines.extend(part);
        if next.is_empty() || next == request.from {
            break;
        }
        request.from = next;
    }
    lines.truncate(limit);
    context.output.answer(&lines, |lines| text(lines, context.output.width()))?;
    Ok(0)
}

fn request(args: ListArgs, now: WallMs) -> Result<AuditListRequest, CommandError> {
    let ListArgs { since, until, principal, object, action, outcome, limit, all } = args;
    let moment = |text: Option<String>| match text {
        None => Ok(0),
        Some(text) => human::parse_moment(&text, now).map(|wall| wall.0).map_err(|error| {
            CommandError::invalid(error.to_string(), "write 24h for a day ago, or 2026-11-21T08:00:00Z")
        }),
    };
    let outcome = match outcome {
        None => "",
        Some(Outcome::Done) => "done",
        Some(Outcome::Refused) => "refused",
    };
    Ok(AuditListRequest {
        from: String::new(),
        limit: if all { PAGE_LINES } else { u32::try_from(limit).unwrap_or(PAGE_LINES).clamp(1, PAGE_LINES) },
        since_ms: moment(since)?,
        until_ms: moment(until)?,
        principal: principal.unwrap_or_default(),
        object: object.unwrap_or_default(),
        action: action.unwrap_or_default(),
        outcome: outcome.to_owned(),
    })
}

fn text(lines: &[Line], width: Option<usize>) -> Text {
    if lines.is_empty() {
        return Text::line("No such lines in the audit of your tenant.");
    }
    let mut table = Table::new(&[
        ("LINE", Layout::Right),
        ("TIME", Layout::Left),
        ("WHO", Layout::Flexible),
        ("FROM", Layout::Left),
        ("WHAT", Layout::Flexible),
        ("OBJECT", Layout::Flexible),
        ("OUTCOME", Layout::Flexible),
    ]);
    for line in lines {
        let times = if line.count > 1 {
            format!("{} × ", human::count(u64::from(line.count)))
        } else {
            String::new()
        };
        let outcome = match &line.refused {
            None => (Meaning::Good, "done".to_owned()),
            Some(reason) => (Meaning::Bad, format!("{times}refused: {reason}")),
        };
        table.row([
            // Who may not see the audit of all tenants is not told where its lines stand in it.
            (Meaning::Faint, if line.number == 0 { String::new() } else { line.number.to_string() }),
            (Meaning::Plain, human::moment(line.at)),
            (Meaning::Strong, line.principal.clone()),
            (Meaning::Plain, line.address.clone().unwrap_or_default()),
            (Meaning::Plain, line.action.clone()),
            (Meaning::Plain, line.object.clone()),
            outcome,
        ]);
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use common::digest::Digest;

    use super::*;

    #[test]
    fn a_refusal_says_how_often_and_why() {
        let digest = Digest::of(b"");
        let line = Line {
            number: 12,
            at: WallMs(1_763_700_000_000),
            index: 1,
            tenant: "default".parse().unwrap(),
            principal: "user:default/eve".to_owned(),
            address: Some("192.0.2.7".to_owned()),
            action: "control.revoke_host".to_owned(),
            object: String::new(),
            refused: Some("eve may not revoke hosts".to_owned()),
            count: 1_200,
            salt: digest,
            previous: digest,
            hash: digest,
        };
        let done = Line { number: 11, refused: None, count: 1, ..line.clone() };
        let shown = text(&[line, done], None).render(false);
        assert!(shown.contains("1 200 × refused: eve may not revoke hosts"), "{shown}");
        assert!(shown.lines().nth(2).is_some_and(|line| line.trim_end().ends_with("done")), "{shown}");
        assert!(text(&[], None).render(false).contains("No such lines"));
    }
}
