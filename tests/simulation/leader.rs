//! What a leader does: the decisions are the coordinator's own, the sending is the simulation's.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::WallMs;
use common::failure::{Failure, FailureKind, Retry};
use common::fence::FencingToken;
use common::finding::{Finding, Rule, Severity};
use common::host::HostStatus;
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::step::Reversibility;
use coordinator::live::progress::LiveProgress;
use coordinator::reconcile::{dispatch, expiry, settle, timeout};
use coordinator::state::lease::Lease;
use coordinator::state::migration::{self, Act, Checkpoint, Migration};
use coordinator::state::step::Event as StepEvent;
use coordinator::state::{Command, Outcome, host};

use crate::cluster::{Greeted, Settling, Unproposed};
use crate::mutant::Mutant;
use crate::operator;
use crate::schedule::Event;
use crate::wire::{Body, Granted, Held, Record, Session, Word, progress};
use crate::world::World;

/// How often a leader looks at everything.
const TICK_MS: u64 = 1_000;
/// How often live progress is made durable.
const CHECKPOINT_MS: u64 = 5_000;
/// How long an agent may take to remove a stage.
const SETTLE_DEADLINE_MS: u64 = 120_000;
/// A session over which nothing was heard for this long is as good as gone.
const SILENCE_MAX_MS: u64 = 30_000;

impl World {
    /// The timer of a leader.
    pub(crate) fn tick(&mut self, node: usize, term: u64) {
        if self.nodes[node].believes != Some(term) {
            return;
        }
        self.schedule.at(self.now + TICK_MS, Event::Tick { node, term });
        let now = self.now;
        let silent = |greeted: &Greeted| now - greeted.heard >= SILENCE_MAX_MS;
        let over: Vec<Greeted> =
            self.nodes[node].sessions.values().filter(|greeted| silent(greeted)).cloned().collect();
        self.nodes[node].sessions.retain(|_, greeted| !silent(greeted));
        for greeted in over {
            self.send(greeted.session, Body::Cut);
        }
        self.reconcile(node, term);
        self.expire(node, term);
        for command in timeout::late(&self.nodes[node].state, WallMs(self.now)) {
            self.propose_as_node(node, term, Command::Migration(command)).ok();
        }
        self.settle(node, term);
        if self.now >= self.nodes[node].checkpoint_at {
            self.nodes[node].checkpoint_at = self.now + CHECKPOINT_MS;
            self.checkpoint(node, term);
        }
    }

    /// Grants what is ready, and sends again what may not have arrived.
    pub(crate) fn reconcile(&mut self, node: usize, term: u64) {
        if self.nodes[node].believes != Some(term) {
            return;
        }
        let state = self.nodes[node].state.clone();
        let known: BTreeMap<HostName, u64> =
            self.nodes[node].sessions.iter().map(|(host, it)| (host.clone(), it.incarnation)).collect();
        let incarnation_of = |_: &TenantId, host: &HostName| known.get(host).copied();
        for due in dispatch::due(&state, WallMs(self.now), incarnation_of) {
            let granted = self.propose_as_node(node, term, Command::Lease(due.command));
            let Ok(Outcome::Granted(lease)) = granted else { continue };
            self.nodes[node].clock.renew(lease.token, self.boot(self.now));
            self.send_grant(node, &due.migration, due.place, &lease, false);
        }
        for migration in state.migrations().active() {
            for (place, step) in migration.steps.iter().enumerate() {
                let Some(lease) = &step.lease else { continue };
                let Some(greeted) = self.nodes[node].sessions.get(&lease.host).cloned() else { continue };
                let opened =
                    dispatch::Opened { incarnation: greeted.incarnation, since: self.boot(greeted.since) };
                let now = self.boot(self.now);
                if dispatch::may_have_been_lost(lease, opened, &self.nodes[node].clock, now) {
                    self.counts.sent_again += 1;
                    self.send_grant(node, migration, place, lease, false);
                }
            }
            for (step, lease) in migration.asked_to_finish() {
                let place = migration.place(&step).unwrap();
                self.send_grant(node, migration, place, &lease, true);
            }
        }
    }

    fn send_grant(&mut self, node: usize, migration: &Migration, place: usize, lease: &Lease, finish: bool) {
        let Some(greeted) = self.nodes[node].sessions.get(&lease.host).cloned() else { return };
        let planned = &migration.plan.steps[place];
        let held = Held { migration: migration.id.clone(), step: planned.id.clone(), token: lease.token };
        let granted = Granted {
            held,
            place: operator::place_of(&migration.id, planned),
            is_undo: lease.is_undo,
            is_read_only: planned.reversibility == Reversibility::ReadOnly || migration.spec.options.dry_run,
            is_continuous: planned.is_continuous,
            finish,
        };
        self.send(greeted.session, Body::Grant(granted));
    }

    fn expire(&mut self, node: usize, term: u64) {
        let known = &self.nodes[node];
        let over = expiry::over(&known.state, &known.clock, self.boot(self.now));
        if self.mutant == Some(Mutant::ExpireNothing) {
            return;
        }
        for command in over {
            self.counts.expired += 1;
            self.propose_as_node(node, term, Command::Lease(command)).ok();
        }
    }

