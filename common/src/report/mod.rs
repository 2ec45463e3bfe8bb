//! The report of a migration: pure renderers of [`ReportView`].
//!
//! [`document`] says once what a report holds; `html` and `markdown` give it a form, and `json` is the view itself.
//! Names of files come from hosts that nobody vouches for, so every renderer escapes all of what it is given.

use std::time::Duration;

use crate::failure::Failure;
use crate::finding::{Finding, Rule, Severity};
use crate::human;
use crate::step::file::Sanitized;
use crate::step::pass::PassRecord;
use crate::view::{End, MigrationStatus, MigrationView, ReportView, StepStatus, StepView};

mod asked;
pub mod html;
pub mod json;
pub mod markdown;

/// What a report says, before it has a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What the report is about.
    pub title: String,
    /// How it ended, in one sentence.
    pub verdict: String,
    /// Whether everything asked for was done and proven.
    pub is_good: bool,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub heading: &'static str,
    /// What it holds.
    pub body: Body,
    /// A sentence below it.
    pub note: Option<String>,
}

/// What a section holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Names and values.
    Facts(Vec<(&'static str, String)>),
    /// Headings and rows.
    Table {
        /// One for each column.
        headings: Vec<&'static str>,
        /// A cell for each heading.
        rows: Vec<Vec<String>>,
    },
}

/// Returns what the report of a migration says.
pub fn document(view: &ReportView) -> Document {
    let migration = &view.migration;
    let is_dry = view.spec.options.dry_run;
    let heading = if is_dry { "What would move" } else { "What moved" };
    let mut sections = vec![
        Section { heading: "Result", body: Body::Facts(result(migration)), note: None },
        Section { heading, body: Body::Facts(moved(migration, is_dry)), note: None },
    ];
    if !is_dry {
        sections.push(proof(migration));
    }
    if !migration.sanitized.is_empty() {
        sections.push(sanitized(&migration.sanitized));
    }
    if !migration.errors.is_empty() {
        sections.push(errors(&migration.errors));
    }
    if !migration.warnings.is_empty() {
        let rows = migration.warnings.iter().map(|warning| vec![warning.clone()]).collect();
        let body = Body::Table { headings: vec!["Warning"], rows };
        sections.push(Section { heading: "Warnings", body, note: None });
    }
    sections.push(findings(migration));
    if !migration.passes.is_empty() {
        sections.push(passes(migration));
    }
    sections.push(steps(&migration.steps));
    sections.push(Section {
        heading: "What was asked for",
        body: Body::Facts(asked::facts(&view.spec)),
        note: None,
    });
    sections.push(Section { heading: "This report", body: Body::Facts(about(view)), note: None });
    Document {
        title: format!("Migration {}", migration.name),
        verdict: verdict(view),
        is_good: migration.status == MigrationStatus::Completed
            && !migration.partial
            && (migration.verified || is_unproven_as_asked(view)),
        sections,
    }
}

/// What the figures of an undone migration are about.
const BEFORE: &str = "The figures and proofs below are of the time before that.";

/// Whether nothing was to be proven.
fn is_unproven_as_asked(view: &ReportView) -> bool {
    view.spec.options.dry_run || !view.spec.options.verify_after
}

/// Returns how it ended, in one sentence.
fn verdict(view: &ReportView) -> String {
    let migration = &view.migration;
    let sentence = match migration.status.end() {
        Some(End::Completed) if view.spec.options.dry_run => {
            "A dry run: nothing was changed at the destination. The figures below are of what a run would do."
        }
        Some(End::Completed) if migration.verified => {
            "Completed, and everything that was asked for is proven."
        }
        Some(End::Completed) if is_unproven_as_asked(view) && !migration.partial => {
            "Completed. No proof was asked for."
        }
        Some(End::Completed) => "Completed, but not everything is proven: the findings name what is not.",
        Some(End::Stuck) => "Stuck: an undo failed, and a person is needed.",
        Some(End::Failed) => "Failed: it stands where it stopped.",
        Some(End::RolledBack) => {
            return format!("Rolled back: what it did at the destination is undone. {BEFORE}");
        }
        Some(End::Cancelled) => {
            return format!("Cancelled by an operator: what it did at the destination is undone. {BEFORE}");
        }
        None => {
            let status = migration.status.as_str().replace('_', " ");
            let progress = migration.progress;
            return format!(
                "Not ended yet ({status}, {progress:.0} %): the figures below are of this moment."
            );
        }
    };
    sentence.to_owned()
}

fn milliseconds(ms: u64) -> String {
    human::duration(Duration::from_millis(ms))
}

fn result(migration: &MigrationView) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Source", migration.source.clone()),
        ("Destination", migration.destination.clone()),
        ("Status", migration.status.as_str().replace('_', " ")),
        ("Verified", if migration.verified { "yes" } else { "no" }.to_owned()),
        ("Began", human::moment(migration.created)),
    ];
    facts.extend(migration.ended.map(|ended| ("Ended", human::moment(ended))));
    facts.push(("Duration", milliseconds(migration.duration_ms)));
    if migration.downtime_ms > 0 || migration.downtime_predicted_ms > 0 {
        let predicted = milliseconds(migration.downtime_predicted_ms);
        facts.push(("Downtime", format!("{} (predicted {predicted})", milliseconds(migration.downtime_ms))));
    }
    let steps = format!("{} of {} ended well", migration.steps_completed, migration.steps_total);
    facts.push(("Steps", steps));
    facts.push(("Way back", way_back(migration)));
    facts.push(("Made by", migration.principal.clone()));
    facts.push(("Id", migration.id.to_string()));
    facts.extend(migration.exit_code.map(|code| ("Exit code", code.to_string())));
    facts
}

