//! The life of migrations, told by what operators and agents do.

use common::clock::WallMs;
use common::failure::{Failure, FailureKind, Retry};
use common::fence::FencingToken;
use common::finding::{Finding, Rule, Severity};
use common::host::HostFacts;
use common::step::file::FileOutput;
use common::view::{MigrationStatus, StepStatus};

use super::effect::Effect;
use super::host;
use super::lease::{self, Lease};
use super::migration::{self, Act, Checkpoint, Migration, WayBack};
use super::refusal::Refusal;
use super::sample::{self, Log};
use super::step::Event;
use super::{Applied, Command, Outcome};

impl Log {
    fn migration(&self, id: &str) -> &Migration {
        self.state.migrations().get(&sample::tenant(), &id.parse().unwrap()).unwrap()
    }

    fn status(&self, id: &str) -> MigrationStatus {
        self.migration(id).status
    }

    fn steps(&self, id: &str) -> Vec<StepStatus> {
        self.migration(id).statuses()
    }

    fn exit_code(&self, id: &str) -> Option<u8> {
        self.migration(id).exit_code()
    }

    /// Grants whatever may start; returns the lease.
    fn try_grant(&mut self, id: &str) -> Result<Lease, Refusal> {
        let migration = self.migration(id);
        let startable = migration.startable(WallMs(self.now)).into_iter().next();
        let Some(startable) = startable else {
            return Err(Refusal::new(FailureKind::NotFound, "nothing may start", ""));
        };
        let planned = &migration.plan.steps[startable.place];
        let host = planned.host.clone();
        let command = lease::Command::Grant {
            tenant: sample::tenant(),
            migration: id.parse().unwrap(),
            generation: migration.plan.generation,
            step: planned.id.clone(),
            incarnation: self.state.hosts().get(&sample::tenant(), &host).unwrap().incarnation,
            host,
            is_undo: startable.is_undo,
        };
        match self.apply(sample::node(), Command::Lease(command))?.outcome {
            Outcome::Granted(lease) => Ok(lease),
            other => panic!("{other:?}"),
        }
    }

    fn grant(&mut self, id: &str) -> Lease {
        self.try_grant(id).unwrap()
    }

    /// Reports under the lease that is held.
    fn report(&mut self, id: &str, event: Event) -> Applied {
        let migration = self.migration(id);
        let place = migration.steps.iter().position(|step| step.lease.is_some()).expect("a lease is held");
        let step = migration.plan.steps[place].id.clone();
        let token = migration.steps[place].lease.as_ref().unwrap().token;
        let host = migration.plan.steps[place].host.clone();
        let number = self.state.outboxes().acknowledged(&sample::tenant(), &host) + 1;
        self.report_as(id, step.as_str(), token, number, event)
    }

    fn report_as(&mut self, id: &str, step: &str, token: FencingToken, number: u64, event: Event) -> Applied {
        let command = migration::Command::Event {
            tenant: sample::tenant(),
            host: "web2".parse().unwrap(),
            number,
            migration: id.parse().unwrap(),
            step: step.parse().unwrap(),
            token,
            event,
        };
        self.apply(sample::node(), Command::Migration(command)).unwrap()
    }

    fn run(&mut self, id: &str, output: &FileOutput) {
        self.grant(id);
        self.report(id, Event::Succeeded(serde_json::to_string(output).unwrap()));
    }

    fn settled(&mut self, id: &str) {
        let WayBack::Settling(token) = self.migration(id).way_back else {
            panic!("nothing is being settled")
        };
        self.act(id, Act::Settled { token }).unwrap();
    }

    /// Copies and verifies with these outputs, up to the end.
    fn complete(&mut self, id: &str, copy: &FileOutput, verify: &FileOutput) {
        self.run(id, copy);
        self.run(id, verify);
        if matches!(self.migration(id).way_back, WayBack::Settling(_)) {
            self.settled(id);
        }
    }
}

