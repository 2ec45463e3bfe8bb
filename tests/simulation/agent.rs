//! A fake agent: the promises of the real one, without its files.
//!
//! What is durable survives a crash: how often it started, and events until they are acknowledged. Everything else is
//! gone with the process, but for effects that were on their way to the disk.

use std::collections::{BTreeMap, VecDeque};

use common::fence::FencingToken;
use common::id::{HostName, StepId};
use common::limit::{LEASE_EFFECTS, LEASE_RENEWAL};

use crate::disk::{Effect, EffectKind};
use crate::mutant::Mutant;
use crate::schedule::Event;
use crate::wire::{Body, Granted, Held, Record, Word};
use crate::world::{World, millis};

/// The agent's timer.
const TIMER_MS: u64 = 500;
/// Between heartbeats.
const HEARTBEAT_MS: u64 = 3_000;
/// A renewal or a hello that is not answered by then means another session.
const SILENCE_MAX_MS: u64 = 8_000;
/// Events in one go.
const EVENTS_MAX: usize = 8;

/// An agent: what is durable, and the process while it runs.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    pub(crate) incarnation: u64,
    given: u64,
    acknowledged: u64,
    outbox: VecDeque<(u64, Record)>,
    /// Events that were not stored before they were sent; only a mutant has some.
    unflushed: usize,
    pub(crate) process: Option<Process>,
    /// The network stands still until then.
    pub(crate) cut_until: u64,
    /// The process stands still until then.
    pub(crate) paused_until: u64,
}

/// What goes with the process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    session: Option<u64>,
    is_welcome: bool,
    opened_at: u64,
    sent: u64,
    last_heartbeat: u64,
    heartbeat_at: u64,
    waited_for: VecDeque<(u64, u64)>,
    attempts: BTreeMap<FencingToken, Attempt>,
}

/// One attempt of one step, or of its undo.
#[derive(Debug)]
struct Attempt {
    granted: Granted,
    /// When the last answered renewal was sent.
    renewed: Option<u64>,
    is_lost: bool,
    has_claimed: bool,
    is_in_flight: bool,
    is_caught_up: bool,
    looked_at: u64,
}

impl Attempt {
    fn may_work(&self, now: u64) -> bool {
        !self.is_lost && self.renewed.is_some_and(|sent| now - sent < millis(LEASE_EFFECTS))
    }
}

/// How many effects a step has.
pub(crate) fn units(step: &StepId) -> u64 {
    1 + step.as_str().bytes().map(u64::from).sum::<u64>() % 4
}

impl Agent {
    /// Whether this agent takes a lease for its own now.
    pub(crate) fn believes_in(&self, token: FencingToken, now: u64) -> bool {
        let attempt = self.process.as_ref().and_then(|process| process.attempts.get(&token));
        attempt.is_some_and(|attempt| attempt.may_work(now))
    }

    /// The process is killed: what was not durable is gone.
    pub(crate) fn crash(&mut self) {
        self.process = None;
        for _ in 0..std::mem::take(&mut self.unflushed) {
            self.outbox.pop_back();
            self.given -= 1;
        }
    }

    /// Whether every event is acknowledged.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outbox.is_empty()
    }
}

impl World {
    fn process(&mut self, host: &HostName) -> Option<&mut Process> {
        self.agents.get_mut(host)?.process.as_mut()
    }

    /// Starts the process of an agent that has none.
    pub(crate) fn start_agent(&mut self, host: &HostName) {
        let now = self.now;
        let agent = self.agents.get_mut(host).unwrap();
        if agent.process.is_some() {
            return;
        }
        agent.incarnation += 1;
        agent.process = Some(Process { heartbeat_at: now, ..Process::default() });
        self.schedule.at(now, Event::Connect(host.clone()));
    }