    /// Ends the ways back whose time is over, and has stages removed.
    fn settle(&mut self, node: usize, term: u64) {
        let state = self.nodes[node].state.clone();
        for migration in state.migrations().holding() {
            match settle::need(migration, WallMs(self.now)) {
                Some(settle::Need::End) => self.act(node, term, migration, Act::Settle),
                Some(settle::Need::Removal(token)) => self.ask_to_settle(node, term, migration, token),
                None => {}
            }
        }
        self.nodes[node].settling.retain(|id, _| {
            let migration = state.migrations().get(&TenantId::default_tenant(), id);
            migration.is_some_and(|migration| matches!(migration.way_back, migration::WayBack::Settling(_)))
        });
    }

    fn ask_to_settle(&mut self, node: usize, term: u64, migration: &Migration, token: FencingToken) {
        let planned = &migration.plan.steps[0];
        let session = self.nodes[node].sessions.get(&planned.host).map(|greeted| greeted.session);
        let now = self.now;
        let settling = self.nodes[node]
            .settling
            .entry(migration.id.clone())
            .or_insert(Settling { session: None, deadline: now + SETTLE_DEADLINE_MS });
        if now >= settling.deadline {
            settling.deadline = now + SETTLE_DEADLINE_MS;
            settling.session = None;
            if !migration.status.is_end() {
                self.counts.settle_failed += 1;
                let failure = Failure::new(FailureKind::Unreachable, "the agent is away");
                self.act(node, term, migration, Act::SettleFailed { token, failure });
            }
            return;
        }
        let Some(session) = session.filter(|session| settling.session != Some(*session)) else { return };
        settling.session = Some(session);
        let place = operator::place_of(&migration.id, planned);
        self.send(session, Body::Settle { place, token });
    }

    pub(crate) fn act(&mut self, node: usize, term: u64, migration: &Migration, act: Act) {
        let (tenant, id) = (migration.tenant.clone(), migration.id.clone());
        let command = migration::Command::Act { tenant, migration: id, act };
        self.propose_as_node(node, term, Command::Migration(command)).ok();
    }

    fn checkpoint(&mut self, node: usize, term: u64) {
        let checkpoint = |((_, migration, step), live): (_, LiveProgress)| Checkpoint {
            migration,
            step,
            token: live.token,
            progress: live.progress,
        };
        let checkpoints: Vec<Checkpoint> =
            self.nodes[node].progress.take_changed().into_iter().map(checkpoint).collect();
        if !checkpoints.is_empty() {
            let command = migration::Command::Progress { tenant: TenantId::default_tenant(), checkpoints };
            self.propose_as_node(node, term, Command::Migration(command)).ok();
        }
    }

    fn propose_as_node(&mut self, node: usize, term: u64, command: Command) -> Result<Outcome, Unproposed> {
        let principal = Principal::Node { name: format!("coordinator-{}", node + 1).parse().unwrap() };
        self.propose(node, term, principal, command).map(|applied| applied.outcome)
    }

