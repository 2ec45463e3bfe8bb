//! One run: everything that there is, and the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::fence::FencingToken;
use common::host::HostStatus;
use common::id::{HostName, MigrationId, TenantId};
use common::principal::Principal;
use coordinator::state::migration::Create;
use coordinator::state::{Command, cluster as cluster_state, host};

use crate::agent::Agent;
use crate::cluster::{Entry, NODES, Node};
use crate::disk::Disk;
use crate::mutant::Mutant;
use crate::operator::{self, HOSTS};
use crate::oracle::Told;
use crate::schedule::{Event, Schedule};
use crate::wire::Session;
use tests::random::Random;

/// How long things break, at least and at most.
const STORM_MS: (u64, u64) = (60_000, 240_000);
/// How long everything may take to come to rest afterwards: the longest wait between attempts, ten times, and a window.
const CALM_MS: u64 = 1_500_000;

/// What happened in a run, so that a simulation that exercises nothing shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) granted: u64,
    pub(crate) events: u64,
    pub(crate) effects: u64,
    pub(crate) fenced: u64,
    pub(crate) expired: u64,
    pub(crate) sent_again: u64,
    pub(crate) elections: u64,
    pub(crate) snapshots: u64,
    pub(crate) settle_failed: u64,
    pub(crate) taken: u64,
    pub(crate) completed: u64,
    pub(crate) unwound: u64,
    pub(crate) stuck: u64,
}

impl Counts {
    /// Adds those of another run.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { granted, events, effects, fenced, expired, sent_again, elections, .. } = other;
        let Self { snapshots, settle_failed, taken, completed, unwound, stuck, .. } = other;
        self.granted += granted;
        self.events += events;
        self.effects += effects;
        self.fenced += fenced;
        self.expired += expired;
        self.sent_again += sent_again;
        self.elections += elections;
        self.snapshots += snapshots;
        self.settle_failed += settle_failed;
        self.taken += taken;
        self.completed += completed;
        self.unwound += unwound;
        self.stuck += stuck;
    }

    /// Whether everything happened at least once.
    pub(crate) fn has_everything(&self) -> bool {
        let all = [
            self.granted,
            self.events,
            self.effects,
            self.fenced,
            self.expired,
            self.sent_again,
            self.elections,
            self.snapshots,
            self.settle_failed,
            self.taken,
            self.completed,
            self.unwound,
            self.stuck,
        ];
        all.iter().all(|count| *count > 0)
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) booted: BootTime,
    pub(crate) random: Random,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) schedule: Schedule,
    pub(crate) sessions: Vec<Session>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) log: Vec<Entry>,
    pub(crate) leader: Option<(usize, u64)>,
    pub(crate) term: u64,
    pub(crate) agents: BTreeMap<HostName, Agent>,
    pub(crate) disk: Disk,
    pub(crate) requests: u64,
    pub(crate) last_request: Option<Create>,
    pub(crate) counts: Counts,
    // The oracle's memory.
    pub(crate) violation: Option<String>,
    pub(crate) highest_token: Option<FencingToken>,
    pub(crate) renewed_at: BTreeMap<FencingToken, u64>,
    pub(crate) events: BTreeMap<(HostName, u64, u64), String>,
    pub(crate) effective: BTreeSet<(HostName, u64, u64)>,
    pub(crate) told: BTreeMap<HostName, Told>,
    pub(crate) acknowledged: BTreeSet<MigrationId>,
    pub(crate) cancelled: BTreeSet<MigrationId>,
    storm_ends: u64,
    is_traced: bool,
}

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// Runs one number to its end; an error says what did not hold.
pub(crate) fn run(number: u64, mutant: Option<Mutant>, is_traced: bool) -> Result<Counts, String> {
    // The state checks itself in debug builds and panics; that is a finding like any other.
    let ran = std::panic::catch_unwind(|| World::new(number, mutant, is_traced).run());
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "a panic without words".to_owned()))
    })
}

impl World {
    fn new(number: u64, mutant: Option<Mutant>, is_traced: bool) -> Self {
        let mut random = Random::new(number);
        let storm_ends = random.between(STORM_MS.0, STORM_MS.1);
        Self {
            now: 1_000,
            booted: clock::boot(),
            random,
            mutant,
            schedule: Schedule::default(),
            sessions: Vec::new(),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            log: Vec::new(),
            leader: None,
            term: 0,
            agents: BTreeMap::new(),
            disk: Disk::default(),
            requests: 0,
            last_request: None,
            counts: Counts::default(),
            violation: None,
            highest_token: None,
            renewed_at: BTreeMap::new(),
            events: BTreeMap::new(),
            effective: BTreeSet::new(),
            told: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            storm_ends,
            is_traced,
        }
    }

    fn run(mut self) -> Result<Counts, String> {
        self.set_up();
        while self.violation.is_none() {
            let Some((time, event)) = self.schedule.next() else { break };
            if time > self.storm_ends + CALM_MS {
                break;
            }
            self.now = time;
            let may_be_over = matches!(event, Event::Tick { .. }) && !self.is_stormy();
            self.happen(event);
            if may_be_over && self.is_at_rest() {
                break;
            }
        }
        self.check_replicas();
        self.check_end();
        self.violation.map_or(Ok(self.counts), Err)
    }

