//! A migration for people: where it stands, what moved, what was proven and what was found.

use std::time::Duration;

use common::cost::CostView;
use common::finding::{Finding, Severity};
use common::human;
use common::reach::Reach;
use common::view::{MigrationStatus, MigrationView, StepStatus, StepView};

use crate::output::line::line;
use crate::output::pace::Pace;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// Findings that are shown without being asked for; the rest is in the report.
const FINDINGS_SHOWN_MAX: usize = 10;

/// Returns what a status means.
pub(crate) fn meaning(status: MigrationStatus) -> Meaning {
    match status {
        MigrationStatus::Completed => Meaning::Good,
        MigrationStatus::Failed | MigrationStatus::Stuck => Meaning::Bad,
        MigrationStatus::Unwinding
        | MigrationStatus::RolledBack
        | MigrationStatus::Cancelled
        | MigrationStatus::Paused
        | MigrationStatus::AwaitingApproval
        | MigrationStatus::AwaitingCutover => Meaning::Caution,
        MigrationStatus::Draft
        | MigrationStatus::Planned
        | MigrationStatus::Queued
        | MigrationStatus::Running
        | MigrationStatus::CuttingOver => Meaning::Plain,
    }
}

/// Returns a status as people read it.
pub(crate) fn word(status: MigrationStatus) -> String {
    status.as_str().replace('_', " ")
}

/// Returns where a migration stands and what it did.
pub(crate) fn text(view: &MigrationView, width: Option<usize>, is_verbose: bool) -> Text {
    let mut text = Text::new();
    text.push(meaning(view.status), word(view.status))
        .plain(format!("  {} to {}", view.source, view.destination))
        .end_line();
    text.field("id", Meaning::Plain, view.id.as_str());
    if !view.status.is_end() {
        text.field(
            "progress",
            Meaning::Plain,
            line(view, view.progress, Pace { bytes_per_s: view.bytes_per_s, eta_ms: view.eta_ms }),
        );
    }
    text.field("steps", Meaning::Plain, format!("{} of {} done", view.steps_completed, view.steps_total));
    text.append(moved(view));
    text.append(freeze(view));
    match view.reach {
        Some(Reach::SourceDials) => {
            let why = "the source dials, because the destination does not reach it";
            text.field("reach", Meaning::Plain, why);
        }
        Some(Reach::Relayed) => {
            text.field("reach", Meaning::Plain, "relayed by a third host, encrypted");
        }
        Some(Reach::DestinationDials) | None => {}
    }
    if let Some(transport) = view.transport {
        text.field("transport", Meaning::Plain, transport.as_str());
    }
    text.append(pacing(view));
    text.append(source_cost(view));
    if !view.priority.is_normal() && !view.status.is_end() {
        text.field("priority", Meaning::Plain, view.priority.as_str());
    }
    if let Some(limit) = &view.waits_for {
        text.field("waits", Meaning::Plain, limit);
    }
    if let Some(since) = view.paused_since {
        let how = format!("since {}: `ctl resume {}` goes on", human::moment(since), view.id);
        text.field("paused", Meaning::Plain, how);
    }
    if view.rollback_available {
        let until = view.rollback_until.map(|until| format!(" until {}", human::moment(until)));
        let how = format!("open{}: `ctl rollback {}`", until.unwrap_or_default(), view.id);
        text.field("way back", Meaning::Plain, how);
    }
    if matches!(view.status, MigrationStatus::Failed | MigrationStatus::Stuck) {
        let how = format!("`ctl retry {}`, once what is told below is mended", view.id);
        text.field("way on", Meaning::Plain, how);
    }
    if is_verbose {
        text.field("made", Meaning::Plain, format!("{} by {}", human::moment(view.created), view.principal));
        text.append(digests(view));
        text.append(steps(&view.steps, width));
    }
    for warning in &view.warnings {
        text.push(Meaning::Caution, "  warning: ").plain(warning).end_line();
    }
    text.append(errors(view));
    text.append(findings(view, is_verbose));
    text
}

