//! The life of migrations, told by what operators and agents do.

use common::clock::WallMs;
use common::failure::{FailureKind, Retry};
use common::fence::FencingToken;
use common::finding::Rule;
use common::phase::Phase;
use common::plan::PlannedStep;
use common::spec::{CatchUpSpec, Cutover};
use common::step::StepKind;
use common::step::file::FileOutput;
use common::view::{MigrationStatus, StepStatus};

use super::lease;
use super::migration::{self, Act, Checkpoint};
use super::sample::{self, Log, copied, failed, finding, verified};
use super::step::Event;
use super::{Command, Outcome, host};

#[test]
fn a_plain_migration_runs_to_its_end() {
    let mut log = Log::new();
    let applied = log.create("m1", 1, |_| {}).unwrap();
    assert!(matches!(applied.outcome, Outcome::Created { is_new: true, .. }));
    assert_eq!(log.status("m1"), MigrationStatus::Running);
    assert_eq!(log.steps("m1"), [StepStatus::Ready, StepStatus::Blocked]);
    log.run("m1", &copied());
    assert_eq!(log.steps("m1"), [StepStatus::Succeeded, StepStatus::Ready]);
    log.run("m1", &verified());
    // Who waits for the end finds a clean tree, so the stage goes first.
    assert_eq!(log.status("m1"), MigrationStatus::Running);
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
    assert_eq!(log.exit_code("m1"), Some(0));
    let view = log.migration("m1").view(WallMs(log.now), &|_| None, true);
    assert!(view.verified && !view.rollback_available);
    assert_eq!((view.files_total, view.bytes_total, view.progress), (3, 30, 100.0));
    assert!(!log.migration("m1").is_active());
}

#[test]
fn a_repeated_request_makes_no_second_migration() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let again = log.create("m2", 2, |create| create.request_id = "request-m1".to_owned()).unwrap();
    assert_eq!(again.outcome, Outcome::Created { migration: "m1".parse().unwrap(), is_new: false });
    assert_eq!(log.state.migrations().table().len(), 1);
}

#[test]
fn exit_codes_follow_what_was_proven() {
    let partial = FileOutput { is_partial: true, ..copied() };
    let unproven = FileOutput { is_verified: false, ..verified() };
    for (copy, verify, conflict, expected) in [
        (copied(), verified(), false, 0),
        (partial.clone(), verified(), false, 7),
        (copied(), unproven, false, 7),
        (partial, verified(), true, 5),
    ] {
        let mut log = Log::new();
        log.create("m1", 1, |_| {}).unwrap();
        log.run("m1", &copy);
        log.grant("m1");
        if conflict {
            log.report("m1", Event::Findings(vec![finding(Rule::Conflict, "x")]));
        }
        log.report("m1", Event::Succeeded(serde_json::to_string(&verify).unwrap()));
        log.settled("m1");
        assert_eq!(log.exit_code("m1"), Some(expected));
    }
}

#[test]
fn what_may_pass_waits_and_is_tried_again() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.grant("m1");
    log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
    assert_eq!(log.status("m1"), MigrationStatus::Running);
    assert!(log.try_grant("m1").is_err());
    log.now += 1_000;
    assert_eq!(log.grant("m1").attempt, 2);
}

#[test]
fn a_step_that_waits_can_be_hurried_and_no_other() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let hurry = |log: &mut Log| {
        let (tenant, migration) = (sample::tenant(), "m1".parse().unwrap());
        let step = "file.copy-1".parse().unwrap();
        let command = lease::Command::Hurry { tenant, migration, step };
        log.apply(sample::node(), Command::Lease(command))
    };
    log.grant("m1");
    assert!(hurry(&mut log).is_err(), "it runs");
    log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
    assert!(log.try_grant("m1").is_err(), "it waits");
    hurry(&mut log).unwrap();
    assert_eq!(log.migration("m1").steps[0].failures, 1, "the failure still counts");
    log.grant("m1");
}

#[test]
fn a_check_of_a_completed_migration_changes_nothing_but_what_is_known() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.complete("m1", &copied(), &verified());
    let mut step = sample::plan(&"m1".parse().unwrap()).steps.remove(1);
    step.id = "file.verify-2".parse().unwrap();
    log.act("m1", Act::Verify { step: step.clone() }).unwrap();
    assert_eq!((log.status("m1"), log.migration("m1").plan.generation), (MigrationStatus::Running, 2));
    log.grant("m1");
    log.report("m1", failed(FailureKind::Corrupt, Retry::Later));
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Failed, Some(8)));
    step.id = "file.verify-3".parse().unwrap();
    log.act("m1", Act::Verify { step }).unwrap();
    log.run("m1", &verified());
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Completed, Some(0)));
}

