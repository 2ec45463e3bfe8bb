//! How migrations are undone, and how their way back ends.

use common::clock::WallMs;
use common::failure::{Failure, FailureKind, Retry};
use common::finding::Rule;
use common::view::{MigrationStatus, StepStatus};

use super::Command;
use super::effect::Effect;
use super::host;
use super::lease;
use super::migration::{self, Act, WayBack};
use super::sample::{self, Log, copied, failed, finding, verified};
use super::step::Event;

const DAY_MS: u64 = 24 * 3_600_000;

#[test]
fn a_failed_step_unwinds_in_reverse_and_keeps_the_first_error() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.run("m1", &copied());
    log.grant("m1");
    log.report("m1", failed(FailureKind::Corrupt, Retry::Later));
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    let undo = log.grant("m1");
    assert!(undo.is_undo);
    assert_eq!(log.steps("m1"), [StepStatus::Undoing, StepStatus::Failed]);
    log.report("m1", Event::Succeeded("{}".to_owned()));
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::RolledBack);
    assert_eq!(log.exit_code("m1"), Some(8));
    assert_eq!(log.migration("m1").failures[0].kind, FailureKind::Corrupt);
}

#[test]
fn without_rollback_it_stands_where_it_stopped_and_can_go_either_way() {
    let stands = |log: &mut Log| {
        log.create_with("m1", 1, |options| options.rollback_on_failure = false);
        log.grant("m1");
        log.report("m1", failed(FailureKind::Exhausted, Retry::AfterOperator));
        assert_eq!(log.status("m1"), MigrationStatus::Failed);
        assert!(log.migration("m1").is_rollback_available());
        assert_eq!(log.exit_code("m1"), Some(9));
    };
    let mut log = Log::new();
    stands(&mut log);
    log.act("m1", Act::Retry).unwrap();
    log.complete("m1", &copied(), &verified());
    assert_eq!(log.exit_code("m1"), Some(0));

    let mut log = Log::new();
    stands(&mut log);
    log.act("m1", Act::Rollback).unwrap();
    log.grant("m1");
    log.report("m1", Event::Succeeded("{}".to_owned()));
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::RolledBack);
    assert_eq!(log.exit_code("m1"), Some(9));

    let mut log = Log::new();
    stands(&mut log);
    log.act("m1", Act::Settle).unwrap();
    log.settled("m1");
    assert!(!log.migration("m1").is_rollback_available());
    assert!(log.act("m1", Act::Retry).is_err());
}

#[test]
fn cancel_ends_the_lease_and_undoes() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lease = log.grant("m1");
    let applied = log.act("m1", Act::Cancel).unwrap();
    let ends = |effect: &Effect| matches!(effect, Effect::LeaseEnded { token, .. } if *token == lease.token);
    assert!(applied.effects.iter().any(ends), "{:?}", applied.effects);
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    let undo = log.grant("m1");
    assert!(undo.is_undo && undo.token > lease.token);
    log.report("m1", Event::Succeeded("{}".to_owned()));
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Cancelled);
    assert_eq!(log.exit_code("m1"), Some(130));
    log.act("m1", Act::Cancel).unwrap();
}

#[test]
fn cancel_before_anything_was_done_leaves_nothing_to_settle() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Cancelled);
    assert_eq!(log.migration("m1").way_back, WayBack::Ended);
}

#[test]
fn a_half_done_attempt_is_undone_even_when_its_lease_was_lost() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lease = log.grant("m1");
    let end = lease::Command::End {
        tenant: sample::tenant(),
        migration: "m1".parse().unwrap(),
        step: "file.copy-1".parse().unwrap(),
        token: lease.token,
        reason: "expired".to_owned(),
    };
    log.apply(sample::node(), Command::Lease(end)).unwrap();
    assert_eq!(log.steps("m1")[0], StepStatus::Ready);
    log.act("m1", Act::Cancel).unwrap();
    assert!(log.grant("m1").is_undo);
}

