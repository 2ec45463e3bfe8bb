//! Laws that hold for any sequence of commands.

use std::sync::Arc;

use common::bandwidth::Bandwidth;
use common::clock::WallMs;
use common::control::{ControlChange, MaxLoad, Priority};
use common::failure::{Failure, FailureKind, Retry};
use common::fence::FencingToken;
use common::finding::{Finding, Rule, Severity};
use common::id::MigrationId;
use common::phase::Phase;
use common::spec::{CatchUpSpec, Cutover};
use common::view::MigrationStatus;
use proptest::prelude::*;

use super::audit::{self, Deed as Line, Note};
use super::host;
use super::lease;
use super::migration::{self, Act, Migration, WayBack};
use super::sample::{self, Log};
use super::snapshot;
use super::step::Event;
use super::{Command, State, invariant};

/// What somebody does; small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Deed {
    Create { migration: u8, root: u8, window: bool, rollback: bool, confirmed: bool, dry: bool },
    Act { migration: u8, act: u8 },
    Grant { migration: u8, step: u8, undo: bool, right: bool },
    Expire { migration: u8, step: u8 },
    Report { migration: u8, step: u8, event: u8, right: bool },
    Host { host: u8, change: u8 },
    Wait { ms: u16 },
    Audit { kind: u8 },
    Retain { migration: u8, forget: bool },
}

fn deed() -> impl Strategy<Value = Deed> {
    let (migration, step) = (0..4_u8, 0..2_u8);
    prop_oneof![
        2 => (0..4_u8, 0..3_u8, any::<[bool; 3]>(), prop::bool::weighted(0.2)).prop_map(
            |(migration, root, [window, rollback, confirmed], dry)| Deed::Create {
                migration, root, window, rollback, confirmed, dry
            }
        ),
        4 => (migration.clone(), 0..13_u8).prop_map(|(migration, act)| Deed::Act { migration, act }),
        8 => (migration.clone(), step.clone(), any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(migration, step, undo, right)| Deed::Grant { migration, step, undo, right }),
        1 => (migration.clone(), step.clone()).prop_map(|(migration, step)| Deed::Expire { migration, step }),
        8 => (migration, step, 0..7_u8, prop::bool::weighted(0.9))
            .prop_map(|(migration, step, event, right)| Deed::Report { migration, step, event, right }),
        1 => (0..2_u8, 0..5_u8).prop_map(|(host, change)| Deed::Host { host, change }),
        2 => any::<u16>().prop_map(|ms| Deed::Wait { ms }),
        2 => (0..4_u8).prop_map(|kind| Deed::Audit { kind }),
        2 => (0..4_u8, any::<bool>()).prop_map(|(migration, forget)| Deed::Retain { migration, forget }),
    ]
}