fn way_back(migration: &MigrationView) -> String {
    match (migration.rollback_available, migration.rollback_until) {
        (true, Some(until)) => format!("open until {}", human::moment(until)),
        (true, None) => "open".to_owned(),
        (false, _) => "closed".to_owned(),
    }
}

/// Returns what it cost the source's host.
fn source_cost(migration: &MigrationView) -> Vec<(&'static str, String)> {
    let (Some(mean), Some(peak)) = (migration.source_load.mean, migration.source_load.peak) else {
        return Vec::new();
    };
    let percent = |mean: f64, peak: f64| format!("{mean:.0} % on average, {peak:.0} % at most");
    let mut facts = vec![
        ("Source's agent, of one processor", percent(mean.cpu_percent, peak.cpu_percent)),
        ("Source's disks waited for", percent(mean.io_pressure_percent, peak.io_pressure_percent)),
        ("Source's load", format!("{:.2} on average, {:.2} at most", mean.load, peak.load)),
    ];
    if migration.source_load.throttled_s > 0 {
        let held = milliseconds(migration.source_load.throttled_s.saturating_mul(1_000));
        facts.push(("Source held back for its load", held));
    }
    facts
}

fn moved(migration: &MigrationView, is_dry: bool) -> Vec<(&'static str, String)> {
    let at_least = if migration.is_estimate { "at least " } else { "" };
    let files = human::count(migration.files_total);
    let (sent, deleted) = match is_dry {
        true => ("Would be sent", "Would be deleted at the destination"),
        false => ("Sent", "Deleted at the destination"),
    };
    let mut facts = vec![
        ("Files and other entries", format!("{at_least}{files}, directories not counted")),
        (sent, human::count(migration.files_sent)),
        (deleted, human::count(migration.deleted)),
        ("Content", format!("{at_least}{}", exact_bytes(migration.bytes_total))),
        ("On the wire", exact_bytes(migration.bytes_on_wire)),
    ];
    if !is_dry {
        let duration_ms = migration.duration_ms;
        facts.extend([
            ("Sent again after interruptions", exact_bytes(migration.bytes_resent)),
            ("Taken from what was there", exact_bytes(migration.bytes_deduplicated)),
            ("Compressed on the way", compressed(migration)),
            ("Rate of content, what was there already included", rate(migration.bytes_done, duration_ms)),
            ("Rate on the wire", rate(migration.bytes_on_wire, duration_ms)),
            ("Rate of files, what was there already included", files_rate(migration.files_done, duration_ms)),
        ]);
    }
    facts.extend(source_cost(migration));
    facts
}

