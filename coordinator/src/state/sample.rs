//! Small states and commands for tests.

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::{Failure, FailureKind, Retry};
use common::fence::FencingToken;
use common::finding::{Finding, Rule, Severity};
use common::host::HostFacts;
use common::id::{HostName, MigrationId, TenantId};
use common::phase::{Phase, Scope};
use common::plan::{PLAN_VERSION, Plan, PlannedStep};
use common::principal::Principal;
use common::spec::{MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec, TransferSpec};
use common::step::file::{FileOutput, RootIdentity};
use common::step::{Reversibility, StepKind};
use common::view::{MigrationStatus, StepStatus};

use super::lease::{self, Lease};
use super::migration::{self, Act, Create, Migration, WayBack};
use super::refusal::Refusal;
use super::roots::{Root, Roots};
use super::stamp::Stamp;
use super::step::Event;
use super::{Applied, Command, Outcome, State, cluster, host};

/// The tenant of all samples.
pub(crate) fn tenant() -> TenantId {
    TenantId::default_tenant()
}

/// An operator.
pub(crate) fn operator() -> Principal {
    Principal::Person { tenant: tenant(), name: "root".to_owned() }
}

/// A node.
pub(crate) fn node() -> Principal {
    Principal::Node { name: "coordinator-1".parse().unwrap() }
}

/// Flags of a plain copy from `web1:/a` to `web2:/b`.
pub(crate) fn spec() -> MigrationSpec {
    let side = |location: &str| SideSpec {
        location: location.parse().unwrap(),
        exclude: Vec::new(),
        include: Vec::new(),
    };
    MigrationSpec {
        version: SPEC_VERSION,
        name: "a to b".to_owned(),
        source: side("web1:/a"),
        destination: side("web2:/b"),
        transfer: TransferSpec::default(),
        options: OptionsSpec::default(),
        sanitize: None,
        origin: Origin::Flags,
        labels: common::grant::Labels::new(),
    }
}

/// Roots of a destination that no other sample touches.
pub(crate) fn roots(inode: u64) -> Roots {
    let root = |host: &str, inode: u64| Root {
        host: host.parse().unwrap(),
        path: format!("/root-{inode}"),
        chain: vec![RootIdentity { boot_id: host.to_owned(), device: 1, inode }],
        missing: Vec::new(),
    };
    Roots { source: root("web1", 1_000_000 + inode), destination: root("web2", inode) }
}

/// Copy, then verify.
pub(crate) fn plan(id: &MigrationId) -> Plan {
    let step = |kind: StepKind, id: &str, after: &[&str], reversibility| PlannedStep {
        id: id.parse().unwrap(),
        kind,
        version: 1,
        phase: Phase::Copy,
        scope: Scope::Whole,
        host: "web2".parse().unwrap(),
        peer: Some("web1".parse().unwrap()),
        after: after.iter().map(|id| id.parse().unwrap()).collect(),
        is_continuous: false,
        reversibility,
        weight: 50,
        params: "{}".to_owned(),
    };
    Plan {
        version: PLAN_VERSION,
        migration: id.clone(),
        generation: 1,
        parent: None,
        steps: vec![
            step(StepKind::FileCopy, "file.copy-1", &[], Reversibility::Reversible),
            step(StepKind::FileVerify, "file.verify-1", &["file.copy-1"], Reversibility::ReadOnly),
        ],
        settles: Vec::new(),
    }
}

/// A state with the log that made it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The state.
    pub(crate) state: State,
    /// The last index.
    pub(crate) index: u64,
    /// The leader's time.
    pub(crate) now: u64,
}