fn copied() -> FileOutput {
    FileOutput { version: 1, files_total: 3, files_sent: 3, bytes_total: 30, ..FileOutput::default() }
}

fn verified() -> FileOutput {
    FileOutput { version: 1, is_verified: true, ..FileOutput::default() }
}

fn failed(kind: FailureKind, retry: Retry) -> Event {
    Event::Failed(Failure { retry, ..Failure::new(kind, "it did not work") })
}

fn finding(rule: Rule, object: &str) -> Finding {
    Finding {
        rule,
        severity: Severity::Warning,
        object: object.to_owned(),
        message: String::new(),
        hint: String::new(),
    }
}

const DAY_MS: u64 = 24 * 3_600_000;

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
        log.create("m1", 1, |create| {
            let mut spec = sample::spec();
            spec.options.rollback_on_failure = false;
            create.spec = spec.into();
        })
        .unwrap();
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
    let keep = |create: &mut migration::Create| {
        let mut spec = sample::spec();
        spec.options.rollback_window_ms = Some(DAY_MS);
        create.spec = spec.into();
    };
    log.create("m1", 1, keep).unwrap();
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
fn events_count_once_and_only_under_the_lease_that_is_held() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lost = log.grant("m1");
    log.host("web2", host::Change::Started { incarnation: 2 }).unwrap();
    let held = log.grant("m1");
    let output = serde_json::to_string(&copied()).unwrap();
    let late = log.report_as("m1", "file.copy-1", lost.token, 1, Event::Succeeded(output.clone()));
    assert_eq!(late.outcome, Outcome::Acknowledged { number: 1, is_effective: false });
    assert_eq!(log.steps("m1")[0], StepStatus::Leased);
    let good = log.report_as("m1", "file.copy-1", held.token, 2, Event::Succeeded(output.clone()));
    assert_eq!(good.outcome, Outcome::Acknowledged { number: 2, is_effective: true });
    let before = log.state.clone();
    let again = log.report_as("m1", "file.copy-1", held.token, 2, Event::Succeeded(output));
    assert_eq!(again.outcome, Outcome::Acknowledged { number: 2, is_effective: false });
    assert_eq!(log.state, before);
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
fn a_draining_host_takes_nothing_new_and_a_revoked_one_nothing() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.host("web2", host::Change::Drain(true)).unwrap();
    assert!(log.try_grant("m1").is_err());
    log.host("web2", host::Change::Drain(false)).unwrap();
    log.grant("m1");
    log.host("web2", host::Change::Drain(true)).unwrap();
    log.act("m1", Act::Cancel).unwrap();
    assert!(log.grant("m1").is_undo);
    let revoked = log.host("web2", host::Change::Revoke).unwrap();
    assert!(revoked.effects.iter().any(|effect| matches!(effect, Effect::LeaseEnded { .. })));
    assert!(log.try_grant("m1").is_err());
    assert!(log.host("web2", host::Change::Facts(HostFacts::default())).is_err());
}

#[test]
fn the_time_for_the_whole_ends_it() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.options.timeout_ms = Some(5_000);
        create.spec = spec.into();
    })
    .unwrap();
    log.grant("m1");
    log.now += 4_999;
    assert!(log.act("m1", Act::TimeOut).is_err());
    log.now += 1;
    log.act("m1", Act::TimeOut).unwrap();
    assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
    assert_eq!(log.migration("m1").failures[0].kind, FailureKind::Timeout);
}

#[test]
fn what_is_shown_of_a_step_is_what_it_said_in_the_end() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.options.rollback_window_ms = Some(3_600_000);
        create.spec = spec.into();
    })
    .unwrap();
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

