//! A report of a hostile migration, in all forms.

use super::{Body, document, html, json, markdown};
use crate::clock::WallMs;
use crate::digest::Digest;
use crate::failure::{Failure, FailureKind};
use crate::finding::{Finding, Rule, Severity};
use crate::phase::Phase;
use crate::plan::{PLAN_VERSION, Plan};
use crate::progress::Progress;
use crate::spec::{MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec, TransferSpec};
use crate::step::StepKind;
use crate::step::file::Proof;
use crate::view::{MigrationStatus, MigrationView, ReportView, StepStatus, StepView};

/// Markup of both forms, a terminal's command, and a change of direction.
const HOSTILE: &str = "<script>alert(1)</script>\"'|`*_[x](y)\u{1b}[2J\n\u{202e}gpj";

fn side(location: &str) -> SideSpec {
    SideSpec { location: location.parse().unwrap(), exclude: vec!["*.log".to_owned()], include: Vec::new() }
}

fn migration() -> MigrationView {
    MigrationView {
        id: "b7k2m9x4qz".parse().unwrap(),
        tenant: "default".parse().unwrap(),
        name: HOSTILE.to_owned(),
        status: MigrationStatus::Completed,
        progress: 100.0,
        is_estimate: false,
        current_step: None,
        steps_completed: 2,
        steps_total: 2,
        eta_ms: None,
        downtime_predicted_ms: 0,
        downtime_ms: 0,
        passes: Vec::new(),
        passes_total: 0,
        rollback_available: true,
        rollback_until: Some(WallMs(1_763_809_508_000)),
        settling: false,
        paused_since: None,
        bandwidth_limit: None,
        bandwidth_now: None,
        waits_for: None,
        priority: Default::default(),
        max_load: None,
        source_load: Default::default(),
        errors: vec![Failure::new(FailureKind::Exhausted, HOSTILE).context("path", HOSTILE).hint(HOSTILE)],
        warnings: vec![HOSTILE.to_owned()],
        verified: false,
        partial: true,
        files_total: 12_345,
        files_sent: 12_000,
        files_done: 12_344,
        bytes_total: 1 << 30,
        bytes_done: 1 << 30,
        bytes_on_wire: 700_000_000,
        bytes_resent: 1_536,
        bytes_deduplicated: 0,
        bytes_compressed: 0,
        bytes_compressed_to: 0,
        reach: None,
        transport: None,
        bytes_per_s: 0,
        deleted: 3,
        duration_ms: 10_000,
        principal: "user:default/admin".to_owned(),
        created: WallMs(1_763_723_108_000),
        ended: Some(WallMs(1_763_723_118_000)),
        source: "web1:/srv".to_owned(),
        destination: "web2:/srv".to_owned(),
        steps: vec![step()],
        findings: vec![finding(Severity::Notice, "later"), finding(Severity::Error, HOSTILE)],
        findings_total: 5,
        dry_run: false,
        sanitized: Vec::new(),
        proof: Proof { content_files: 12_000, content_bytes: 1 << 29, unproven_files: 1, ..Proof::default() },
        source_digest: Some(Digest::of(b"a")),
        destination_digest: Some(Digest::of(b"b")),
        exit_code: Some(7),
    }
}

fn step() -> StepView {
    StepView {
        id: "file.copy-1".parse().unwrap(),
        kind: StepKind::FileCopy,
        phase: Phase::Copy,
        status: StepStatus::Succeeded,
        host: "web2".parse().unwrap(),
        attempts: 2,
        progress: Progress { files_done: 12_344, bytes_done: 1 << 30, ..Progress::default() },
        duration_ms: 8_000,
        failure: None,
    }
}

fn finding(severity: Severity, object: &str) -> Finding {
    Finding {
        rule: Rule::Changed,
        severity,
        object: object.to_owned(),
        message: "kept changing while it was read".to_owned(),
        hint: "run it again".to_owned(),
    }
}

fn view() -> ReportView {
    ReportView {
        version: 1,
        migration: migration(),
        spec: MigrationSpec {
            version: SPEC_VERSION,
            name: "srv".to_owned(),
            source: side("web1:/srv"),
            destination: side("web2:/srv"),
            transfer: TransferSpec { delete: true, ..TransferSpec::default() },
            options: OptionsSpec::default(),
            sanitize: None,
            origin: Origin::Flags,
            labels: crate::grant::Labels::new(),
        },
        plan: Plan {
            version: PLAN_VERSION,
            migration: "b7k2m9x4qz".parse().unwrap(),
            generation: 1,
            parent: None,
            steps: Vec::new(),
            settles: Vec::new(),
        },
        made: WallMs(1_763_723_119_000),
        support_contact: Some("ops@example.com".to_owned()),
    }
}

/// Finds a fact of the document.
fn fact(name: &str) -> String {
    let document = document(&view());
    let facts = document.sections.iter().filter_map(|section| match &section.body {
        Body::Facts(facts) => Some(facts),
        Body::Table { .. } => None,
    });
    let value = facts.flatten().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
    value.unwrap_or_else(|| panic!("the report has no fact {name:?}"))
}