impl Log {
    /// A cluster with `web1` and `web2` joined and started once.
    pub(crate) fn new() -> Self {
        let mut log = Self { state: State::default(), index: 0, now: 1_000 };
        log.apply(node(), init()).unwrap();
        for name in ["web1", "web2"] {
            let name: HostName = name.parse().unwrap();
            let token = Digest::of(name.as_str().as_bytes());
            let invite = host::Change::Invite { token, expires: WallMs(u64::MAX) };
            log.host(name.as_str(), invite).unwrap();
            log.host(name.as_str(), host::Change::Enroll { token, public_key: vec![1] }).unwrap();
            log.host(name.as_str(), host::Change::Started { incarnation: 1 }).unwrap();
            log.host(name.as_str(), host::Change::Facts(HostFacts::default())).unwrap();
        }
        log
    }

    /// Applies a command.
    pub(crate) fn apply(&mut self, principal: Principal, command: Command) -> Result<Applied, Refusal> {
        self.index += 1;
        let epoch = self.state.cluster().epoch;
        let address = matches!(principal, Principal::Person { .. }).then(|| "192.0.2.7".to_owned());
        let stamp = Stamp { index: self.index, epoch, wall: WallMs(self.now), principal, address };
        self.state.apply(stamp, command)
    }

    /// Changes a host.
    pub(crate) fn host(&mut self, name: &str, change: host::Change) -> Result<Applied, Refusal> {
        let host = name.parse().unwrap();
        self.apply(node(), Command::Host(host::Command { tenant: tenant(), host, change }))
    }

    /// Makes a migration onto a root of its own.
    pub(crate) fn create(
        &mut self,
        id: &str,
        inode: u64,
        change: impl FnOnce(&mut Create),
    ) -> Result<Applied, Refusal> {
        let migration: MigrationId = id.parse().unwrap();
        let mut create = Create {
            tenant: tenant(),
            migration: migration.clone(),
            request_id: format!("request-{id}"),
            spec: spec().into(),
            roots: roots(inode),
            plan: plan(&migration).into(),
            is_confirmed: false,
        };
        change(&mut create);
        self.apply(operator(), Command::Migration(migration::Command::Create(Box::new(create))))
    }

    /// Makes a migration with other options onto a root of its own.
    pub(crate) fn create_with(&mut self, id: &str, inode: u64, change: impl FnOnce(&mut OptionsSpec)) {
        self.create(id, inode, |create| {
            let mut spec = spec();
            change(&mut spec.options);
            create.spec = spec.into();
        })
        .unwrap();
    }

    /// Asks something of a migration.
    pub(crate) fn act(&mut self, id: &str, act: Act) -> Result<Applied, Refusal> {
        let migration = id.parse().unwrap();
        self.apply(
            operator(),
            Command::Migration(migration::Command::Act { tenant: tenant(), migration, act }),
        )
    }

    /// Returns a migration that is there.
    pub(crate) fn migration(&self, id: &str) -> &Migration {
        self.state.migrations().get(&tenant(), &id.parse().unwrap()).unwrap()
    }

    /// Returns how a migration stands.
    pub(crate) fn status(&self, id: &str) -> MigrationStatus {
        self.migration(id).status
    }

    /// Returns how its steps stand.
    pub(crate) fn steps(&self, id: &str) -> Vec<StepStatus> {
        self.migration(id).statuses()
    }

    /// Returns what `ctl` would exit with.
    pub(crate) fn exit_code(&self, id: &str) -> Option<u8> {
        self.migration(id).exit_code()
    }

    /// Asks for a grant of whatever may start.
    pub(crate) fn ask(&mut self, id: &str) -> Result<Outcome, Refusal> {
        let migration = self.migration(id);
        let startable = migration.startable(WallMs(self.now)).into_iter().next();
        let Some(startable) = startable else {
            return Err(Refusal::new(FailureKind::NotFound, "nothing may start", ""));
        };
        let planned = &migration.plan.steps[startable.place];
        let host = planned.host.clone();
        let command = lease::Command::Grant {
            tenant: tenant(),
            migration: id.parse().unwrap(),
            generation: migration.plan.generation,
            step: planned.id.clone(),
            incarnation: self.state.hosts().get(&tenant(), &host).unwrap().incarnation,
            host,
            is_undo: startable.is_undo,
        };
        Ok(self.apply(node(), Command::Lease(command))?.outcome)
    }