    /// The timer of an agent.
    pub(crate) fn agent_timer(&mut self, host: &HostName) {
        let jitter = self.random.below(100);
        self.schedule.at(self.now + TIMER_MS + jitter, Event::Agent(host.clone()));
        let now = self.now;
        let agent = self.agents.get_mut(host).unwrap();
        if agent.paused_until > now {
            return;
        }
        agent.unflushed = 0;
        let Some(process) = agent.process.as_mut() else { return };
        for attempt in process.attempts.values_mut() {
            let is_over = attempt.renewed.is_some_and(|sent| now - sent >= millis(LEASE_EFFECTS));
            attempt.is_lost |= is_over;
        }
        process.attempts.retain(|_, attempt| !attempt.is_lost || attempt.is_in_flight);
        let oldest = process.waited_for.front().map(|(_, sent)| *sent);
        let is_silent = oldest.is_some_and(|sent| now - sent > SILENCE_MAX_MS)
            || (!process.is_welcome && now - process.opened_at > SILENCE_MAX_MS);
        match process.session {
            Some(_) if is_silent => self.leave_session(host),
            Some(_) => {
                if now >= process.heartbeat_at {
                    self.heartbeat(host);
                }
                self.send_events(host);
            }
            None => {}
        }
        let tokens: Vec<FencingToken> =
            self.process(host).map(|process| process.attempts.keys().copied().collect()).unwrap_or_default();
        for token in tokens {
            self.work(host, token);
        }
    }

    /// An agent looks for the leader.
    pub(crate) fn connect(&mut self, host: &HostName) {
        let leader = self.leader;
        let now = self.now;
        let agent = &self.agents[host];
        let is_idle = agent.process.as_ref().is_some_and(|process| process.session.is_none());
        if !is_idle {
            return;
        }
        let Some((node, term)) = leader.filter(|_| agent.paused_until <= now) else {
            self.schedule.at(now + 500, Event::Connect(host.clone()));
            return;
        };
        let incarnation = agent.incarnation;
        let mut held: Vec<Held> = agent.outbox.iter().filter_map(|(_, record)| end_of(record)).collect();
        let session = self.open_session(host, node, term);
        let process = self.process(host).unwrap();
        process.session = Some(session);
        process.is_welcome = false;
        process.opened_at = now;
        process.waited_for.clear();
        held.extend(process.attempts.values().filter(|it| !it.is_lost).map(|it| it.granted.held.clone()));
        self.send(session, Body::Hello { incarnation, held });
    }

    fn leave_session(&mut self, host: &HostName) {
        let Some(process) = self.process(host) else { return };
        let Some(session) = process.session.take() else { return };
        self.close_session(session);
        let pause = self.random.between(200, 3_000);
        self.schedule.at(self.now + pause, Event::Connect(host.clone()));
    }

    /// Sends a heartbeat with the leases that are due.
    fn heartbeat(&mut self, host: &HostName) {
        let now = self.now;
        let Some(process) = self.process(host) else { return };
        let (Some(session), true) = (process.session, process.is_welcome) else { return };
        let is_due = |attempt: &&Attempt| {
            !attempt.is_lost
                && attempt.renewed.is_none_or(|sent| now - sent + HEARTBEAT_MS > millis(LEASE_RENEWAL))
        };
        let renew: Vec<Held> =
            process.attempts.values().filter(is_due).map(|attempt| attempt.granted.held.clone()).collect();
        process.last_heartbeat += 1;
        process.heartbeat_at = now + HEARTBEAT_MS;
        let number = process.last_heartbeat;
        let asks = !renew.is_empty();
        if asks {
            process.waited_for.push_back((number, now));
        }
        self.send(session, Body::Heartbeat { number, renew });
        if asks && self.is_stormy() && self.random.permille(25) {
            self.nod_off(host);
        }
    }

    /// The worst moment to fall asleep is between a question and its answer, and the worst awakening is without a network.
    fn nod_off(&mut self, host: &HostName) {
        let wakes = self.now + self.random.between(500, SILENCE_MAX_MS);
        self.agents.get_mut(host).unwrap().paused_until = wakes;
        if self.random.permille(500) {
            let cut = self.random.between(10_000, 50_000);
            self.schedule.at(wakes + 600, Event::Cut { host: host.clone(), until: wakes + cut });
        }
    }

    fn send_events(&mut self, host: &HostName) {
        let agent = self.agents.get_mut(host).unwrap();
        let Some(process) = agent.process.as_mut() else { return };
        let (Some(session), true) = (process.session, process.is_welcome) else { return };
        let unsent: Vec<(u64, Record)> = agent
            .outbox
            .iter()
            .filter(|(number, _)| *number > process.sent)
            .take(EVENTS_MAX)
            .cloned()
            .collect();
        for (number, record) in unsent {
            self.process(host).unwrap().sent = number;
            self.send(session, Body::Event { number, record });
        }
    }

