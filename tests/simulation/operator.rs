//! People: what they ask for, at any moment, whether it fits or not.

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::FailureKind;
use common::host::{HostFacts, HostStatus};
use common::id::{HostName, MigrationId, TenantId};
use common::phase::{Phase, Scope};
use common::plan::{Plan, PlannedStep};
use common::principal::Principal;
use common::spec::{
    CatchUpSpec, Cutover, MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec, TransferSpec,
};
use common::step::file::{FileParams, RootAnswer, RootIdentity};
use common::step::{Reversibility, StepKind, StepVersion};
use common::view::MigrationStatus;
use coordinator::planner::{self, Side};
use coordinator::state::migration::{self, Act, Create, Migration};
use coordinator::state::roots::{Root, Roots};
use coordinator::state::{Command, Outcome, host};

use crate::cluster::Unproposed;
use crate::schedule::Event;
use crate::wire::Place;
use crate::world::World;
use tests::random::Random;

/// Hosts with the machine that each stands on: `web2` and `web3` are two agents on one.
pub(crate) const HOSTS: [(&str, u64); 4] = [("web1", 1), ("web2", 2), ("web3", 2), ("web4", 3)];
/// Destinations on each machine; few, so that migrations meet.
const ROOTS: u64 = 3;

/// Returns where a step works.
pub(crate) fn place_of(migration: &MigrationId, planned: &PlannedStep) -> Place {
    let params: FileParams = serde_json::from_str(&planned.params).unwrap();
    let mut names = params.destination_root.split('/').skip(2);
    let root = names.next().unwrap().parse().unwrap();
    let part = names.next().unwrap_or_default().to_owned();
    Place { machine: machine_of(&planned.host), root, migration: migration.clone(), part }
}

fn machine_of(host: &HostName) -> u64 {
    HOSTS.iter().find(|(name, _)| *name == host.as_str()).unwrap().1
}

/// What every agent says of itself.
pub(crate) fn facts() -> HostFacts {
    let kinds = [StepKind::FileCopy, StepKind::FileCatchUp, StepKind::FileFinish, StepKind::FileVerify];
    HostFacts {
        steps: kinds
            .iter()
            .map(|kind| StepVersion { kind: *kind, version: kind.descriptor().version })
            .collect(),
        data_addresses: vec!["127.0.0.1:7443".parse().unwrap()],
        ..HostFacts::default()
    }
}

fn operator() -> Principal {
    Principal::Person { tenant: TenantId::default_tenant(), name: "root".to_owned() }
}

/// What an agent answers about a root: one folder has one identity under every name.
fn answer(host: &HostName, path: &str, inode: u64) -> RootAnswer {
    let identity = |inode| RootIdentity { boot_id: format!("boot-{}", machine_of(host)), device: 1, inode };
    RootAnswer {
        exists: true,
        canonical_path: path.to_owned(),
        identity: Some(identity(inode)),
        ancestors: vec![identity(2)],
        missing: Vec::new(),
        free_bytes: 1 << 40,
        free_inodes: 1 << 20,
        fs_type: "ext4".to_owned(),
        findings: Vec::new(),
    }
}

fn options(random: &mut Random) -> OptionsSpec {
    OptionsSpec {
        dry_run: random.permille(80),
        rollback_on_failure: random.permille(700),
        rollback_window_ms: random.permille(600).then(|| random.between(5_000, 120_000)),
        timeout_ms: random.permille(150).then(|| random.between(20_000, 200_000)),
        ..OptionsSpec::default()
    }
}

fn catch_up(random: &mut Random) -> Option<CatchUpSpec> {
    let cutover = if random.permille(500) { Cutover::Manual } else { Cutover::Auto };
    random.permille(500).then(|| CatchUpSpec { cutover, ..CatchUpSpec::default() })
}

/// A plan as a later planner may make it: any graph, with steps that go on, that only read and that cannot be undone.
fn graph(random: &mut Random, plan: &mut Plan, spec: &MigrationSpec) {
    let template = plan.steps[0].clone();
    let mut params: FileParams = serde_json::from_str(&template.params).unwrap();
    let root = spec.destination.location.path.clone();
    let count = random.between(1, 5);
    plan.steps = (0..count)
        .map(|number| {
            let (kind, is_continuous, reversibility) = match random.below(8) {
                0 => (StepKind::FileVerify, false, Reversibility::ReadOnly),
                1 | 2 if number + 1 < count => (StepKind::FileCatchUp, true, Reversibility::Reversible),
                3 if random.permille(300) => (StepKind::FileFinish, false, Reversibility::Irreversible),
                _ => (StepKind::FileCopy, false, Reversibility::Reversible),
            };
            params.destination_root = format!("{root}/part-{number}");
            let mut after: Vec<String> = (0..number)
                .filter(|_| random.permille(500))
                .map(|earlier| format!("step-{earlier}"))
                .collect();
            // Nothing asks a continuous step to end that nothing waits for.
            after.extend((number > 0 && after.is_empty()).then(|| format!("step-{}", number - 1)));
            PlannedStep {
                id: format!("step-{number}").parse().unwrap(),
                kind,
                phase: if random.permille(300) { Phase::Freeze } else { Phase::Copy },
                after: after.iter().map(|id| id.parse().unwrap()).collect(),
                is_continuous,
                reversibility,
                weight: u32::try_from(random.between(1, 80)).unwrap(),
                params: serde_json::to_string(&params).unwrap(),
                ..template.clone()
            }
        })
        .collect();
    let last = plan.steps.len() - 1;
    let all: Vec<_> = plan.steps[..last].iter().map(|step| step.id.clone()).collect();
    plan.steps[last].after = all;
    plan.steps[last].scope = Scope::Whole;
}