/// Returns what it costs the source's host, now or in all.
fn source_cost(view: &MigrationView) -> Text {
    let mut text = Text::new();
    let said = |cost: &CostView| {
        let CostView { cpu_percent, io_pressure_percent, load } = cost;
        format!(
            "{cpu_percent:.0} % of a processor, {io_pressure_percent:.0} % of the time waits for disks, load {load:.2}"
        )
    };
    match (&view.source_load.now, &view.source_load.mean, &view.source_load.peak) {
        (Some(now), _, _) => text.field("source", Meaning::Plain, said(now)),
        (None, Some(mean), Some(peak)) => text
            .field("source", Meaning::Plain, format!("on average {}", said(mean)))
            .field("", Meaning::Plain, format!("at most {}", said(peak))),
        (None, _, _) => &mut text,
    };
    if let Some(throttled) = throttled(view) {
        text.field("throttled", Meaning::Caution, throttled);
    }
    text
}

/// Returns why the source holds back, if it does.
pub(crate) fn throttled(view: &MigrationView) -> Option<String> {
    let (cost, max_load) = (view.source_load.now.filter(|_| view.source_load.is_throttled)?, view.max_load?);
    Some(format!("by the source's load {:.2}, which may be below {max_load}", cost.load))
}

/// Returns how fast it may go.
fn pacing(view: &MigrationView) -> Text {
    let mut text = Text::new();
    let now = view.bandwidth_now.map(human::rate);
    let limit = match (now, &view.bandwidth_limit) {
        (None, None) => return text,
        (now, None) => now.unwrap_or_default(),
        (None, Some(limit)) if view.current_step.is_none() => limit.to_string(),
        (None, Some(limit)) => format!("no limit now ({limit})"),
        (Some(now), Some(limit)) => format!("at most {now} now ({limit})"),
    };
    if !view.status.is_end() {
        text.field("limit", Meaning::Plain, limit);
    }
    text
}

/// Returns how often it was caught up, and how long the source must or had to be still for it.
fn freeze(view: &MigrationView) -> Text {
    let mut text = Text::new();
    let Some(last) = view.passes.last().filter(|_| view.passes_total > 1) else { return text };
    let entries = human::plural(last.files_changed, "entry").replace("entrys", "entries");
    let how = match &last.why {
        Some(why) => format!("{} scan: {why}", last.scan.as_str()),
        None => format!("{} scan", last.scan.as_str()),
    };
    let took = human::duration(Duration::from_millis(last.duration_ms));
    let last = format!(
        "{}, the last changed {entries} ({}, {} at the source) in {took}; {how}",
        view.passes_total,
        human::bytes(last.bytes_changed),
        human::rate(last.changed_bytes_per_s)
    );
    text.field("passes", Meaning::Plain, last);
    let time = |ms| human::duration(Duration::from_millis(ms));
    if view.downtime_ms > 0 {
        let predicted = time(view.downtime_predicted_ms);
        text.field("freeze", Meaning::Plain, format!("{} (predicted {predicted})", time(view.downtime_ms)));
    } else if view.downtime_predicted_ms > 0 && !view.status.is_end() {
        text.field(
            "freeze",
            Meaning::Plain,
            format!("predicted freeze {}", time(view.downtime_predicted_ms)),
        );
    }
    if view.status == MigrationStatus::AwaitingCutover {
        let how = format!("`ctl cutover {}`, once nobody writes at the source any more", view.id);
        text.field("way on", Meaning::Plain, how);
    }
    text
}

/// Returns what moved and what was proven.
fn moved(view: &MigrationView) -> Text {
    let mut text = Text::new();
    if view.files_total == 0 && view.status != MigrationStatus::Completed {
        return text;
    }
    let duration = human::duration(Duration::from_millis(view.duration_ms));
    text.field(
        "files",
        Meaning::Plain,
        format!(
            "{} in all, {} {}",
            human::count(view.files_total),
            human::count(view.files_sent),
            if view.dry_run { "would be sent" } else { "sent" }
        ),
    );
    let mut bytes = format!(
        "{} in all, {} on the wire",
        human::bytes(view.bytes_total),
        human::bytes(view.bytes_on_wire)
    );
    if view.bytes_resent > 0 {
        bytes.push_str(&format!(", {} sent again", human::bytes(view.bytes_resent)));
    }
    if view.bytes_deduplicated > 0 {
        bytes.push_str(&format!(", {} were there already", human::bytes(view.bytes_deduplicated)));
    }
    text.field("bytes", Meaning::Plain, bytes);
    if view.deleted > 0 {
        text.field(
            "deleted",
            Meaning::Plain,
            human::plural(view.deleted, "entry").replace("entrys", "entries"),
        );
    }
    text.field("time", Meaning::Plain, duration);
    // What was proven of a tree that was undone since says nothing of what stands there now.
    if matches!(view.status, MigrationStatus::Completed | MigrationStatus::Failed) {
        let (meaning, verified) = verified(view);
        text.field("verified", meaning, verified);
    }
    text
}