    /// A message of a leader arrives at an agent.
    pub(crate) fn hear_leader(&mut self, host: &HostName, session: u64, body: Body) {
        let now = self.now;
        let paused_until = self.agents[host].paused_until;
        if paused_until > now {
            let message = crate::wire::Message { session, body };
            self.schedule.at(paused_until, Event::Deliver(Box::new(message)));
            return;
        }
        let mutant = self.mutant;
        let agent = self.agents.get_mut(host).unwrap();
        let Some(process) = agent.process.as_mut() else { return };
        if process.session != Some(session) {
            return;
        }
        match body {
            Body::Cut => self.leave_session(host),
            Body::Welcome { acknowledged } => {
                process.is_welcome = true;
                process.sent = acknowledged;
                acknowledge(agent, acknowledged);
                self.heartbeat(host);
                self.send_events(host);
            }
            Body::Renewed { number, tokens } => {
                let Some(at) = process.waited_for.iter().position(|(sent, _)| *sent == number) else {
                    return;
                };
                let (_, sent) = process.waited_for.drain(..=at).next_back().unwrap();
                let counts_from = if mutant == Some(Mutant::CountFromAnswer) { now } else { sent };
                for token in tokens {
                    let Some(attempt) = process.attempts.get_mut(&token) else { continue };
                    attempt.renewed = attempt.renewed.max(Some(counts_from));
                }
            }
            Body::Acknowledge { number } => {
                acknowledge(agent, number);
                self.note_told(host, number);
            }
            Body::Grant(granted) => self.take_grant(host, granted),
            Body::Revoke { token } => {
                if let Some(attempt) = process.attempts.get_mut(&token) {
                    attempt.is_lost = true;
                }
            }
            Body::Settle { place, token } => {
                if self.disk.settle(&place, token) {
                    self.send(session, Body::Settled { migration: place.migration, token });
                }
            }
            Body::Hello { .. }
            | Body::Heartbeat { .. }
            | Body::Event { .. }
            | Body::Progress { .. }
            | Body::Settled { .. } => {}
        }
    }

    fn take_grant(&mut self, host: &HostName, granted: Granted) {
        let now = self.now;
        let token = granted.held.token;
        let agent = self.agents.get_mut(host).unwrap();
        let is_told = agent.outbox.iter().any(|(_, it)| it.held.token == token && end_of(it).is_some());
        let process = agent.process.as_mut().unwrap();
        if let Some(known) = process.attempts.get_mut(&token) {
            known.granted.finish |= granted.finish;
            return;
        }
        let on_subject = |attempt: &Attempt| attempt.granted.place == granted.place;
        let is_late = process.attempts.iter().any(|(other, it)| on_subject(it) && *other > token);
        if is_told || is_late {
            return;
        }
        for attempt in process.attempts.values_mut().filter(|attempt| on_subject(attempt)) {
            attempt.is_lost = true;
        }
        let attempt = Attempt {
            granted,
            renewed: None,
            is_lost: false,
            has_claimed: false,
            is_in_flight: false,
            is_caught_up: false,
            looked_at: now,
        };
        process.attempts.insert(token, attempt);
        self.heartbeat(host);
    }

    /// Lets an attempt do its next thing, if its lease lets it.
    fn work(&mut self, host: &HostName, token: FencingToken) {
        let now = self.now;
        let skips_claim = self.mutant == Some(Mutant::SkipClaim);
        let (is_unlucky, will_fail, is_corrupt, has_finding) = (
            self.is_stormy() && self.random.permille(30),
            self.is_stormy() && self.random.permille(4),
            self.is_stormy() && self.random.permille(8),
            self.random.permille(10),
        );
        let Some(process) = self.process(host) else { return };
        let Some(attempt) = process.attempts.get(&token) else { return };
        if attempt.is_in_flight || !attempt.may_work(now) {
            return;
        }
        let granted = attempt.granted.clone();
        let is_first =
            !process.attempts.iter().any(|(other, it)| *other < token && it.granted.place == granted.place);
        if !is_first && !skips_claim {
            return;
        }
        let (has_claimed, is_caught_up) = (attempt.has_claimed, attempt.is_caught_up);
        let read_for = now - attempt.looked_at;
        let changes = !granted.is_read_only;
        if is_unlucky {
            return self.tell(host, &granted.held, Word::FailedForNow);
        }
        if will_fail {
            return self.tell(host, &granted.held, Word::FailedForGood);
        }
        if changes && !has_claimed && !skips_claim {
            return self.make_effect(host, &granted, EffectKind::Claim);
        }
        if has_finding {
            self.append(host, Record { held: granted.held.clone(), word: Word::Finding });
        }
        let standing = self.disk.standing(&granted.place, &granted.held.step);
        let total = units(&granted.held.step);
        self.report_progress(host, &granted, standing, total);
        match (granted.is_undo, changes) {
            (true, true) if standing > 0 && self.mutant != Some(Mutant::UndoHalf) => {
                self.make_effect(host, &granted, EffectKind::Undo);
            }
            (true, _) => self.tell(host, &granted.held, Word::Succeeded),
            (false, true) if standing < total => self.make_effect(host, &granted, EffectKind::Do),
            (false, false) if read_for < total * 700 => {}
            (false, false) if is_corrupt => self.tell(host, &granted.held, Word::Corrupt),
            (false, _) if granted.is_continuous && !is_caught_up => {
                self.process(host).unwrap().attempts.get_mut(&token).unwrap().is_caught_up = true;
                self.append(host, Record { held: granted.held.clone(), word: Word::CaughtUp });
            }
            (false, _) if granted.is_continuous && !granted.finish => {}
            (false, _) => self.tell(host, &granted.held, Word::Succeeded),
        }
    }