    /// Grants whatever may start; returns the lease.
    pub(crate) fn try_grant(&mut self, id: &str) -> Result<Lease, Refusal> {
        match self.ask(id)? {
            Outcome::Granted(lease) => Ok(lease),
            other => panic!("{other:?}"),
        }
    }

    /// Grants whatever may start.
    pub(crate) fn grant(&mut self, id: &str) -> Lease {
        self.try_grant(id).unwrap()
    }

    /// Reports under the lease that is held.
    pub(crate) fn report(&mut self, id: &str, event: Event) -> Applied {
        let migration = self.migration(id);
        let place = migration.steps.iter().position(|step| step.lease.is_some()).expect("a lease is held");
        let step = migration.plan.steps[place].id.clone();
        let token = migration.steps[place].lease.as_ref().unwrap().token;
        let host = migration.plan.steps[place].host.clone();
        let number = self.state.outboxes().acknowledged(&tenant(), &host) + 1;
        self.report_as(id, step.as_str(), token, number, event)
    }

    /// Reports under any lease.
    pub(crate) fn report_as(
        &mut self,
        id: &str,
        step: &str,
        token: FencingToken,
        number: u64,
        event: Event,
    ) -> Applied {
        let command = migration::Command::Event {
            tenant: tenant(),
            host: "web2".parse().unwrap(),
            number,
            migration: id.parse().unwrap(),
            step: step.parse().unwrap(),
            token,
            event,
        };
        self.apply(node(), Command::Migration(command)).unwrap()
    }

    /// Runs the next step to this output.
    pub(crate) fn run(&mut self, id: &str, output: &FileOutput) {
        self.grant(id);
        self.report(id, Event::Succeeded(serde_json::to_string(output).unwrap()));
    }

    /// Says that the way back is gone.
    pub(crate) fn settled(&mut self, id: &str) {
        let WayBack::Settling(token) = self.migration(id).way_back else {
            panic!("nothing is being settled")
        };
        self.act(id, Act::Settled { token }).unwrap();
    }

    /// Copies and verifies with these outputs, up to the end.
    pub(crate) fn complete(&mut self, id: &str, copy: &FileOutput, verify: &FileOutput) {
        self.run(id, copy);
        self.run(id, verify);
        if matches!(self.migration(id).way_back, WayBack::Settling(_)) {
            self.settled(id);
        }
    }
}

/// What a copy says in the end.
pub(crate) fn copied() -> FileOutput {
    FileOutput { version: 1, files_total: 3, files_sent: 3, bytes_total: 30, ..FileOutput::default() }
}

/// What a verification says that proved all.
pub(crate) fn verified() -> FileOutput {
    FileOutput { version: 1, is_verified: true, ..FileOutput::default() }
}

/// How an attempt fails.
pub(crate) fn failed(kind: FailureKind, retry: Retry) -> Event {
    Event::Failed(Failure { retry, ..Failure::new(kind, "it did not work") })
}

/// A warning.
pub(crate) fn finding(rule: Rule, object: &str) -> Finding {
    Finding {
        rule,
        severity: Severity::Warning,
        object: object.to_owned(),
        message: String::new(),
        hint: String::new(),
    }
}

/// The first entry.
pub(crate) fn init() -> Command {
    Command::Cluster(cluster::Command::Init {
        id: "c1".to_owned(),
        ca_certificate: vec![1],
        ca_key: vec![2],
        node: "coordinator-1".parse().unwrap(),
        node_id: 1,
        api_address: "127.0.0.1:7400".to_owned(),
        raft_address: "127.0.0.1:7401".to_owned(),
        public_key: vec![5],
    })
}