    /// Whether things may break now.
    pub(crate) fn is_stormy(&self) -> bool {
        self.now < self.storm_ends
    }

    /// Prints a line, if anybody asked for it.
    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>9} {}", self.now, line());
        }
    }

    /// A cluster whose hosts have joined and whose agents start.
    fn set_up(&mut self) {
        self.elect(0);
        let node = Principal::Node { name: "coordinator-1".parse().unwrap() };
        let init = cluster_state::Command::Init {
            id: "simulated".to_owned(),
            ca_certificate: vec![1],
            ca_key: vec![2],
            node: "coordinator-1".parse().unwrap(),
            node_id: 1,
            api_address: "127.0.0.1:7400".to_owned(),
            raft_address: "127.0.0.1:7401".to_owned(),
            public_key: vec![3],
        };
        self.storm(|world| {
            world.propose(0, 1, node, Command::Cluster(init)).unwrap();
            for (name, _) in HOSTS {
                let name: HostName = name.parse().unwrap();
                world.join_again(0, 1, &name);
                world.propose_host(0, 1, &name, host::Change::Facts(operator::facts())).unwrap();
            }
        });
        for (name, _) in HOSTS {
            let name: HostName = name.parse().unwrap();
            self.agents.insert(name.clone(), Agent::default());
            self.start_agent(&name);
            self.schedule.at(self.now, Event::Agent(name));
        }
        self.schedule.at(self.now + 500, Event::Operator);
        self.schedule.at(self.now + 5_000, Event::Fault);
        self.schedule.at(self.storm_ends, Event::Calm);
    }

    /// Does something during which nothing breaks.
    fn storm(&mut self, what: impl FnOnce(&mut Self)) {
        let ends = std::mem::replace(&mut self.storm_ends, 0);
        what(self);
        self.storm_ends = ends;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(message) => self.deliver(*message),
            Event::Agent(host) => self.agent_timer(&host),
            Event::Start(host) => self.start_agent(&host),
            Event::Connect(host) => self.connect(&host),
            Event::Cut { host, until } => {
                if self.is_stormy() {
                    self.agents.get_mut(&host).unwrap().cut_until = until;
                }
            }
            Event::Effect(effect) => self.reach_disk(&effect),
            Event::Tick { node, term } => {
                self.tick(node, term);
                if self.leader == Some((node, term)) {
                    self.check_leader(node);
                }
            }
            Event::Wake { node, term } => {
                self.nodes[node].is_wake_planned = false;
                self.reconcile(node, term);
            }
            Event::Elect(node) => self.elect(node),
            Event::Notice { node, term } => self.notice(node, term),
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::Calm => self.calm(),
        }
    }

    /// Something breaks.
    fn fault(&mut self) {
        if !self.is_stormy() {
            return;
        }
        let pause = self.random.between(1_000, 20_000);
        self.schedule.at(self.now + pause, Event::Fault);
        let host: HostName = self.random.pick(&HOSTS).0.parse().unwrap();
        let now = self.now;
        match self.random.below(10) {
            0..=2 => {
                self.trace(|| format!("{host} is killed"));
                self.agents.get_mut(&host).unwrap().crash();
                let away = if self.random.permille(200) { 60_000 } else { 4_000 };
                let after = self.random.between(100, away);
                self.schedule.at(now + after, Event::Start(host));
            }
            3..=5 => {
                let cut = self.random.between(500, 70_000);
                self.trace(|| format!("the network of {host} stands still for {cut} ms"));
                self.agents.get_mut(&host).unwrap().cut_until = now + cut;
            }
            6 | 7 => {
                let pause = self.random.between(500, 60_000);
                self.trace(|| format!("{host} sleeps for {pause} ms"));
                self.agents.get_mut(&host).unwrap().paused_until = now + pause;
            }
            _ => self.depose(),
        }
    }

    /// Everything is put back in place: agents run, hosts take steps, and who was revoked has joined again.
    fn calm(&mut self) {
        let now = self.now;
        for agent in self.agents.values_mut() {
            agent.cut_until = agent.cut_until.min(now);
            agent.paused_until = agent.paused_until.min(now);
        }
        let Some((node, term)) = self.leader else {
            self.schedule.at(now + 500, Event::Calm);
            return;
        };
        for (name, _) in HOSTS {
            let name: HostName = name.parse().unwrap();
            self.start_agent(&name);
            let known = self.nodes[node].state.hosts().get(&TenantId::default_tenant(), &name);
            match known.map(|known| known.status) {
                Some(HostStatus::Revoked | HostStatus::Invited) => self.join_again(node, term, &name),
                Some(HostStatus::Draining) => {
                    self.propose_host(node, term, &name, host::Change::Drain(false)).ok();
                }
                Some(HostStatus::Enrolled) | None => {}
            }
        }
        self.resume_all(node, term);
        self.trace(|| "calm".to_owned());
    }

    /// Whether nothing is left to do.
    fn is_at_rest(&self) -> bool {
        let state = self.state();
        state.migrations().active().next().is_none() && self.agents.values().all(Agent::is_quiet)
    }
}