#[test]
fn time_does_not_undo_what_is_done_and_ending() {
    let mut log = Log::new();
    log.create("m1", 1, |create| {
        let mut spec = sample::spec();
        spec.options.timeout_ms = Some(5_000);
        create.spec = spec.into();
    })
    .unwrap();
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
fn progress_never_falls() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lease = log.grant("m1");
    let mut shown = Vec::new();
    for done in [50, 90, 20] {
        let progress = common::progress::Progress {
            bytes_done: done,
            bytes_total: 100,
            is_scan_complete: true,
            ..Default::default()
        };
        let checkpoint = Checkpoint {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token: lease.token,
            progress,
        };
        let command =
            migration::Command::Progress { tenant: sample::tenant(), checkpoints: vec![checkpoint] };
        log.apply(sample::node(), Command::Migration(command)).unwrap();
        shown.push(log.migration("m1").view(WallMs(log.now), &|_| None, false).progress);
    }
    assert_eq!(shown, [25.0, 45.0, 45.0]);
}

#[test]
fn nobody_reaches_into_another_tenant() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let stranger =
        common::principal::Principal::Person { tenant: "other".parse().unwrap(), name: "root".to_owned() };
    let act = migration::Command::Act {
        tenant: sample::tenant(),
        migration: "m1".parse().unwrap(),
        act: Act::Cancel,
    };
    let foreign = log.apply(stranger, Command::Migration(act)).unwrap_err();
    assert_eq!(foreign.failure().kind, FailureKind::NotFound);
    assert_eq!(log.status("m1"), MigrationStatus::Running);
}

#[test]
fn a_renewal_is_idempotent_and_a_copy_of_the_key_shows() {
    let mut log = Log::new();
    let renew = |generation, key: &[u8]| host::Change::Renew { generation, public_key: key.to_vec() };
    let web1 =
        |log: &Log| log.state.hosts().get(&sample::tenant(), &"web1".parse().unwrap()).unwrap().clone();
    for _ in 0..2 {
        let renewed = log.host("web1", renew(1, b"second")).unwrap();
        assert_eq!(renewed.outcome, Outcome::Renewed { generation: 2 });
    }
    assert!(web1(&log).accepts(1, &[1]) && web1(&log).accepts(2, b"second"));
    log.host("web1", host::Change::Seen { generation: 2 }).unwrap();
    assert!(!web1(&log).accepts(1, &[1]) && web1(&log).accepts(2, b"second"));
    let copied = log.host("web1", renew(1, b"thief")).unwrap_err();
    assert_eq!(copied.failure().kind, FailureKind::Denied);
}

#[test]
fn only_the_holder_of_a_lease_reports_under_it() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    let lease = log.grant("m1");
    let command = migration::Command::Event {
        tenant: sample::tenant(),
        host: "web1".parse().unwrap(),
        number: 1,
        migration: "m1".parse().unwrap(),
        step: "file.copy-1".parse().unwrap(),
        token: lease.token,
        event: Event::Succeeded("{}".to_owned()),
    };
    let applied = log.apply(sample::node(), Command::Migration(command)).unwrap();
    assert_eq!(applied.outcome, Outcome::Acknowledged { number: 1, is_effective: false });
    assert_eq!(log.steps("m1")[0], StepStatus::Leased);
}

#[test]
fn what_an_agent_says_is_bounded() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.grant("m1");
    let endless = "ä".repeat(100_000);
    log.report("m1", Event::Findings(vec![finding(Rule::Changed, &endless)]));
    let failure = Failure::new(FailureKind::Bug, endless.clone()).hint(endless.clone());
    log.report(
        "m1",
        Event::Failed((0..100).fold(failure, |failure, _| failure.context("path", endless.clone()))),
    );
    let migration = log.migration("m1");
    let failure = &migration.failures[0];
    assert!(failure.message.len() <= 4096 && failure.context.len() <= 16);
    assert!(migration.findings.iter().all(|finding| finding.object.len() <= 4096));
    let disk = common::host::DiskFacts {
        mount_point: "x".repeat(100_000),
        fs_type: String::new(),
        size_bytes: 0,
        free_bytes: 0,
        free_inodes: 0,
        is_read_only: false,
    };
    let facts = HostFacts { disks: vec![disk], ..HostFacts::default() };
    assert!(log.host("web1", host::Change::Facts(facts)).is_err());
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