#[test]
fn an_undo_goes_on_after_a_lost_lease_and_gets_stuck_when_it_fails() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.grant("m1");
    log.act("m1", Act::Cancel).unwrap();
    let first = log.grant("m1");
    log.host("web2", host::Change::Started { incarnation: 2 }).unwrap();
    assert_eq!(log.steps("m1")[0], StepStatus::Undoing);
    let second = log.grant("m1");
    assert!(second.token > first.token);
    log.report("m1", failed(FailureKind::Bug, Retry::Never));
    assert_eq!(log.status("m1"), MigrationStatus::Stuck);
    assert_eq!(log.exit_code("m1"), Some(12));
    log.act("m1", Act::Retry).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    log.grant("m1");
    log.report("m1", Event::Succeeded("{}".to_owned()));
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Cancelled);
}

#[test]
fn a_document_keeps_its_way_back_for_the_window() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.origin = common::spec::Origin::Document;
        create.spec = spec.into();
    })
    .unwrap();
    log.complete("m1", &copied(), &verified());
    assert_eq!(log.migration("m1").way_back, WayBack::Open(Some(WallMs(log.now + DAY_MS))));
    let view = log.migration("m1").view(WallMs(log.now), &|_| None, false);
    assert!(view.rollback_available && view.rollback_until.is_some());
    log.act("m1", Act::Rollback).unwrap();
    log.grant("m1");
    log.report("m1", Event::Findings(vec![finding(Rule::KeptAside, "x")]));
    log.report("m1", Event::Succeeded("{}".to_owned()));
    assert_eq!(log.status("m1"), MigrationStatus::RolledBack);
    assert_eq!(log.exit_code("m1"), Some(0));
    // What others changed since is kept aside until somebody settles.
    assert!(matches!(log.migration("m1").way_back, WayBack::Open(Some(_))));
    assert!(!log.migration("m1").is_rollback_available());
}

#[test]
fn a_root_is_taken_until_its_migration_has_ended() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let refused = log.create("m2", 1, |_| {}).unwrap_err();
    assert_eq!(refused.failure().kind, FailureKind::Conflict);
    assert!(refused.failure().message.contains("`m1`"), "{refused}");
    log.complete("m1", &copied(), &verified());
    log.create("m2", 1, |_| {}).unwrap();
}

#[test]
fn a_later_migration_settles_an_earlier_one_once_somebody_agreed() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.rollback_window_ms = Some(DAY_MS));
    log.complete("m1", &copied(), &verified());
    let settles = |create: &mut migration::Create| {
        let mut plan = sample::plan(&create.migration);
        plan.settles = vec!["m1".parse().unwrap()];
        create.plan = plan.into();
    };
    let roots = sample::roots(1);
    assert_eq!(log.state.migrations().settled_by(&sample::tenant(), &roots).unwrap().len(), 1);
    let asks = log.create("m2", 1, settles).unwrap_err();
    assert!(asks.failure().confirmation().is_some());
    let applied = log
        .create("m2", 1, |create| {
            settles(create);
            create.is_confirmed = true;
        })
        .unwrap();
    assert!(applied.effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })));
    // It waits for the stage of the earlier one to be gone.
    assert_eq!(log.status("m2"), MigrationStatus::Queued);
    log.settled("m1");
    assert_eq!(log.status("m2"), MigrationStatus::Running);
}

#[test]
fn time_does_not_undo_what_is_done_and_ending() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.timeout_ms = Some(5_000));
    log.run("m1", &copied());
    log.run("m1", &verified());
    assert!(matches!(log.migration("m1").way_back, WayBack::Settling(_)));
    // The destination's agent is away, and may have removed the undo log before it went.
    log.now += 60_000;
    assert!(log.act("m1", Act::TimeOut).is_err());
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
}

#[test]
fn the_time_for_the_whole_ends_it() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.timeout_ms = Some(5_000));
    log.grant("m1");
    log.now += 4_999;
    assert!(log.act("m1", Act::TimeOut).is_err());
    log.now += 1;
    log.act("m1", Act::TimeOut).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    assert_eq!(log.migration("m1").failures[0].kind, FailureKind::Timeout);
}

