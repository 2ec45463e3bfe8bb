//! What an operator changes of a migration while it runs.

use common::bandwidth::Bandwidth;
use common::clock::WallMs;
use common::control::{ControlChange, HostLimitChange, Priority};
use common::failure::{FailureKind, Retry};
use common::view::{MigrationStatus, StepStatus};

use super::access::command::Command as Access;
use super::effect::Effect;
use super::migration::Act;
use super::sample::{self, Log, copied, failed, verified};
use super::step::Event;
use super::{Command, host, snapshot};

fn running() -> Log {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log
}

#[test]
fn a_pause_ends_the_lease_and_what_goes_on_is_no_failure() {
    let mut log = running();
    let lease = log.grant("m1");
    let paused = log.act("m1", Act::Pause).unwrap();
    let told = |effect: &Effect| matches!(effect, Effect::LeaseEnded { token, .. } if *token == lease.token);
    assert!(paused.effects.iter().any(told), "{paused:?}");
    assert_eq!(log.status("m1"), MigrationStatus::Paused);
    assert_eq!(log.steps("m1"), [StepStatus::Ready, StepStatus::Blocked]);
    assert!(log.try_grant("m1").is_err(), "nothing starts");
    // What the agent had to say comes too late.
    let (token, copied_text) = (lease.token, serde_json::to_string(&copied()).unwrap());
    log.report_as("m1", "file.copy-1", token, 1, Event::Succeeded(copied_text));
    assert_eq!(log.steps("m1"), [StepStatus::Ready, StepStatus::Blocked]);
    let before = log.state.clone();
    assert!(log.act("m1", Act::Pause).is_ok(), "it is paused already");
    assert_eq!(
        log.migration("m1").control,
        before.migrations().get(&sample::tenant(), &"m1".parse().unwrap()).unwrap().control
    );
    log.act("m1", Act::Resume).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Running);
    let again = log.grant("m1");
    assert!(again.token > lease.token);
    assert_eq!((again.attempt, log.migration("m1").steps[0].failures), (2, 0));
    log.report("m1", Event::Succeeded(serde_json::to_string(&copied()).unwrap()));
    log.run("m1", &verified());
    log.settled("m1");
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Completed, Some(0)));
    for act in [Act::Pause, Act::Resume] {
        assert_eq!(log.act("m1", act).unwrap_err().failure().kind, FailureKind::Conflict);
    }
}

#[test]
fn the_time_of_a_pause_is_no_time_of_the_migration() {
    let mut log = Log::new();
    log.create_with("m1", 1, |options| options.timeout_ms = Some(10_000));
    log.grant("m1");
    log.now += 9_000;
    log.act("m1", Act::Pause).unwrap();
    log.now += 1_000_000;
    assert!(log.act("m1", Act::TimeOut).is_err(), "it does not run");
    log.act("m1", Act::Resume).unwrap();
    assert!(log.act("m1", Act::TimeOut).is_err(), "a second is left");
    log.now += 1_000;
    log.act("m1", Act::TimeOut).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
}

#[test]
fn a_paused_migration_can_be_taken_back() {
    for (act, end, code) in [
        (Act::Cancel, MigrationStatus::Cancelled, FailureKind::Cancelled.exit_code()),
        (Act::Rollback, MigrationStatus::RolledBack, 0),
    ] {
        let mut log = running();
        log.grant("m1");
        log.act("m1", Act::Pause).unwrap();
        assert!(log.migration("m1").is_rollback_available());
        log.act("m1", act).unwrap();
        assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
        assert!(log.act("m1", Act::Pause).is_err(), "an undo is not held up");
        assert!(log.act("m1", Act::Resume).is_ok(), "there is nothing to go on with");
        assert!(log.grant("m1").is_undo);
        log.report("m1", Event::Succeeded("{}".to_owned()));
        log.settled("m1");
        assert_eq!((log.status("m1"), log.exit_code("m1")), (end, Some(code)));
    }
}

#[test]
fn what_was_never_begun_is_cancelled_and_not_rolled_back() {
    let mut log = running();
    log.act("m1", Act::Pause).unwrap();
    assert!(log.act("m1", Act::Rollback).is_err());
    assert!(log.act("m1", Act::Retry).unwrap_err().failure().hint.as_ref().unwrap().contains("ctl resume"));
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Cancelled);
}

#[test]
fn a_paused_migration_gives_its_place_away_and_waits_for_another() {
    let mut log = Log::new();
    let limit = Access::LimitTenant { name: sample::tenant(), migrations_max: Some(1) };
    log.apply(sample::operator(), Command::Access(limit)).unwrap();
    log.create("m1", 1, |_| {}).unwrap();
    log.create("m2", 2, |_| {}).unwrap();
    assert_eq!((log.status("m1"), log.status("m2")), (MigrationStatus::Running, MigrationStatus::Queued));
    log.act("m1", Act::Pause).unwrap();
    assert_eq!(log.status("m2"), MigrationStatus::Running);
    log.act("m1", Act::Resume).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Queued);
    log.act("m1", Act::Pause).unwrap();
    log.act("m2", Act::Cancel).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Paused, "it waits for nobody but the operator");
    log.act("m1", Act::Resume).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Running);
}

#[test]
fn a_check_of_what_has_completed_can_be_held_up_too() {
    let mut log = running();
    log.complete("m1", &copied(), &verified());
    let mut step = sample::plan(&"m1".parse().unwrap()).steps.remove(1);
    step.id = "file.verify-2".parse().unwrap();
    log.act("m1", Act::Verify { step }).unwrap();
    log.grant("m1");
    log.act("m1", Act::Pause).unwrap();
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!((log.status("m1"), log.migration("m1").control.paused), (MigrationStatus::Completed, None));
}