/// Returns bytes with a unit and to the last one: `1.50 KiB (1 536 bytes)`.
fn exact_bytes(count: u64) -> String {
    if count < 1000 {
        return human::plural(count, "byte");
    }
    format!("{} ({})", human::bytes(count), human::plural(count, "byte"))
}

/// Returns a mean rate; nothing can be said of what took no time.
fn rate(bytes: u64, duration_ms: u64) -> String {
    per_second(bytes, duration_ms).map_or_else(|| "-".to_owned(), human::rate)
}

fn files_rate(files: u64, duration_ms: u64) -> String {
    let rate = per_second(files, duration_ms);
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", human::count(rate)))
}

fn per_second(amount: u64, duration_ms: u64) -> Option<u64> {
    let rate = (u128::from(amount) * 1000).checked_div(u128::from(duration_ms))?;
    Some(u64::try_from(rate).unwrap_or(u64::MAX))
}

fn proof(migration: &MigrationView) -> Section {
    let proof = &migration.proof;
    let row = |level: &str, files, bytes| vec![level.to_owned(), human::count(files), exact_bytes(bytes)];
    let rows = vec![
        row(
            "Content read again at the destination, equal by digest",
            proof.content_files,
            proof.content_bytes,
        ),
        row(
            "Links, special files, and what was there already; kind, size, time and metadata equal",
            proof.metadata_files,
            proof.metadata_bytes,
        ),
        row("Not proven; each has a finding", proof.unproven_files, proof.unproven_bytes),
        vec!["Digest of the source's tree".to_owned(), String::new(), digest(migration.source_digest)],
        vec![
            "Digest of the destination's tree".to_owned(),
            String::new(),
            digest(migration.destination_digest),
        ],
    ];
    let note = match (migration.source_digest, migration.destination_digest) {
        (Some(_), Some(_)) if migration.status.is_taken_back() => {
            Some("These are of the time before it was undone; they say nothing of what stands there now.")
        }
        (Some(source), Some(destination)) if source == destination => {
            Some("Both trees have the same digest.")
        }
        (Some(_), Some(_)) => Some(
            "The digests differ: entries that were left out, kept or changed meanwhile are in the findings.",
        ),
        (None, _) | (_, None) => None,
    };
    Section {
        heading: "Proof",
        body: Body::Table { headings: vec!["Level", "Files", "Bytes"], rows },
        note: note.map(str::to_owned),
    }
}

fn sanitized(rules: &[Sanitized]) -> Section {
    let rows = rules.iter().map(|rule| vec![rule.rule.clone(), human::count(rule.files)]).collect();
    let note = "Each was dropped, replaced or masked before it left the source; a masked file that is listed under the findings was not copied.";
    let body = Body::Table { headings: vec!["Rule", "Files"], rows };
    Section { heading: "Sanitised", body, note: Some(note.to_owned()) }
}

fn digest(digest: Option<crate::digest::Digest>) -> String {
    digest.map_or_else(|| "-".to_owned(), |digest| digest.to_string())
}

fn errors(errors: &[Failure]) -> Section {
    let row = |error: &Failure| {
        let nouns: Vec<String> =
            error.context.iter().map(|(field, value)| format!("{field}: {value}")).collect();
        vec![
            error.kind.to_string(),
            error.message.clone(),
            nouns.join(", "),
            error.hint.clone().unwrap_or_default(),
        ]
    };
    let rows = errors.iter().map(row).collect();
    let headings = vec!["Kind", "What happened", "Where", "What to do"];
    Section { heading: "Errors", body: Body::Table { headings, rows }, note: None }
}