impl World {
    /// Somebody does something.
    pub(crate) fn operate(&mut self) {
        if !self.is_stormy() {
            // Nobody is awaited for ever.
            self.schedule.at(self.now + 5_000, Event::Operator);
            return self.cut_over_all();
        }
        let pause = self.random.between(200, 12_000);
        self.schedule.at(self.now + pause, Event::Operator);
        let Some((node, term)) = self.leader else { return };
        match self.random.below(23) {
            22 => self.ask(node, term, Act::Cutover),
            0..=6 => self.create(node, term),
            7..=9 => self.ask(node, term, Act::Cancel),
            10 | 11 => self.ask(node, term, Act::Retry),
            12 | 13 => self.ask(node, term, Act::Rollback),
            14 => self.ask(node, term, Act::Settle),
            15 => self.verify(node, term),
            16 | 17 => self.change_host(node, term),
            18 => self.reach_across(node, term),
            19 => self.ask(node, term, Act::Pause),
            20 => self.ask(node, term, Act::Resume),
            _ => self.repeat_request(node, term),
        }
    }

    fn cut_over_all(&mut self) {
        let Some((node, term)) = self.leader else { return };
        let state = self.nodes[node].state.clone();
        let awaits =
            |migration: &&std::sync::Arc<Migration>| migration.status == MigrationStatus::AwaitingCutover;
        for migration in state.migrations().active().filter(awaits) {
            self.act(node, term, migration, Act::Cutover);
        }
    }

    fn create(&mut self, node: usize, term: u64) {
        self.requests += 1;
        let request = self.requests;
        let destination = self.random.pick(&["web2", "web3", "web4"]).parse::<HostName>().unwrap();
        let root = self.random.below(ROOTS);
        // The second agent of a machine knows the same folders under other names.
        let above = if destination.as_str() == "web3" { "mnt" } else { "srv" };
        let path = format!("/{above}/{root}");
        let options = options(&mut self.random);
        let is_graph = self.random.permille(500);
        let is_confirmed = self.random.permille(600);
        let side = |location: String| SideSpec {
            location: location.parse().unwrap(),
            exclude: Vec::new(),
            include: Vec::new(),
        };
        let spec = MigrationSpec {
            version: SPEC_VERSION,
            name: format!("request {request}"),
            source: side(format!("web1:/src/{request}")),
            destination: side(format!("{destination}:{path}")),
            transfer: TransferSpec { catch_up: catch_up(&mut self.random), ..TransferSpec::default() },
            options,
            sanitize: None,
            origin: Origin::Flags,
            labels: Default::default(),
        };
        let source: HostName = "web1".parse().unwrap();
        let (from, to) = (
            answer(&source, &format!("/src/{request}"), 1_000 + request),
            answer(&destination, &path, 10 + root),
        );
        let roots = Roots {
            source: Root::new(source.clone(), &from),
            destination: Root::new(destination.clone(), &to),
        };
        let tenant = TenantId::default_tenant();
        let settled = self.nodes[node].state.migrations().settled_by(&tenant, &roots);
        let settles = match settled {
            // A dry run ends nobody's way back.
            _ if spec.options.dry_run => Vec::new(),
            Ok(settles) => settles,
            Err(_) => {
                self.counts.taken += 1;
                return;
            }
        };
        let id: MigrationId = format!("m{request}").parse().unwrap();
        let facts = facts();
        let sides = (
            Side { host: &source, facts: &facts, root: &from },
            Side { host: &destination, facts: &facts, root: &to },
        );
        let mut plan = planner::plan(&id, &spec, sides.0, sides.1, None, settles).unwrap();
        if is_graph {
            graph(&mut self.random, &mut plan, &spec);
        }
        let create = Create {
            tenant,
            migration: id,
            request_id: format!("request-{request}"),
            spec: spec.into(),
            roots,
            plan: plan.into(),
            is_confirmed,
        };
        self.last_request = Some(create.clone());
        self.propose_create(node, term, create);
    }

    fn propose_create(&mut self, node: usize, term: u64, create: Create) {
        let command = Command::Migration(migration::Command::Create(Box::new(create)));
        if let Ok(applied) = self.propose(node, term, operator(), command)
            && let Outcome::Created { migration, .. } = applied.outcome
        {
            self.acknowledged.insert(migration);
        }
    }