#[test]
fn what_an_earlier_check_found_is_not_counted_once_another_looked() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let total = |log: &Log| log.migration("m1").view(WallMs(log.now), &|_| None, true).findings_total;
    log.run("m1", &FileOutput { findings_total: 1, ..copied() });
    log.run("m1", &FileOutput { findings_total: 5, ..verified() });
    log.settled("m1");
    assert_eq!(total(&log), 6);
    let mut step = sample::plan(&"m1".parse().unwrap()).steps.remove(1);
    step.id = "file.verify-2".parse().unwrap();
    step.after = Vec::new();
    log.act("m1", Act::Verify { step }).unwrap();
    log.run("m1", &FileOutput { findings_total: 2, ..verified() });
    assert_eq!(total(&log), 3);
}

#[test]
fn what_is_shown_of_a_step_is_what_it_said_in_the_end() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.rollback_window_ms = Some(3_600_000));
    log.grant("m1");
    log.now += 2_000;
    log.report("m1", Event::Succeeded(serde_json::to_string(&copied()).unwrap()));
    log.run("m1", &verified());
    let view = |log: &Log| log.migration("m1").view(WallMs(log.now), &|_| None, true);
    let copy = view(&log).steps[0].progress;
    assert_eq!((copy.files_done, copy.files_total, copy.bytes_done), (3, 3, 30));
    assert_eq!(view(&log).duration_ms, 2_000);
    // Nobody works on it for half an hour; then the undo takes five seconds.
    log.now += 1_800_000;
    log.act("m1", Act::Rollback).unwrap();
    log.grant("m1");
    log.now += 5_000;
    assert_eq!(view(&log).duration_ms, 7_000, "it grows while the undo runs");
    log.report("m1", Event::Succeeded("{}".to_owned()));
    log.settled("m1");
    log.now += 60_000;
    assert_eq!(view(&log).duration_ms, 7_000);
}

/// Stores a checkpoint of the copy: so many bytes of a hundred.
fn checkpoint(log: &mut Log, token: FencingToken, bytes_done: u64) {
    let progress = common::progress::Progress {
        bytes_done,
        bytes_total: 100,
        is_scan_complete: true,
        ..Default::default()
    };
    let (migration, step) = ("m1".parse().unwrap(), "file.copy-1".parse().unwrap());
    let checkpoints = vec![Checkpoint { migration, step, token, progress }];
    let command = migration::Command::Progress { tenant: sample::tenant(), checkpoints };
    log.apply(sample::node(), Command::Migration(command)).unwrap();
}

/// Fails attempts that each come as far as told, and returns the seconds that each waits for the next.
fn waits(log: &mut Log, come_to: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut waits = Vec::new();
    for bytes_done in come_to {
        let lease = log.grant("m1");
        // It reaches the source, and says what it knows before it looks.
        checkpoint(log, lease.token, 0);
        checkpoint(log, lease.token, bytes_done);
        log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
        let Some(due) = log.migration("m1").steps[0].not_before else { break };
        waits.push((due.0 - log.now) / 1_000);
        log.now = due.0;
    }
    waits
}

#[test]
fn attempts_that_come_no_further_are_counted() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    // The first one came somewhere, and all the others just there again.
    let waits = waits(&mut log, std::iter::repeat(50));
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    assert_eq!(log.migration("m1").failures[0].kind, FailureKind::Unreachable);
}

#[test]
fn attempts_that_each_come_a_little_further_go_on_but_not_in_haste() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let waits = waits(&mut log, 1..=15);
    assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16]);
    let lease = log.grant("m1");
    log.now += 60_000;
    checkpoint(&mut log, lease.token, 90);
    assert_eq!(log.migration("m1").steps[0].failures, 0, "a minute of work forgives all");
}

#[test]
fn progress_never_falls() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lease = log.grant("m1");
    let mut shown = Vec::new();
    for done in [50, 90, 20] {
        checkpoint(&mut log, lease.token, done);
        shown.push(log.migration("m1").view(WallMs(log.now), &|_| None, false).progress);
    }
    assert_eq!(shown, [25.0, 45.0, 45.0]);
}

