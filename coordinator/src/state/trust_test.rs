//! Who is believed what, and how much of it.

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::{Failure, FailureKind, Retry};
use common::finding::{Finding, Rule};
use common::host::HostFacts;
use common::progress::Progress;
use common::view::{MigrationStatus, StepStatus};

use super::effect::Effect;
use super::host;
use super::migration::{self, Act, Checkpoint};
use super::sample::{self, Log, copied, failed, finding, verified};
use super::step::Event;
use super::{Command, Outcome, snapshot};

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
    // Nobody can put back what was begun there, and nobody waits for it.
    assert!(matches!(log.ask("m1"), Ok(Outcome::Done)));
    assert_eq!((log.status("m1"), log.exit_code("m1")), (MigrationStatus::Stuck, Some(12)));
    assert!(log.host("web2", host::Change::Facts(HostFacts::default())).is_err());
    enroll_again(&mut log, "web2");
    log.act("m1", Act::Retry).unwrap();
    assert!(log.grant("m1").is_undo);
}

fn enroll_again(log: &mut Log, name: &str) {
    let token = Digest::of(b"again");
    log.host(name, host::Change::Invite { token, expires: WallMs(u64::MAX) }).unwrap();
    log.host(name, host::Change::Enroll { token, public_key: vec![2] }).unwrap();
    log.host(name, host::Change::Started { incarnation: 9 }).unwrap();
}

#[test]
fn a_revoked_destination_fails_what_was_to_be_changed_there() {
    for may_unwind in [false, true] {
        let mut log = Log::new();
        log.create_with("m1", 1, |options| options.rollback_on_failure = may_unwind);
        log.run("m1", &copied());
        log.host("web2", host::Change::Revoke).unwrap();
        assert!(matches!(log.ask("m1"), Ok(Outcome::Done)));
        let failure = log.migration("m1").failures[0].clone();
        assert_eq!((failure.kind, failure.retry), (FailureKind::Denied, Retry::Never));
        assert!(failure.message.contains("nothing is changed on the host `web2`"), "{failure}");
        if may_unwind {
            assert!(matches!(log.ask("m1"), Ok(Outcome::Done)));
            assert_eq!(log.status("m1"), MigrationStatus::Stuck);
            let told = log.migration("m1").failures.last().unwrap().message.clone();
            assert!(told.contains("nothing can be put back on the host `web2`"), "{told}");
        } else {
            assert_eq!(log.status("m1"), MigrationStatus::Failed);
        }
    }
}

#[test]
fn a_verification_that_needs_a_revoked_source_fails_with_its_first_attempt() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.run("m1", &copied());
    log.host("web1", host::Change::Revoke).unwrap();
    log.grant("m1");
    log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
    log.now += 60_000;
    assert!(matches!(log.ask("m1"), Ok(Outcome::Done)));
    let failure = log.migration("m1").failures[0].clone();
    assert_eq!(failure.kind, FailureKind::Denied);
    assert!(failure.message.contains("nothing is read from the host `web1`"), "{failure}");
}

#[test]
fn an_agent_that_ends_now_and_then_loses_nothing() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    for round in 1..40 {
        let token = log.grant("m1").token;
        let progress = Progress { bytes_done: round, ..Progress::default() };
        let checkpoint = Checkpoint {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token,
            progress,
        };
        let command =
            migration::Command::Progress { tenant: sample::tenant(), checkpoints: vec![checkpoint] };
        log.apply(sample::node(), Command::Migration(command)).unwrap();
        log.host("web2", host::Change::Started { incarnation: 1 + round }).unwrap();
    }
    assert_eq!(log.status("m1"), MigrationStatus::Running);
}

#[test]
fn nothing_is_read_from_a_revoked_host() {
    for is_under_way in [true, false] {
        let mut log = Log::new();
        log.create("m1", 1, |_| {}).unwrap();
        let lease = log.grant("m1");
        if !is_under_way {
            log.report("m1", failed(FailureKind::Unreachable, Retry::Later));
            assert!(log.try_grant("m1").is_err(), "it waits");
        }
        let revoked = log.host("web1", host::Change::Revoke).unwrap();
        let is_end =
            |effect: &Effect| matches!(effect, Effect::LeaseEnded { token, .. } if *token == lease.token);
        assert_eq!(revoked.effects.iter().any(is_end), is_under_way, "the holder is told");
        assert!(matches!(log.ask("m1"), Ok(Outcome::Done)));
        assert_eq!(log.status("m1"), MigrationStatus::Unwinding);
        let failure = log.migration("m1").failures[0].clone();
        assert_eq!((failure.kind, failure.retry), (FailureKind::Denied, Retry::Never));
        assert!(failure.message.contains("web1") && failure.hint.unwrap().contains("ctl host enroll web1"));
        assert!(log.grant("m1").is_undo, "what was begun is undone without the source");
    }
}

#[test]
fn a_proof_needs_no_source() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.run("m1", &copied());
    log.grant("m1");
    let revoked = log.host("web1", host::Change::Revoke).unwrap();
    assert!(!revoked.effects.iter().any(|effect| matches!(effect, Effect::LeaseEnded { .. })));
    log.report("m1", Event::Succeeded(serde_json::to_string(&verified()).unwrap()));
    log.settled("m1");
    assert_eq!(log.status("m1"), MigrationStatus::Completed);
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
fn however_much_an_agent_finds_the_snapshot_can_be_read() {
    let mut log = Log::new();
    log.create("m1", 1, |_| {}).unwrap();
    log.grant("m1");
    let long = "\u{1}".repeat(4_096);
    for rule in [Rule::Changed, Rule::Vanished] {
        let endless = |object: usize| {
            let found = finding(rule, &format!("{object:04}{long}"));
            Finding { message: long.clone(), hint: long.clone(), ..found }
        };
        log.report("m1", Event::Findings((0..900).map(endless).collect()));
    }
    log.report("m1", Event::Succeeded(serde_json::to_string(&copied()).unwrap()));
    let mut written = Vec::new();
    snapshot::write(&log.state, &mut written).unwrap();
    assert!(written.len() < 9 * 1024 * 1024, "{} bytes", written.len());
    assert_eq!(snapshot::read(&mut written.as_slice()).unwrap(), log.state);
    assert_eq!(log.migration("m1").findings.total(), 1_800);
}