    /// An operator that heard nothing asks again, as another id: one request makes one migration.
    fn repeat_request(&mut self, node: usize, term: u64) {
        let Some(mut create) = self.last_request.clone() else { return };
        let id = create.migration.clone();
        create.migration = format!("{id}-again").parse().unwrap();
        let mut plan = (*create.plan).clone();
        plan.migration = create.migration.clone();
        create.plan = plan.into();
        self.propose_create(node, term, create);
    }

    /// Picks a migration, seldom one that has long ended.
    fn pick_migration(&mut self, node: usize) -> Option<std::sync::Arc<Migration>> {
        let state = self.nodes[node].state.clone();
        let holding: Vec<_> = state.migrations().holding().cloned().collect();
        let all: Vec<_> =
            state.migrations().table().all().map(|(_, _, migration)| migration.clone()).collect();
        let from = if holding.is_empty() || self.random.permille(100) { all } else { holding };
        if from.is_empty() { None } else { Some(self.random.pick(&from).clone()) }
    }

    /// Goes on with everything that is paused, so that it may end.
    pub(crate) fn resume_all(&mut self, node: usize, term: u64) {
        let state = self.nodes[node].state.clone();
        for migration in state.migrations().active().filter(|it| it.status == MigrationStatus::Paused) {
            let (tenant, migration) = (migration.tenant.clone(), migration.id.clone());
            let command = migration::Command::Act { tenant, migration, act: Act::Resume };
            self.propose(node, term, operator(), Command::Migration(command)).ok();
        }
    }

    fn ask(&mut self, node: usize, term: u64, act: Act) {
        let Some(migration) = self.pick_migration(node) else { return };
        let is_cancel = act == Act::Cancel && migration.completed.is_none();
        let command = migration::Command::Act {
            tenant: migration.tenant.clone(),
            migration: migration.id.clone(),
            act,
        };
        let done = self.propose(node, term, operator(), Command::Migration(command));
        if done.is_ok() && is_cancel {
            self.cancelled.insert(migration.id.clone());
        }
    }

    fn verify(&mut self, node: usize, term: u64) {
        let Some(migration) = self.pick_migration(node) else { return };
        let is_deep = self.random.permille(500);
        let Ok(step) = planner::verify_again(&migration.plan, &migration.spec, is_deep) else { return };
        let command = migration::Command::Act {
            tenant: migration.tenant.clone(),
            migration: migration.id.clone(),
            act: Act::Verify { step },
        };
        self.propose(node, term, operator(), Command::Migration(command)).ok();
    }

    fn change_host(&mut self, node: usize, term: u64) {
        let name: HostName = self.random.pick(&HOSTS).0.parse().unwrap();
        let known = self.nodes[node].state.hosts().get(&TenantId::default_tenant(), &name);
        let status = known.map(|known| known.status);
        let change = match (status, self.random.below(10)) {
            (Some(HostStatus::Revoked), _) => return self.join_again(node, term, &name),
            (_, 0..=3) => host::Change::Drain(true),
            (_, 4..=8) => host::Change::Drain(false),
            _ => host::Change::Revoke,
        };
        self.propose_host(node, term, &name, change).ok();
    }

    /// Lets a host join with an empty journal, as a machine that was set up again.
    pub(crate) fn join_again(&mut self, node: usize, term: u64, name: &HostName) {
        let token = Digest::of(format!("{name}-{}", self.now).as_bytes());
        let invite = host::Change::Invite { token, expires: WallMs(u64::MAX) };
        let enroll = host::Change::Enroll { token, public_key: vec![1] };
        self.propose_host(node, term, name, invite).ok();
        self.propose_host(node, term, name, enroll).ok();
    }

    pub(crate) fn propose_host(
        &mut self,
        node: usize,
        term: u64,
        name: &HostName,
        change: host::Change,
    ) -> Result<(), Unproposed> {
        let command = host::Command { tenant: TenantId::default_tenant(), host: name.clone(), change };
        self.propose(node, term, operator(), Command::Host(command)).map(drop)
    }

    /// Somebody of another tenant names a migration of ours, under either tenant.
    fn reach_across(&mut self, node: usize, term: u64) {
        let Some(migration) = self.pick_migration(node) else { return };
        let other: TenantId = "other".parse().unwrap();
        let tenant = if self.random.permille(500) { other.clone() } else { migration.tenant.clone() };
        let command = migration::Command::Act { tenant, migration: migration.id.clone(), act: Act::Cancel };
        let stranger = Principal::Person { tenant: other, name: "stranger".to_owned() };
        match self.propose(node, term, stranger, Command::Migration(command)) {
            Ok(_) => self.violate("a stranger changed a migration".to_owned()),
            Err(Unproposed::Refused(refusal)) if refusal.failure().kind != FailureKind::NotFound => {
                self.violate(format!("a stranger learns that {} exists", migration.id));
            }
            Err(_) => {}
        }
    }
}