/// Returns what was proven, in one phrase.
fn verified(view: &MigrationView) -> (Meaning, String) {
    let proof = &view.proof;
    let files = |files, bytes, how| {
        (files > 0).then(|| format!("{how} of {} ({})", human::plural(files, "file"), human::bytes(bytes)))
    };
    let parts: Vec<String> = [
        files(proof.content_files, proof.content_bytes, "content"),
        files(proof.metadata_files, proof.metadata_bytes, "size, time and metadata"),
        files(proof.unproven_files, proof.unproven_bytes, "nothing"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let how = if parts.is_empty() { String::new() } else { format!(": {}", parts.join("; ")) };
    if view.verified { (Meaning::Good, format!("yes{how}")) } else { (Meaning::Caution, format!("no{how}")) }
}

fn digests(view: &MigrationView) -> Text {
    let mut text = Text::new();
    for (name, digest) in [("source", view.source_digest), ("destination", view.destination_digest)] {
        if let Some(digest) = digest {
            text.field(name, Meaning::Plain, format!("digest {digest}"));
        }
    }
    text
}

/// Returns the steps as a table.
fn steps(steps: &[StepView], width: Option<usize>) -> Text {
    if steps.is_empty() {
        return Text::new();
    }
    let mut table = Table::new(&[
        ("STEP", Layout::Left),
        ("STATUS", Layout::Left),
        ("HOST", Layout::Flexible),
        ("ATTEMPTS", Layout::Right),
        ("TIME", Layout::Right),
    ]);
    for step in steps {
        table.row([
            (Meaning::Plain, step.id.to_string()),
            step_status(step.status),
            (Meaning::Plain, step.host.to_string()),
            (Meaning::Plain, step.attempts.to_string()),
            (Meaning::Plain, human::duration(Duration::from_millis(step.duration_ms))),
        ]);
    }
    let mut text = Text::new();
    text.end_line().append(table.render(width));
    text
}

fn step_status(status: StepStatus) -> (Meaning, String) {
    let (meaning, word) = match status {
        StepStatus::Blocked => (Meaning::Faint, "blocked"),
        StepStatus::Ready => (Meaning::Plain, "ready"),
        StepStatus::Leased => (Meaning::Plain, "running"),
        StepStatus::CaughtUp => (Meaning::Good, "caught up"),
        StepStatus::Succeeded => (Meaning::Good, "succeeded"),
        StepStatus::Failed => (Meaning::Bad, "failed"),
        StepStatus::Undoing => (Meaning::Caution, "undoing"),
        StepStatus::Undone => (Meaning::Caution, "undone"),
        StepStatus::Stuck => (Meaning::Bad, "stuck"),
    };
    (meaning, word.to_owned())
}

/// Returns what stopped the migration.
fn errors(view: &MigrationView) -> Text {
    let mut text = Text::new();
    for error in &view.errors {
        text.push(Meaning::Bad, "  error").plain(format!(" ({}): {}", error.kind, error.message)).end_line();
        for (field, value) in &error.context {
            text.push(Meaning::Faint, format!("    {field}: ")).plain(value).end_line();
        }
        if let Some(hint) = &error.hint {
            text.push(Meaning::Strong, "    hint: ").plain(hint).end_line();
        }
    }
    text
}

/// Returns the findings, the worst first.
fn findings(view: &MigrationView, is_verbose: bool) -> Text {
    let mut text = Text::new();
    let mut findings: Vec<&Finding> = view.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let shown_max = if is_verbose { findings.len() } else { FINDINGS_SHOWN_MAX };
    for finding in findings.iter().take(shown_max) {
        let (meaning, word) = severity(finding.severity);
        text.push(meaning, format!("  {word}: "))
            .plain(format!("{}: {}", finding.object, finding.message))
            .end_line();
        if !finding.hint.is_empty() {
            text.push(Meaning::Faint, format!("    hint: {}", finding.hint)).end_line();
        }
    }
    let shown = u64::try_from(findings.len().min(shown_max)).unwrap_or(u64::MAX);
    let left = view.findings_total.saturating_sub(shown);
    if left > 0 {
        let more = format!("  and {}: `ctl report {} --all`", human::plural(left, "more finding"), view.id);
        text.push(Meaning::Faint, more).end_line();
    }
    text
}

/// Returns a severity as people read it.
pub(crate) fn severity(severity: Severity) -> (Meaning, &'static str) {
    match severity {
        Severity::Notice => (Meaning::Faint, "notice"),
        Severity::Warning => (Meaning::Caution, "warning"),
        Severity::Error => (Meaning::Bad, "error"),
    }
}

#[cfg(test)]
mod tests {
    use common::failure::{Failure, FailureKind};
    use common::finding::Rule;
    use common::step::file::Proof;

    use super::*;
    use crate::output::progress::tests::view;

    #[test]
    fn a_completed_migration_says_what_moved_and_what_was_proven() {
        let completed = MigrationView {
            status: MigrationStatus::Completed,
            steps_completed: 2,
            verified: true,
            is_estimate: false,
            proof: Proof { content_files: 1_200, content_bytes: 1 << 20, ..Proof::default() },
            rollback_available: true,
            ..view()
        };
        assert_eq!(
            text(&completed, None, false).render(false),
            "completed  web1:/var/www/shop to web2:/var/www/shop\n  \
             id          b7k2m9x4qz\n  \
             steps       2 of 2 done\n  \
             files       4 000 in all, 1 200 sent\n  \
             bytes       2.00 MiB in all, 488 KiB on the wire\n  \
             time        5.0 s\n  \
             verified    yes: content of 1 200 files (1.00 MiB)\n  \
             way back    open: `ctl rollback b7k2m9x4qz`\n"
        );
    }

    #[test]
    fn a_dry_run_has_sent_nothing() {
        let compared = MigrationView { status: MigrationStatus::Completed, dry_run: true, ..view() };
        assert!(text(&compared, None, false).render(false).contains("4 000 in all, 1 200 would be sent"));
    }

    #[test]
    fn what_was_undone_is_not_called_proven() {
        let proof = Proof { content_files: 3, content_bytes: 9, ..Proof::default() };
        let undone = MigrationView { status: MigrationStatus::RolledBack, proof, ..view() };
        assert!(!text(&undone, None, false).render(false).contains("verified"));
    }

    #[test]
    fn a_failed_one_says_why_with_hints_and_the_worst_findings_first() {
        let finding = |severity, object: &str| Finding {
            rule: Rule::Changed,
            severity,
            object: object.to_owned(),
            message: "kept changing".to_owned(),
            hint: "run it again".to_owned(),
        };
        let failed = MigrationView {
            status: MigrationStatus::Failed,
            errors: vec![
                Failure::new(FailureKind::Exhausted, "no space").hint("make room").context("host", "web2"),
            ],
            findings: vec![finding(Severity::Notice, "a"), finding(Severity::Error, "b\x1b[2J")],
            findings_total: 9,
            sanitized: Vec::new(),
            ..view()
        };
        let shown = text(&failed, None, false).render(false);
        let at = |needle: &str| shown.find(needle).unwrap_or_else(|| panic!("{needle:?} is not in {shown}"));
        assert!(at("error (exhausted): no space") < at("host: web2"));
        assert!(at("host: web2") < at("hint: make room"));
        assert!(at("error: b\\u{1b}[2J: kept changing") < at("notice: a"));
        assert!(at("notice: a") < at("and 7 more findings"));
    }
}