#[test]
fn says_what_moved_how_long_and_how_fast() {
    assert_eq!(fact("Files and other entries"), "12 345, directories not counted");
    assert_eq!(fact("Content"), "1.00 GiB (1 073 741 824 bytes)");
    assert_eq!(fact("Sent again after interruptions"), "1.50 KiB (1 536 bytes)");
    assert_eq!(fact("Duration"), "10.0 s");
    assert_eq!(fact("Rate of content, what was there already included"), "102 MiB/s");
    assert_eq!(fact("Rate of files, what was there already included"), "1 234/s");
    assert_eq!(fact("Way back"), "open until 2025-11-22 11:05:08 UTC");
    assert_eq!(fact("Delete what the source lacks"), "yes, up to 50 % of the entries");
}

#[test]
fn says_what_was_proven_and_what_was_found() {
    let text = markdown::render(&view());
    for needle in [
        "not everything is proven",
        "| Content read again at the destination, equal by digest | 12 000 | 512 MiB (536 870 912 bytes) |",
        "| Links, special files, and what was there already; kind, size, time and metadata equal |",
        "| Not proven; each has a finding | 1 | 0 bytes |",
        &Digest::of(b"a").to_string(),
        &Digest::of(b"b").to_string(),
        "The digests differ",
        "And 3 more findings: \\`ctl report b7k2m9x4qz --all\\` lists them.",
        "ops@example.com",
    ] {
        assert!(text.contains(needle), "{needle:?} is not in\n{text}");
    }
    let worst = text.find("| error | changed |").unwrap();
    assert!(worst < text.find("| notice | changed |").unwrap(), "the worst finding does not come first");
}

#[test]
fn html_stands_alone_and_nothing_in_it_is_foreign_markup() {
    let page = html::render(&view());
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for forbidden in
        ["<script", "href=", "src=", "http://", "https://", "\u{1b}", "\u{202e}", "@import", "url("]
    {
        assert!(!page.contains(forbidden), "{forbidden:?} is in the page");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;|"), "{page}");
    assert!(page.contains("name=\"viewport\"") && page.contains("@media print"));
    let (opened, closed) = (page.matches("<td").count(), page.matches("</td>").count());
    assert_eq!(opened, closed);
}

#[test]
fn markdown_keeps_foreign_text_inside_its_cell() {
    let text = markdown::render(&view());
    assert!(!text.contains("<script") && !text.contains('\u{1b}') && !text.contains('\u{202e}'));
    let row = text.lines().find(|line| line.starts_with("| error | changed |")).unwrap();
    let bare = row.replace("\\|", "");
    assert_eq!(bare.matches('|').count(), 6, "{row}");
}

#[test]
fn json_is_the_view() {
    let text = json::render(&view());
    assert_eq!(serde_json::from_str::<ReportView>(&text).unwrap(), view());
}

#[test]
fn a_migration_that_found_nothing_says_so() {
    let mut clean = view();
    clean.migration.findings.clear();
    clean.migration.findings_total = 0;
    clean.migration.errors.clear();
    clean.migration.verified = true;
    clean.migration.partial = false;
    let document = document(&clean);
    assert!(document.is_good);
    assert!(markdown::render(&clean).contains("Nothing was found."));
    assert!(!markdown::render(&clean).contains("## Errors"));
}

#[test]
fn a_dry_run_and_one_without_proof_say_what_they_are() {
    let mut view = view();
    view.migration.partial = false;
    view.spec.options.verify_after = false;
    assert!(document(&view).is_good && document(&view).verdict.contains("No proof was asked for"));
    view.spec.options.dry_run = true;
    let text = markdown::render(&view);
    assert!(document(&view).is_good && text.contains("A dry run: nothing was changed"), "{text}");
    assert!(text.contains("- Would be sent: 12 000") && !text.contains("\n- Sent:"), "{text}");
    assert!(!text.contains("- Rate"), "{text}");
    assert!(!text.contains("## Proof") && !text.contains("## What moved"), "{text}");
}

#[test]
fn what_was_undone_is_told_as_the_past() {
    let mut undone = view();
    undone.migration.status = MigrationStatus::RolledBack;
    undone.migration.destination_digest = undone.migration.source_digest;
    let text = markdown::render(&undone);
    assert!(text.contains("of the time before"), "{text}");
    assert!(!text.contains("Both trees have the same digest"), "{text}");
    assert!(!document(&undone).is_good);
}

#[test]
fn progress_that_is_older_than_a_steps_end_is_no_result() {
    let row = |view: &ReportView| {
        let text = markdown::render(view);
        text.lines().find(|line| line.starts_with("| file.copy-1")).unwrap().to_owned()
    };
    let mut stale = view();
    assert_eq!(row(&stale), "| file.copy-1 | web2 | succeeded | 2 | - | - | 8.0 s | - |");
    stale.migration.steps[0].progress.is_scan_complete = true;
    stale.migration.steps[0].progress.files_total = 12_344;
    assert_eq!(row(&stale), "| file.copy-1 | web2 | succeeded | 2 | 12 344 | 1.00 GiB | 8.0 s | 128 MiB/s |");
}