/// Turns a deed into a command that may or may not fit the state.
fn command(log: &mut Log, deed: &Deed) -> Option<Command> {
    let tenant = sample::tenant();
    let command = match *deed {
        Deed::Wait { ms } => {
            log.now += u64::from(ms);
            return None;
        }
        Deed::Audit { kind } => audited(log, kind)?,
        Deed::Retain { migration, forget } => {
            let ids = vec![id(migration)];
            let (condense, forget) = if forget { (Vec::new(), ids) } else { (ids, Vec::new()) };
            Command::Migration(migration::Command::Retain { tenant, condense, forget })
        }
        Deed::Create { .. } => create(log, deed)?,
        Deed::Act { migration, act } => asked(log, migration, act),
        Deed::Grant { migration, step, undo, right } => {
            let record = known(log, migration)?;
            let place = usize::from(step).min(record.plan.steps.len() - 1);
            let host = record.plan.steps[place].host.clone();
            let incarnation = log.state.hosts().get(&tenant, &host)?.incarnation + u64::from(!right);
            Command::Lease(lease::Command::Grant {
                tenant,
                migration: id(migration),
                generation: record.plan.generation,
                step: record.plan.steps[place].id.clone(),
                host,
                incarnation,
                is_undo: undo,
            })
        }
        Deed::Expire { migration, step } => {
            let record = known(log, migration)?;
            let place = usize::from(step).min(record.plan.steps.len() - 1);
            let token = record.steps[place].lease.as_ref()?.token;
            let step = record.plan.steps[place].id.clone();
            let reason = "expired".to_owned();
            Command::Lease(lease::Command::End { tenant, migration: id(migration), step, token, reason })
        }
        Deed::Report { migration, step, event, right } => {
            let record = known(log, migration)?;
            let place = usize::from(step).min(record.plan.steps.len() - 1);
            let held = record.steps[place].lease.as_ref().map(|lease| lease.token);
            let token = held.filter(|_| right).unwrap_or(FencingToken { epoch: 1, index: 1 });
            let host = record.plan.steps[place].host.clone();
            let number = log.state.outboxes().acknowledged(&tenant, &host) + u64::from(right);
            Command::Migration(migration::Command::Event {
                tenant,
                host,
                number,
                migration: id(migration),
                step: record.plan.steps[place].id.clone(),
                token,
                event: reported(event),
            })
        }
        Deed::Host { host, change } => {
            let name = format!("web{}", host + 1).parse().unwrap();
            let incarnation = log.state.hosts().get(&tenant, &name)?.incarnation;
            let change = match change {
                0 => host::Change::Drain(true),
                1 => host::Change::Drain(false),
                2 => host::Change::Seen { generation: 2 },
                3 => host::Change::Renew { generation: 1, public_key: vec![7] },
                _ => host::Change::Started { incarnation: incarnation + 1 },
            };
            Command::Host(host::Command { tenant, host: name, change })
        }
    };
    Some(command)
}

/// What coordinators ask of the audit.
fn audited(log: &Log, kind: u8) -> Option<Command> {
    let (tenant, audit) = (sample::tenant(), log.state.audit());
    let note = Note {
        tenant,
        principal: "nobody".to_owned(),
        action: "host.enroll".to_owned(),
        object: "web9".to_owned(),
        refused: Some("wrong token".to_owned()),
        count: 3,
    };
    let asked = match kind {
        0 => return Some(Command::Audit(note)),
        1 => audit::Command::Refused(vec![Line::from(note.clone()), Line::from(note)]),
        2 => audit::Command::Close { last: audit.count() },
        _ => {
            let page = audit.pages().find(|page| audit.holds(page))?;
            let nodes = vec!["coordinator-1".parse().unwrap()];
            audit::Command::Leave { first: page.first, head: page.head, nodes }
        }
    };
    Some(Command::AuditLog(asked))
}

fn id(number: u8) -> MigrationId {
    format!("m{number}").parse().unwrap()
}

fn known(log: &Log, number: u8) -> Option<Arc<Migration>> {
    let found = log.state.migrations().get(&sample::tenant(), &id(number)).cloned();
    found.filter(|migration| !migration.is_condensed())
}

/// A new migration, which may find its root taken.
fn create(log: &Log, deed: &Deed) -> Option<Command> {
    let Deed::Create { migration, root, window, rollback, confirmed, dry } = *deed else { return None };
    let tenant = sample::tenant();
    let mut spec = sample::spec();
    spec.options.rollback_window_ms = window.then_some(20_000);
    spec.options.rollback_on_failure = rollback;
    spec.options.dry_run = dry;
    spec.options.timeout_ms = Some(200_000);
    let roots = sample::roots(u64::from(root));
    let mut plan = sample::plan(&id(migration));
    if window {
        spec.transfer.catch_up = Some(CatchUpSpec { cutover: Cutover::Manual, ..CatchUpSpec::default() });
        plan.steps[0].is_continuous = true;
        plan.steps[1].phase = Phase::Freeze;
    }
    plan.settles = log.state.migrations().settled_by(&tenant, &roots).unwrap_or_default();
    Some(Command::Migration(migration::Command::Create(Box::new(migration::Create {
        tenant,
        migration: id(migration),
        request_id: format!("request-{migration}"),
        spec: spec.into(),
        roots,
        plan: plan.into(),
        is_confirmed: confirmed,
    }))))
}