fn findings(migration: &MigrationView) -> Section {
    let mut findings: Vec<&Finding> = migration.findings.iter().collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.rule));
    let row = |finding: &&Finding| {
        vec![
            severity(finding.severity).to_owned(),
            rule(finding.rule).to_owned(),
            finding.object.clone(),
            finding.message.clone(),
            finding.hint.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    let shown = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    let left = migration.findings_total.saturating_sub(shown);
    let note = match (shown, left) {
        (0, 0) => Some("Nothing was found.".to_owned()),
        (_, 0) => None,
        (_, left) => Some(format!(
            "And {}: `ctl report {} --all` lists them.",
            human::plural(left, "more finding"),
            migration.id
        )),
    };
    let headings = vec!["Severity", "Rule", "Object", "What was found", "What to do"];
    Section { heading: "Findings", body: Body::Table { headings, rows }, note }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Returns a rule as people read it.
fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Vanished => "vanished",
        Rule::Changed => "changed",
        Rule::Unreadable => "unreadable",
        Rule::Conflict => "conflict",
        Rule::Corrupt => "corrupt",
        Rule::Unwritable => "unwritable",
        Rule::UnknownOwner => "unknown owner",
        Rule::Attribute => "attribute",
        Rule::HardLink => "hard link",
        Rule::SpecialFile => "special file",
        Rule::NotDeleted => "not deleted",
        Rule::Stage => "stage",
        Rule::InTheWay => "in the way",
        Rule::KeptAside => "kept aside",
        Rule::Capacity => "capacity",
        Rule::Differs => "differs",
        Rule::Plan => "plan",
        Rule::NotSanitized => "not sanitised",
        Rule::LeftOut => "left out",
    }
}

/// Returns a figure of a step's progress, unless it is older than the step's end: progress is kept every few seconds
/// only, and what was kept last is not the result.
fn figure(step: &StepView, value: String) -> String {
    let progress = &step.progress;
    let is_final = progress.is_scan_complete && progress.files_done == progress.files_total;
    if is_final || step.status == StepStatus::Leased { value } else { "-".to_owned() }
}

fn steps(steps: &[StepView]) -> Section {
    let row = |step: &StepView| {
        vec![
            step.id.to_string(),
            step.host.to_string(),
            // The status is a serde word; there is one way to spell it.
            serde_json::to_value(step.status)
                .ok()
                .and_then(|word| word.as_str().map(|word| word.replace('_', " ")))
                .unwrap_or_default(),
            step.attempts.to_string(),
            figure(step, human::count(step.progress.files_done)),
            figure(step, human::bytes(step.progress.bytes_done)),
            milliseconds(step.duration_ms),
            figure(step, rate(step.progress.bytes_done, step.duration_ms)),
        ]
    };
    let headings = vec!["Step", "Host", "Status", "Attempts", "Files", "Bytes", "Duration", "Rate"];
    let rows = steps.iter().map(row).collect();
    Section { heading: "Steps", body: Body::Table { headings, rows }, note: None }
}

fn passes(migration: &MigrationView) -> Section {
    let row = |pass: &PassRecord| {
        vec![
            human::count(u64::from(pass.number)),
            pass.step.to_string(),
            match &pass.why {
                Some(why) => format!("{}: {why}", pass.scan.as_str()),
                None => pass.scan.as_str().to_owned(),
            },
            human::count(pass.entries),
            human::count(pass.files_changed),
            human::bytes(pass.bytes_changed),
            human::rate(pass.changed_bytes_per_s),
            milliseconds(pass.duration_ms),
        ]
    };
    let rows: Vec<Vec<String>> = migration.passes.iter().map(row).collect();
    let left = migration.passes_total.saturating_sub(u64::try_from(rows.len()).unwrap_or(u64::MAX));
    let note = (left > 0)
        .then(|| format!("And {} before those.", human::plural(left, "pass").replace("passs", "passes")));
    let headings =
        vec!["Pass", "Step", "Scan", "Looked at", "Changed", "Content", "Changed at the source", "Duration"];
    Section { heading: "Passes", body: Body::Table { headings, rows }, note }
}

fn compressed(migration: &MigrationView) -> String {
    match migration.bytes_compressed {
        0 => "nothing".to_owned(),
        bytes => format!("{}, to {}", exact_bytes(bytes), exact_bytes(migration.bytes_compressed_to)),
    }
}

fn about(view: &ReportView) -> Vec<(&'static str, String)> {
    let mut facts =
        vec![("Made", human::moment(view.made)), ("Plan", format!("generation {}", view.plan.generation))];
    if !view.plan.settles.is_empty() {
        let settled: Vec<&str> = view.plan.settles.iter().map(|migration| migration.as_str()).collect();
        facts.push(("Ended the way back of", settled.join(", ")));
    }
    facts.extend(view.support_contact.clone().map(|contact| ("Support", contact)));
    facts
}

#[cfg(test)]
mod tests;