    fn propose_as_agent(&mut self, session: &Session, change: Command) -> Result<Outcome, Unproposed> {
        let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: session.host.clone() };
        self.propose(session.node, session.term, principal, change).map(|applied| applied.outcome)
    }

    /// A message of an agent arrives at a node.
    pub(crate) fn hear_agent(&mut self, session: &Session, number: u64, body: Body) {
        if self.nodes[session.node].believes != Some(session.term) {
            self.send(number, Body::Cut);
            return;
        }
        let now = self.now;
        if let Some(greeted) = self.nodes[session.node].sessions.get_mut(&session.host)
            && greeted.session == number
        {
            greeted.heard = now;
        }
        match body {
            Body::Hello { incarnation, held } => self.greet(session, number, incarnation, held),
            Body::Heartbeat { number: heartbeat, renew } => self.renew(session, number, heartbeat, renew),
            Body::Event { number: event, record } => self.take_event(session, number, event, &record),
            Body::Progress { held, files_done, files_total } => {
                let live = LiveProgress { token: held.token, progress: progress(files_done, files_total) };
                let key = (TenantId::default_tenant(), held.migration.clone(), held.step.clone());
                if self.find_lease(session, &held) {
                    self.nodes[session.node].progress.note(key, live);
                }
            }
            Body::Settled { migration, token } => {
                let state = self.nodes[session.node].state.clone();
                if let Some(migration) = state.migrations().get(&TenantId::default_tenant(), &migration) {
                    self.act(session.node, session.term, migration, Act::Settled { token });
                }
            }
            Body::Welcome { .. }
            | Body::Renewed { .. }
            | Body::Acknowledge { .. }
            | Body::Grant(_)
            | Body::Revoke { .. }
            | Body::Settle { .. }
            | Body::Cut => {}
        }
    }

    fn greet(&mut self, session: &Session, number: u64, incarnation: u64, held: Vec<Held>) {
        let host = session.host.clone();
        let known = self.nodes[session.node].state.hosts().get(&TenantId::default_tenant(), &host).cloned();
        let may_come = known
            .as_ref()
            .is_some_and(|known| matches!(known.status, HostStatus::Enrolled | HostStatus::Draining));
        let is_new = known.is_some_and(|known| known.incarnation != incarnation);
        if is_new && may_come && self.mutant != Some(Mutant::SkipStart) {
            let change = host::Change::Started { incarnation };
            let command = host::Command { tenant: TenantId::default_tenant(), host: host.clone(), change };
            if self.propose_as_agent(session, Command::Host(command)).is_err() {
                self.send(number, Body::Cut);
                return;
            }
        }
        if !may_come {
            self.send(number, Body::Cut);
            return;
        }
        let greeted = Greeted { session: number, incarnation, since: self.now, heard: self.now };
        if let Some(older) = self.nodes[session.node].sessions.insert(host.clone(), greeted) {
            self.send(older.session, Body::Cut);
        }
        let acknowledged =
            self.nodes[session.node].state.outboxes().acknowledged(&TenantId::default_tenant(), &host);
        self.send(number, Body::Welcome { acknowledged });
        for held in held {
            if self.find_lease(session, &held) {
                self.nodes[session.node].clock.renew(held.token, self.boot(self.now));
                self.renewed_at.insert(held.token, self.now);
            } else {
                self.send(number, Body::Revoke { token: held.token });
            }
        }
        self.schedule.at(self.now + 1, Event::Wake { node: session.node, term: session.term });
    }

    fn renew(&mut self, session: &Session, number: u64, heartbeat: u64, renew: Vec<Held>) {
        if !self.leads_surely(session.node, session.term) {
            self.send(number, Body::Cut);
            return;
        }
        let (mut tokens, mut over) = (Vec::new(), Vec::new());
        for held in renew {
            if self.find_lease(session, &held) {
                self.nodes[session.node].clock.renew(held.token, self.boot(self.now));
                self.renewed_at.insert(held.token, self.now);
                tokens.push(held.token);
            } else {
                over.push(held.token);
            }
        }
        self.send(number, Body::Renewed { number: heartbeat, tokens });
        for token in over {
            self.send(number, Body::Revoke { token });
        }
    }

    fn find_lease(&self, session: &Session, held: &Held) -> bool {
        let state = &self.nodes[session.node].state;
        let Some(migration) = state.migrations().get(&TenantId::default_tenant(), &held.migration) else {
            return false;
        };
        migration.held(&held.step, held.token).is_some_and(|place| {
            migration.steps[place].lease.as_ref().is_some_and(|lease| lease.host == session.host)
        })
    }

    fn take_event(&mut self, session: &Session, number: u64, event: u64, record: &Record) {
        if self.mutant == Some(Mutant::AcknowledgeEarly) {
            self.send(number, Body::Acknowledge { number: event });
        }
        let command = migration::Command::Event {
            tenant: TenantId::default_tenant(),
            host: session.host.clone(),
            number: event,
            migration: record.held.migration.clone(),
            step: record.held.step.clone(),
            token: record.held.token,
            event: of_word(&record.word),
        };
        match self.propose_as_agent(session, Command::Migration(command)) {
            Ok(Outcome::Acknowledged { number: acknowledged, .. }) => {
                self.send(number, Body::Acknowledge { number: acknowledged });
            }
            Ok(_) => {}
            Err(Unproposed::Unknown) => {
                self.send(number, Body::Cut);
                if self.nodes[session.node].sessions.get(&session.host).is_some_and(|it| it.session == number)
                {
                    self.nodes[session.node].sessions.remove(&session.host);
                }
            }
            Err(Unproposed::Refused(refusal)) => {
                let message = format!("an event was refused: {}", refusal.failure().message);
                self.violate(message);
            }
        }
    }

    /// Returns a virtual time as the leases' clock counts it.
    pub(crate) fn boot(&self, now: u64) -> common::clock::BootTime {
        self.booted.after(Duration::from_millis(now))
    }
}

/// What an agent's word is to the state.
fn of_word(word: &Word) -> StepEvent {
    let failed = |kind, retry| StepEvent::Failed(Failure { retry, ..Failure::new(kind, "as drawn") });
    match word {
        Word::Succeeded => {
            StepEvent::Succeeded("{\"version\":1,\"is_verified\":true,\"files_total\":4}".to_owned())
        }
        Word::FailedForNow => failed(FailureKind::Unreachable, Retry::Later),
        Word::FailedForGood => failed(FailureKind::Exhausted, Retry::AfterOperator),
        Word::Corrupt => failed(FailureKind::Corrupt, Retry::Later),
        Word::CaughtUp => StepEvent::CaughtUp(5),
        Word::Finding => StepEvent::Findings(vec![Finding {
            rule: Rule::KeptAside,
            severity: Severity::Notice,
            object: "x".to_owned(),
            message: "kept".to_owned(),
            hint: String::new(),
        }]),
    }
}