/// What somebody asks of a migration.
fn asked(log: &Log, migration: u8, act: u8) -> Command {
    let tenant = sample::tenant();
    let record = known(log, migration);
    let token = match record.as_ref().map(|record| record.way_back) {
        Some(WayBack::Settling(token)) => token,
        Some(WayBack::Open(_) | WayBack::Ended) | None => FencingToken { epoch: 1, index: 1 },
    };
    let act = match act {
        0 => Act::Cancel,
        1 => Act::Retry,
        2 => Act::Rollback,
        3 => Act::Settle,
        4 => Act::Settled { token },
        5 => Act::SettleFailed { token, failure: Failure::new(FailureKind::Unreachable, "away") },
        6 => {
            let mut step = sample::plan(&id(migration)).steps.remove(1);
            let count = record.map_or(0, |record| record.plan.steps.len());
            step.id = format!("file.verify-{}", count + 1).parse().unwrap();
            step.after = Vec::new();
            Act::Verify { step }
        }
        7 => Act::Pause,
        8 => Act::Resume,
        9 => Act::Set(ControlChange {
            bandwidth_limit: Some(Bandwidth::always(u64::from(migration))),
            max_load: Some(MaxLoad { hundredths: Some(u32::from(migration)) }),
            priority: Some(if migration == 0 { Priority::Low } else { Priority::High }),
        }),
        10 => Act::Cutover,
        _ => Act::TimeOut,
    };
    Command::Migration(migration::Command::Act { tenant, migration: id(migration), act })
}

fn reported(event: u8) -> Event {
    let failure = |kind, retry| Event::Failed(Failure { retry, ..Failure::new(kind, "it did not work") });
    match event {
        0 | 1 => Event::Succeeded("{\"version\":1,\"is_verified\":true,\"files_total\":2}".to_owned()),
        2 => failure(FailureKind::Unreachable, Retry::Later),
        3 => failure(FailureKind::Exhausted, Retry::AfterOperator),
        4 => Event::CaughtUp(10),
        5 => Event::SoFar("{\"version\":1}".to_owned()),
        _ => Event::Findings(vec![Finding {
            rule: Rule::KeptAside,
            severity: Severity::Notice,
            object: "x".to_owned(),
            message: String::new(),
            hint: String::new(),
        }]),
    }
}

/// What must hold from one state to the next.
fn check_step(before: &State, after: &State, now: u64) {
    for (tenant, id, migration) in after.migrations().table().all() {
        let view = migration.view(WallMs(now), &|_| None, true);
        assert_eq!(view.exit_code.is_some(), migration.status.is_end());
        let Some(earlier) = before.migrations().get(tenant, id) else { continue };
        let earlier_view = earlier.view(WallMs(now), &|_| None, false);
        assert!(view.progress >= earlier_view.progress, "progress fell");
        assert!(migration.plan.generation >= earlier.plan.generation);
        for (planned, step) in migration.planned() {
            let Some(lease) = &step.lease else { continue };
            let earlier_place = earlier.place(&planned.id);
            let earlier_lease = earlier_place.and_then(|place| earlier.steps[place].lease.as_ref());
            assert!(earlier_lease.is_none_or(|earlier| earlier.token <= lease.token), "a token fell");
        }
        if matches!(earlier.status, MigrationStatus::RolledBack | MigrationStatus::Cancelled) {
            assert_eq!(migration.status, earlier.status, "what was unwound comes back");
        }
    }
    assert!(after.audit().count() >= before.audit().count());
}

fn written(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(state, &mut bytes).unwrap();
    bytes
}