#[test]
fn a_wait_before_the_next_try_goes_on_after_a_pause() {
    let mut log = running();
    log.grant("m1");
    log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
    log.act("m1", Act::Pause).unwrap();
    log.act("m1", Act::Resume).unwrap();
    assert!(log.try_grant("m1").is_err());
    log.now += 1_000;
    log.grant("m1");
}

#[test]
fn a_pause_survives_a_snapshot() {
    let mut log = running();
    log.act("m1", Act::Pause).unwrap();
    let mut bytes = Vec::new();
    snapshot::write(&log.state, &mut bytes).unwrap();
    let read = snapshot::read(&mut bytes.as_slice()).unwrap();
    assert_eq!(read, log.state);
    let found = read.migrations().get(&sample::tenant(), &"m1".parse().unwrap()).unwrap();
    assert_eq!(found.control.paused, Some(WallMs(log.now)));
}

fn set(log: &mut Log, id: &str, limit: &str) -> Result<super::Applied, super::refusal::Refusal> {
    let change = ControlChange { bandwidth_limit: Some(limit.parse().unwrap()), ..ControlChange::default() };
    log.act(id, Act::Set(change))
}

#[test]
fn what_is_set_holds_over_the_spec_and_every_attempt() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.transfer.bandwidth_limit = Some(Bandwidth::always(7));
        create.spec = spec.into();
    })
    .unwrap();
    let limit = |log: &Log| log.migration("m1").bandwidth().map(ToString::to_string);
    assert_eq!(limit(&log).as_deref(), Some("7"));
    set(&mut log, "m1", "08:00-20:00=1MiB,else=none").unwrap();
    log.grant("m1");
    log.act("m1", Act::Pause).unwrap();
    set(&mut log, "m1", "none").unwrap();
    log.act("m1", Act::Resume).unwrap();
    assert_eq!(limit(&log).as_deref(), Some("none"), "no limit in the place of the spec's");
    assert_eq!(log.migration("m1").view(WallMs(0), &|_| None, false).bandwidth_limit, None);
    let mut bytes = Vec::new();
    snapshot::write(&log.state, &mut bytes).unwrap();
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), log.state);
    assert!(log.act("m1", Act::Set(ControlChange::default())).is_err(), "nothing is to be changed");
    log.act("m1", Act::Cancel).unwrap();
    assert!(set(&mut log, "m1", "1MiB").is_err(), "it is being undone");
    log.create("m2", 2, |_| {}).unwrap();
    log.complete("m2", &copied(), &verified());
    assert_eq!(set(&mut log, "m2", "1MiB").unwrap_err().failure().kind, FailureKind::Conflict);
}

fn limit_host(log: &mut Log, name: &str, migrations: u32) {
    let change = HostLimitChange { bandwidth: None, migrations: Some(migrations) };
    log.host(name, host::Change::Limit(change)).unwrap();
}

#[test]
fn the_limit_of_a_host_queues_what_it_works_on_and_nobody_else() {
    use MigrationStatus::{Cancelled, Queued, Running};
    let mut log = Log::new();
    limit_host(&mut log, "web2", 1);
    for number in 1..=3 {
        log.create(&format!("m{number}"), number, |_| {}).unwrap();
    }
    log.now += 1;
    // One that goes the other way round works on both hosts too; one within another host does not.
    log.create("back", 8, |create| {
        std::mem::swap(&mut create.roots.source.host, &mut create.roots.destination.host);
    })
    .unwrap();
    log.create("aside", 9, |create| create.roots.destination.host = "web1".parse().unwrap()).unwrap();
    let statuses = |log: &Log| ["m1", "m2", "m3", "back", "aside"].map(|id| log.status(id));
    assert_eq!(statuses(&log), [Running, Queued, Queued, Queued, Running]);
    let waits = log.state.migrations().waits_for(log.migration("m2")).unwrap();
    assert!(waits.contains("web2"), "{waits}");
    assert_eq!(log.state.migrations().waits_for(log.migration("m1")), None);
    limit_host(&mut log, "web2", 2);
    assert_eq!(statuses(&log), [Running, Running, Queued, Queued, Running]);
    log.act("m1", Act::Cancel).unwrap();
    assert_eq!(statuses(&log), [Cancelled, Running, Running, Queued, Running], "a place is free");
    let mut bytes = Vec::new();
    snapshot::write(&log.state, &mut bytes).unwrap();
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), log.state);
    limit_host(&mut log, "web2", 0);
    assert_eq!(log.status("back"), Running);
    assert!(log.state.migrations().host_limits(&sample::tenant(), &"web2".parse().unwrap()).is_empty());
    assert!(log.host("web9", host::Change::Limit(HostLimitChange::default())).is_err());
    assert!(log.host("web1", host::Change::Limit(HostLimitChange::default())).is_err(), "nothing is limited");
}

#[test]
fn what_has_the_higher_priority_starts_first() {
    let mut log = Log::new();
    limit_host(&mut log, "web2", 1);
    log.create("m1", 1, |_| {}).unwrap();
    for (number, priority) in
        [(2, Priority::Low), (3, Priority::Normal), (4, Priority::Normal), (5, Priority::High)]
    {
        log.now += 1;
        log.create(&format!("m{number}"), number, |create| {
            let mut spec = sample::spec();
            spec.transfer.priority = priority;
            create.spec = spec.into();
        })
        .unwrap();
    }
    let change = ControlChange { priority: Some(Priority::High), ..ControlChange::default() };
    log.act("m4", Act::Set(change)).unwrap();
    for (ended, next) in [("m1", "m4"), ("m4", "m5"), ("m5", "m3"), ("m3", "m2")] {
        log.act(ended, Act::Cancel).unwrap();
        assert_eq!(log.status(next), MigrationStatus::Running, "{next} comes after {ended}");
    }
}