    fn report_progress(&mut self, host: &HostName, granted: &Granted, standing: u64, total: u64) {
        let Some(session) = self.process(host).and_then(|process| process.session) else { return };
        let held = granted.held.clone();
        if !granted.is_undo {
            self.send(session, Body::Progress { held, files_done: standing.min(total), files_total: total });
        }
    }

    /// Sends an effect to the disk; it may be on its way for long.
    fn make_effect(&mut self, host: &HostName, granted: &Granted, kind: EffectKind) {
        let mut delay = self.random.between(1, 40);
        if self.is_stormy() && self.random.permille(15) {
            delay += self.random.below(70_000);
        }
        let incarnation = self.agents[host].incarnation;
        let effect = Effect {
            host: host.clone(),
            incarnation,
            place: granted.place.clone(),
            step: granted.held.step.clone(),
            token: granted.held.token,
            kind,
        };
        self.process(host).unwrap().attempts.get_mut(&granted.held.token).unwrap().is_in_flight = true;
        self.schedule.at(self.now + delay, Event::Effect(Box::new(effect)));
    }

    /// An effect has ended; a process that was killed meanwhile does not hear of it.
    pub(crate) fn effect_ended(&mut self, effect: &Effect, is_taken: bool) {
        if self.agents[&effect.host].incarnation != effect.incarnation {
            return;
        }
        let Some(process) = self.process(&effect.host) else { return };
        let Some(attempt) = process.attempts.get_mut(&effect.token) else { return };
        attempt.is_in_flight = false;
        attempt.has_claimed |= is_taken && effect.kind == EffectKind::Claim;
        let held = attempt.granted.held.clone();
        if !is_taken && !attempt.is_lost {
            self.tell(&effect.host, &held, Word::FailedForGood);
        }
    }

    /// Says the last word of an attempt, unless its lease was lost: then nobody would believe it.
    fn tell(&mut self, host: &HostName, held: &Held, word: Word) {
        let Some(attempt) = self.process(host).and_then(|process| process.attempts.remove(&held.token))
        else {
            return;
        };
        if !attempt.is_lost {
            self.append(host, Record { held: held.clone(), word });
        }
    }

    fn append(&mut self, host: &HostName, record: Record) {
        let is_late = self.mutant == Some(Mutant::SendBeforeDurable);
        let agent = self.agents.get_mut(host).unwrap();
        agent.given += 1;
        agent.outbox.push_back((agent.given, record));
        agent.unflushed += usize::from(is_late);
        self.send_events(host);
    }
}

fn acknowledge(agent: &mut Agent, number: u64) {
    if number > agent.given || number <= agent.acknowledged {
        return;
    }
    agent.acknowledged = number;
    agent.outbox.retain(|(given, _)| *given > number);
    agent.unflushed = agent.unflushed.min(agent.outbox.len());
}

/// The lease that ends with an event.
fn end_of(record: &Record) -> Option<Held> {
    match record.word {
        Word::Succeeded | Word::FailedForNow | Word::FailedForGood | Word::Corrupt => {
            Some(record.held.clone())
        }
        Word::CaughtUp | Word::Finding => None,
    }
}