proptest! {
    /// Replicas that apply one log are equal, whether by the log alone, by its bytes, or by a snapshot in between; no
    /// command breaks an invariant; and a refused one changes nothing.
    #[test]
    fn any_log_gives_one_state(deeds in prop::collection::vec(deed(), 1..120), cut in 0..120_usize) {
        let mut log = Log::new();
        let mut replica = log.clone();
        for (number, deed) in deeds.iter().enumerate() {
            let Some(command) = command(&mut log, deed) else {
                replica.now = log.now;
                continue;
            };
            let bytes = snapshot::encode_command(&command).unwrap();
            let principal = if number % 3 == 0 { sample::operator() } else { sample::node() };
            let before = log.state.clone();
            let applied = log.apply(principal.clone(), command);
            if applied.is_err() {
                prop_assert_eq!(&log.state, &before);
            }
            prop_assert_eq!(invariant::check(&log.state), Ok(()));
            check_step(&before, &log.state, log.now);
            let again = replica.apply(principal, snapshot::decode_command(&bytes).unwrap());
            prop_assert_eq!(applied, again);
            if number == cut {
                replica.state = snapshot::read(&mut written(&replica.state).as_slice()).unwrap();
            }
        }
        prop_assert_eq!(&log.state, &replica.state);
        prop_assert_eq!(written(&log.state), written(&replica.state));
    }

    /// A snapshot that is cut or altered anywhere is refused.
    #[test]
    fn a_damaged_snapshot_is_refused(place in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let mut log = Log::new();
        log.create("m1", 1, |_| {}).unwrap();
        let mut bytes = written(&log.state);
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 1 << bit;
        }
        prop_assert!(snapshot::read(&mut bytes.as_slice()).is_err());
    }
}

/// Prints what a copy of a large state costs; the figure belongs into DESIGN.md, not into an assertion.
///
/// `DROVER_MIGRATIONS=100000` measures at the size that the product promises.
#[test]
fn a_copy_of_a_large_state_is_cheap() {
    let asked = std::env::var("DROVER_MIGRATIONS").ok().and_then(|count| count.parse().ok());
    let migrations: u64 = asked.unwrap_or(2_000);
    let mut log = Log::new();
    for number in 0..migrations {
        log.create(&format!("m{number}"), number, |_| {}).unwrap();
        log.act(&format!("m{number}"), Act::Cancel).unwrap();
        // As the leader does: nine of ten are condensed, and the audit keeps its last lines.
        if number.is_multiple_of(10) {
            retain(&mut log, number);
        }
    }
    let begun = common::clock::boot();
    let copy = log.state.clone();
    let copied = common::clock::boot().since(begun);
    let begun = common::clock::boot();
    log.create("one-more", migrations, |_| {}).unwrap();
    let changed = common::clock::boot().since(begun);
    let begun = common::clock::boot();
    let bytes = written(&copy);
    let encoded = common::clock::boot().since(begun);
    println!(
        "{migrations} migrations, {} lines of audit: copy {copied:?}, next change {changed:?}, {} bytes in {encoded:?}",
        copy.audit().lines_len(),
        bytes.len()
    );
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), copy);
    assert_ne!(copy, log.state);
}

/// Condenses the nine before this one, and turns the pages of the audit over.
fn retain(log: &mut Log, number: u64) {
    let condense = (number.saturating_sub(9)..number).map(|number| format!("m{number}").parse().unwrap());
    let (condense, forget) = (condense.collect(), Vec::new());
    let command = migration::Command::Retain { tenant: sample::tenant(), condense, forget };
    log.apply(sample::node(), Command::Migration(command)).unwrap();
    let audit = log.state.audit();
    if audit.lines_len() < 11_000 {
        return;
    }
    let last = audit.first_open() + 999;
    log.apply(sample::node(), Command::AuditLog(audit::Command::Close { last })).unwrap();
    let audit = log.state.audit();
    let page = audit.pages().find(|page| audit.holds(page)).cloned().unwrap();
    let nodes = vec!["coordinator-1".parse().unwrap()];
    let leave = audit::Command::Leave { first: page.first, head: page.head, nodes };
    log.apply(sample::node(), Command::AuditLog(leave)).unwrap();
}