#[test]
fn what_is_stuck_holds_no_lease() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut plan = (*create.plan).clone();
        let mut beside = plan.steps[0].clone();
        beside.id = "file.copy-2".parse().unwrap();
        plan.steps.insert(1, beside);
        create.plan = plan.into();
    })
    .unwrap();
    log.run("m1", &copied());
    log.run("m1", &copied());
    log.act("m1", Act::Cancel).unwrap();
    let (one, other) = (log.grant("m1"), log.grant("m1"));
    assert!(one.is_undo && other.is_undo);
    let applied = log.report("m1", failed(FailureKind::Exhausted, Retry::AfterOperator));
    assert_eq!(log.status("m1"), MigrationStatus::Stuck);
    assert!(log.migration("m1").steps.iter().all(|step| step.lease.is_none()));
    let is_told =
        |effect: &Effect| matches!(effect, Effect::LeaseEnded { token, .. } if *token == other.token);
    assert!(applied.effects.iter().any(is_told));
    log.act("m1", Act::Retry).unwrap();
    for _ in 0..2 {
        log.grant("m1");
        log.report("m1", Event::Succeeded("{}".to_owned()));
    }
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Cancelled);
}

#[test]
fn a_dry_run_has_nothing_to_undo_however_it_ends() {
    let dry = |create: &mut migration::Create| {
        let mut spec = sample::spec();
        spec.options.dry_run = true;
        create.spec = spec.into();
        let mut plan = sample::plan(&create.migration);
        plan.steps.truncate(1);
        create.plan = plan.into();
    };
    let mut log = Log::new();
    log.create("m1", 1, dry).unwrap();
    // It changes nothing, so that it takes no root.
    log.create("m2", 1, dry).unwrap();
    log.grant("m1");
    log.report("m1", failed(FailureKind::Invalid, Retry::Never));
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Failed, Some(2)));
    assert!(!log.migration("m1").is_rollback_available() && !log.migration("m1").is_active());
    log.act("m1", Act::Retry).unwrap();
    log.run("m1", &copied());
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Completed, Some(0)));
    log.grant("m2");
    log.act("m2", Act::Cancel).unwrap();
    assert_eq!((log.status("m2"), log.exit_code("m2")), (MigrationStatus::Cancelled, Some(130)));
}

#[test]
fn what_comes_out_of_rest_finds_its_roots_free_or_is_refused() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.rollback_window_ms = Some(DAY_MS));
    log.complete("m1", &copied(), &verified());
    // It reads what the first one wrote, which nobody may undo under its feet.
    let reads = |create: &mut migration::Create| {
        create.roots.source = sample::roots(1).destination;
    };
    log.create("m2", 2, reads).unwrap();
    let refused = log.act("m1", Act::Rollback).unwrap_err();
    assert!(refused.failure().message.contains("`m2`"), "{refused}");
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
    log.complete("m2", &copied(), &verified());
    log.act("m1", Act::Rollback).unwrap();

    // Its check failed after its way back had ended, so that it held nothing.
    log.create("m3", 3, |_| {}).unwrap();
    log.complete("m3", &copied(), &verified());
    let mut step = sample::plan(&"m3".parse().unwrap()).steps.remove(1);
    step.id = "file.verify-2".parse().unwrap();
    log.act("m3", Act::Verify { step }).unwrap();
    log.grant("m3");
    log.report("m3", failed(FailureKind::Corrupt, Retry::Never));
    assert_eq!(log.status("m3"), MigrationStatus::Failed);
    log.create("m4", 3, |_| {}).unwrap();
    let refused = log.act("m3", Act::Retry).unwrap_err();
    assert!(refused.failure().message.contains("`m4`"), "{refused}");
    log.complete("m4", &copied(), &verified());
    log.act("m3", Act::Retry).unwrap();
}

#[test]
fn a_check_can_be_cancelled_while_the_stage_is_still_to_be_removed() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.run("m1", &copied());
    log.run("m1", &verified());
    assert!(log.act("m1", Act::Cancel).is_err(), "its work is done");
    let WayBack::Settling(token) = log.migration("m1").way_back else { panic!("it settles") };
    let failure = Failure::new(FailureKind::Unreachable, "x".repeat(10_000));
    log.act("m1", Act::SettleFailed { token, failure }).unwrap();
    assert!(log.migration("m1").warnings[0].len() < 5_000);
    let mut step = sample::plan(&"m1".parse().unwrap()).steps.remove(1);
    step.id = "file.verify-2".parse().unwrap();
    log.act("m1", Act::Verify { step }).unwrap();
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
}