/// A migration that catches up, as far as the first proof.
fn caught_up_soon(cutover: Cutover) -> Log {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.transfer.catch_up = Some(CatchUpSpec { cutover, ..CatchUpSpec::default() });
        spec.options.rollback_window_ms = Some(60_000);
        create.spec = spec.into();
        let mut plan = sample::plan(&create.migration);
        let template = plan.steps[0].clone();
        let step = |id: &str, kind, phase, after: &str, is_continuous| PlannedStep {
            id: id.parse().unwrap(),
            kind,
            phase,
            after: vec![after.parse().unwrap()],
            is_continuous,
            ..template.clone()
        };
        plan.steps.push(step("catch-up", StepKind::FileCatchUp, Phase::CatchUp, "file.verify-1", true));
        plan.steps.push(step("finish", StepKind::FileFinish, Phase::Freeze, "catch-up", false));
        create.plan = plan.into();
    })
    .unwrap();
    log.run("m1", &copied());
    log.run("m1", &verified());
    log.grant("m1");
    log
}

/// Ends the continuous step, whose lease is the first that is held.
fn end_catching_up(log: &mut Log) {
    log.report("m1", Event::Succeeded(serde_json::to_string(&copied()).unwrap()));
}

#[test]
fn the_last_pass_follows_by_itself_once_it_is_caught_up() {
    let mut log = caught_up_soon(Cutover::Auto);
    let so_far = FileOutput { freeze_predicted_ms: Some(1_200), ..copied() };
    log.report("m1", Event::SoFar(serde_json::to_string(&so_far).unwrap()));
    assert_eq!(log.migration("m1").view(WallMs(log.now), &|_| None, true).downtime_predicted_ms, 1_200);
    assert!(log.act("m1", Act::Cutover).is_err());
    log.report("m1", Event::CaughtUp(5));
    assert_eq!(log.status("m1"), MigrationStatus::CuttingOver);
    assert_eq!(log.steps("m1")[2..], [StepStatus::CaughtUp, StepStatus::Ready]);
    assert_eq!(log.migration("m1").asked_to_finish(), []);
    log.grant("m1");
    assert_eq!(log.migration("m1").asked_to_finish().len(), 1);
    end_catching_up(&mut log);
    log.now += 700;
    log.report("m1", Event::Succeeded(serde_json::to_string(&copied()).unwrap()));
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
    assert_eq!(log.migration("m1").view(WallMs(log.now), &|_| None, true).downtime_ms, 700);
}

#[test]
fn a_person_lets_the_last_pass_begin() {
    let mut log = caught_up_soon(Cutover::Manual);
    let refused = log.act("m1", Act::Cutover).unwrap_err().into_failure();
    assert!(refused.message.contains("not caught up yet"), "{refused}");
    log.report("m1", Event::CaughtUp(5));
    assert_eq!(log.status("m1"), MigrationStatus::AwaitingCutover);
    assert_eq!(log.steps("m1")[2..], [StepStatus::CaughtUp, StepStatus::Blocked]);
    // What keeps it caught up is lost: it begins again, and nothing else does.
    log.host("web2", host::Change::Started { incarnation: 2 }).unwrap();
    assert_eq!(log.steps("m1")[2..], [StepStatus::Ready, StepStatus::Blocked]);
    log.act("m1", Act::Cutover).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::CuttingOver);
    log.act("m1", Act::Cutover).unwrap();
    log.grant("m1");
    assert!(log.try_grant("m1").is_err(), "the last pass waits until it is caught up again");
    log.report("m1", Event::CaughtUp(5));
    log.grant("m1");
    end_catching_up(&mut log);
    log.report("m1", failed(FailureKind::Exhausted, Retry::AfterOperator));
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
}

#[test]
fn what_kept_it_caught_up_does_not_begin_again_once_the_last_pass_has_begun() {
    let mut log = caught_up_soon(Cutover::Manual);
    log.report("m1", Event::CaughtUp(5));
    log.act("m1", Act::Cutover).unwrap();
    log.grant("m1");
    log.host("web2", host::Change::Started { incarnation: 2 }).unwrap();
    assert_eq!(log.steps("m1")[2..], [StepStatus::Succeeded, StepStatus::Ready]);
    assert_eq!(log.status("m1"), MigrationStatus::CuttingOver);
    log.run("m1", &copied());
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
}

#[test]
fn time_does_not_run_while_a_person_is_awaited() {
    let mut log = caught_up_soon(Cutover::Manual);
    log.report("m1", Event::CaughtUp(5));
    log.now += 1_000_000_000;
    assert!(log.act("m1", Act::TimeOut).is_err());
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    assert_eq!(log.steps("m1")[2..], [StepStatus::Failed, StepStatus::Blocked]);
}
