//! The replicated state. Pure.
//!
//! [`State::apply`] is a function of the state, the stamp and the command: it reads no clock, draws nothing, awaits
//! nothing and touches no file, so that every replica that applies the same log holds the same state. It is total: a
//! command that no longer fits is refused, and a refused command changes nothing.
//!
//! One file holds one kind of record. Every record is keyed by tenant and id and carries who made it; no look-up
//! without a tenant exists. What the leader should do after a command is returned as effects, which are hints only.

pub mod access;
pub mod attempt;
pub mod audit;
mod audit_v1;
pub mod cluster;
pub mod control;
#[cfg(test)]
mod control_test;
mod creation;
mod cutover;
mod document;
pub mod effect;
pub mod finding;
pub mod host;
mod host_limit;
pub mod invariant;
pub mod join;
pub mod lease;
mod life;
#[cfg(test)]
mod life_test;
pub mod migration;
pub mod outbox;
pub mod piece;
#[cfg(test)]
mod property_test;
pub mod query;
pub mod queue;
pub mod refusal;
pub mod request;
mod request_id;
pub mod retention;
pub mod roots;
#[cfg(test)]
pub(crate) mod sample;
pub mod secret;
pub mod snapshot;
pub mod stamp;
pub mod step;
pub mod table;
#[cfg(test)]
mod trust_test;
#[cfg(test)]
mod way_back_test;

use std::sync::Arc;

use common::failure::FailureKind;
use common::host::HostStatus;
use common::id::{MigrationId, TenantId};
use common::principal::Principal;
use serde::{Deserialize, Serialize};

use access::Access;
use attempt::Source;
use audit::{Audit, Deed, Note};
use cluster::Cluster;
use effect::Effect;
use host::Hosts;
use lease::Lease;
use migration::Migrations;
use outbox::Outboxes;
use piece::{Piece, Pieces};
use refusal::Refusal;
use request::Requests;
use secret::Secrets;
use stamp::Stamp;

/// Everything that is replicated. A copy costs the same however much it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    cluster: Arc<Cluster>,
    hosts: Hosts,
    migrations: Migrations,
    outboxes: Outboxes,
    audit: Audit,
    pieces: Pieces,
    access: Access,
    secrets: Secrets,
    requests: Requests,
}

/// What can be asked of the state: an intent, not resulting rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The cluster and its nodes.
    Cluster(cluster::Command),
    /// A host.
    Host(host::Command),
    /// A migration.
    Migration(migration::Command),
    /// A lease.
    Lease(lease::Command),
    /// A line of audit alone, as the first version of the log holds it.
    Audit(Note),
    /// A piece of a command that is larger than a log entry may be.
    Piece(Piece),
    /// The audit's own: what was refused, and pages.
    AuditLog(audit::Command),
    /// A user, an API key, a tenant, or a host's labels.
    Access(access::command::Command),
    /// A secret, or the cluster key.
    Secret(secret::Command),
    /// A change that is made once for the call that asks for it.
    Once {
        /// What the call names itself.
        request: String,
        /// The change.
        command: Box<Self>,
    },
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The answer to who asked.
    pub outcome: Outcome,
    /// What the leader should do.
    pub effects: Vec<Effect>,
}

/// The answer to who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is so.
    Done,
    /// A migration stands for the request.
    Created {
        /// Which.
        migration: MigrationId,
        /// Whether this command made it.
        is_new: bool,
    },
    /// A lease was given.
    Granted(Lease),
    /// A host joined.
    Enrolled {
        /// The generation that its certificate gets.
        generation: u64,
        /// Whether this answers a repeated request.
        is_repeated: bool,
    },
    /// A host may have its next certificate.
    Renewed {
        /// The generation that it gets.
        generation: u64,
    },
    /// A node joined.
    NodeEnrolled {
        /// Its number in raft.
        node_id: u64,
    },
    /// An event is durable, or was before.
    Acknowledged {
        /// The highest number of the agent's outbox that the state holds.
        number: u64,
        /// Whether it changed something; a late one under a lease that is over does not.
        is_effective: bool,
    },
    /// A secret has this version.
    SecretSet {
        /// Its number.
        version: u32,
    },
}

impl Applied {
    /// Nothing to tell.
    fn done() -> Self {
        Self::new(Outcome::Done)
    }

    fn new(outcome: Outcome) -> Self {
        Self { outcome, effects: Vec::new() }
    }

    fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    fn effects(mut self, effects: Vec<Effect>) -> Self {
        self.effects.extend(effects);
        self
    }
}

impl State {
    /// Applies one committed command.
    ///
    /// # Errors
    /// Total: a command that no longer fits is refused, and a refused command changes nothing.
    pub fn apply(&mut self, stamp: Stamp, command: Command) -> Result<Applied, Refusal> {
        // Copies are cheap, and a half-applied command would be a diverged replica.
        let mut next = self.clone();
        let applied = next.apply_to(&stamp, command)?;
        debug_assert_eq!(invariant::check(&next), Ok(()), "after log index {}", stamp.index);
        *self = next;
        Ok(applied)
    }

    fn apply_to(&mut self, stamp: &Stamp, command: Command) -> Result<Applied, Refusal> {
        self.check_scope(stamp, command.change())?;
        let deed = audit_deed(stamp, &command);
        if deed.is_some() {
            self.audit.check_room(stamp)?;
        }
        let applied = match command {
            Command::Cluster(it) => Arc::make_mut(&mut self.cluster).apply(stamp, it)?,
            Command::Host(it) => self.apply_host(stamp, it)?,
            Command::Migration(it) => self.apply_migration(stamp, it)?,
            Command::Lease(it) => self.migrations.apply_lease(stamp, &self.hosts, it)?,
            Command::Audit(note) => {
                self.audit.write(stamp, &self.cluster.ca_key, note.into());
                Applied::done()
            }
            Command::AuditLog(it) => self.audit.apply(stamp, &self.cluster.ca_key, it)?,
            Command::Access(it) => self.apply_access(stamp, it)?,
            Command::Secret(it) => self.apply_secret(stamp, it)?,
            Command::Once { request, command } => return self.apply_once(stamp, &request, *command),
            Command::Piece(it) => match self.pieces.take(stamp, it)? {
                None => Applied::done(),
                Some(bytes) => {
                    let command = snapshot::decode_command(&bytes)?;
                    if matches!(command, Command::Piece(_)) {
                        let message = "a piece holds a piece";
                        return Err(Refusal::new(
                            FailureKind::Invalid,
                            message,
                            "this is a fault of the caller",
                        ));
                    }
                    return self.apply_to(stamp, command);
                }
            },
        };
        if let Some(deed) = deed {
            self.audit.write(stamp, &self.cluster.ca_key, deed);
        }
        Ok(applied)
    }

    /// Nothing happens before `init`, and nobody reaches into another's tenant: a foreign id is an absent one.
    fn check_scope(&self, stamp: &Stamp, command: &Command) -> Result<(), Refusal> {
        let is_init = matches!(command, Command::Cluster(cluster::Command::Init { .. }));
        if !is_init && !self.cluster.is_initialized() {
            let hint = "run `drover-coordinator init` on the first node";
            return Err(Refusal::new(FailureKind::Conflict, "the cluster was not initialized", hint));
        }
        let Some(tenant) = command.tenant() else { return self.check_alive(stamp) };
        let is_within = match &stamp.principal {
            Principal::Agent { tenant: own, .. } => own == tenant,
            principal @ (Principal::Person { .. } | Principal::Key { .. }) => {
                let is_account = matches!(command, Command::Access(_));
                self.access.reaches(principal, tenant, stamp.wall, is_account)
            }
            Principal::Node { .. } => return Ok(()),
        };
        if !is_within {
            return Err(Refusal::absent("record", &command.object()));
        }
        Ok(())
    }

    /// A person or key that was disabled while its call was on the way changes nothing any more.
    fn check_alive(&self, stamp: &Stamp) -> Result<(), Refusal> {
        let is_granted = matches!(stamp.principal, Principal::Person { .. } | Principal::Key { .. });
        if is_granted && self.access.grants(&stamp.principal, stamp.wall).is_none() {
            let message = format!("nothing of {} is accepted any more", stamp.principal);
            return Err(Refusal::new(FailureKind::Unauthenticated, message, "ask an admin"));
        }
        Ok(())
    }

    fn apply_access(&mut self, stamp: &Stamp, command: access::command::Command) -> Result<Applied, Refusal> {
        use access::command::Command as Change;
        if let Change::LabelHost { tenant, host, .. } = &command
            && self.hosts.get(tenant, host).is_none()
        {
            return Err(Refusal::absent("host", host));
        }
        let limited = match &command {
            Change::LimitTenant { name, migrations_max } => Some((name.clone(), *migrations_max)),
            _ => None,
        };
        let applied = self.access.apply(stamp, command)?;
        let Some((name, migrations_max)) = limited else { return Ok(applied) };
        self.migrations.set_limit(name, migrations_max);
        Ok(applied.effects(self.migrations.start_waiting(stamp)))
    }

    fn apply_host(&mut self, stamp: &Stamp, command: host::Command) -> Result<Applied, Refusal> {
        let (tenant, name, change) = (command.tenant.clone(), command.host.clone(), command.change.clone());
        let mut applied = self.hosts.apply(stamp, command)?;
        let effects = match change {
            host::Change::Enroll { .. } => {
                if !matches!(applied.outcome, Outcome::Enrolled { is_repeated: true, .. }) {
                    self.outboxes.reset(&tenant, &name);
                }
                Vec::new()
            }
            host::Change::Started { incarnation } => {
                self.migrations.lose_leases_of(stamp, &tenant, &name, incarnation)?
            }
            host::Change::Revoke => self.migrations.cut_off(stamp, &tenant, &name)?,
            host::Change::Limit(change) => {
                self.migrations.limit_host(&tenant, &name, change)?;
                self.migrations.start_waiting(stamp)
            }
            host::Change::Invite { .. }
            | host::Change::Renew { .. }
            | host::Change::Seen { .. }
            | host::Change::Facts(_)
            | host::Change::Drain(_) => Vec::new(),
        };
        applied.effects.extend(effects);
        Ok(applied)
    }

    fn apply_migration(&mut self, stamp: &Stamp, command: migration::Command) -> Result<Applied, Refusal> {
        match command {
            migration::Command::Create(create) => {
                self.check_hosts(&create)?;
                self.migrations.create(stamp, *create)
            }
            migration::Command::Act { tenant, migration, act } => {
                self.migrations.act(stamp, &tenant, &migration, act)
            }
            migration::Command::Event { tenant, host, number, migration, step, token, event } => {
                let is_new = self.outboxes.take(&tenant, &host, number);
                let number = self.outboxes.acknowledged(&tenant, &host);
                let source = Source { host, migration, step, token };
                let id = source.migration.clone();
                let mut effects =
                    if is_new { self.migrations.apply_event(stamp, &tenant, &source, event) } else { None };
                if let Some(effects) = &mut effects
                    && self.migrations.get(&tenant, &id).is_some_and(|it| it.status.is_end())
                {
                    // Its place under the tenant's limit is free.
                    effects.extend(self.migrations.start_waiting(stamp));
                }
                let outcome = Outcome::Acknowledged { number, is_effective: effects.is_some() };
                Ok(Applied::new(outcome).effects(effects.unwrap_or_default()))
            }
            migration::Command::Retain { tenant, condense, forget } => {
                self.migrations.retain(stamp, &tenant, condense, &forget)
            }
            migration::Command::Progress { tenant, checkpoints } => {
                if checkpoints.len() > migration::CHECKPOINTS_MAX {
                    let message = format!("at most {} checkpoints at once", migration::CHECKPOINTS_MAX);
                    return Err(Refusal::new(FailureKind::Invalid, message, "this is a fault of the caller"));
                }
                self.migrations.apply_progress(stamp, &tenant, checkpoints);
                Ok(Applied::done())
            }
        }
    }

    fn apply_secret(&mut self, stamp: &Stamp, command: secret::Command) -> Result<Applied, Refusal> {
        let present = self.cluster.cluster_key();
        match &command {
            secret::Command::UseKey { ca_key, before } => {
                Arc::make_mut(&mut self.cluster).reseal(before, ca_key)?;
            }
            secret::Command::NextKey(_) => self.secrets.end_rotation(present),
            secret::Command::DropOldKeys { present: asked } => self.secrets.drop_old_keys(*asked, present)?,
            secret::Command::Set { head, .. } => self.secrets.check_key(head, present)?,
            secret::Command::Rewrap(rewrapped) => {
                rewrapped.iter().try_for_each(|one| self.secrets.check_key(&one.after, present))?;
            }
            secret::Command::Delete { .. }
            | secret::Command::Label { .. }
            | secret::Command::ForgetNextKey => {}
        }
        self.secrets.apply(stamp, command)
    }

    /// A plan's hosts are the tenant's own and have joined.
    fn check_hosts(&self, create: &migration::Create) -> Result<(), Refusal> {
        let hosts = create.plan.steps.iter().flat_map(|step| std::iter::once(&step.host).chain(&step.peer));
        for name in hosts {
            let host = self.hosts.get(&create.tenant, name).ok_or_else(|| Refusal::absent("host", name))?;
            if !matches!(host.status, HostStatus::Enrolled | HostStatus::Draining) {
                let message = format!("the host `{name}` has not joined, or is revoked");
                let hint = format!("see `ctl host show {name}`");
                return Err(Refusal::new(FailureKind::Conflict, message, hint));
            }
        }
        Ok(())
    }

    /// Returns the cluster's own record.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Returns the hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Returns the migrations.
    pub fn migrations(&self) -> &Migrations {
        &self.migrations
    }

    /// Returns how far agents' outboxes are acknowledged.
    pub fn outboxes(&self) -> &Outboxes {
        &self.outboxes
    }

    /// Returns who may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Returns the secrets, sealed.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Returns the end of the audit chain.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }
}

impl Command {
    /// Returns the change itself.
    fn change(&self) -> &Self {
        match self {
            Self::Once { command, .. } => command,
            other => other,
        }
    }

    /// Returns whose records the command is about; none when it is about the cluster.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Cluster(_)
            | Self::AuditLog(_)
            | Self::Secret(
                secret::Command::Rewrap(_)
                | secret::Command::NextKey(_)
                | secret::Command::UseKey { .. }
                | secret::Command::ForgetNextKey
                | secret::Command::DropOldKeys { .. },
            ) => None,
            Self::Host(host::Command { tenant, .. })
            | Self::Lease(
                lease::Command::Grant { tenant, .. }
                | lease::Command::End { tenant, .. }
                | lease::Command::Hurry { tenant, .. },
            )
            | Self::Audit(Note { tenant, .. })
            | Self::Piece(Piece { tenant, .. })
            | Self::Secret(
                secret::Command::Set { tenant, .. }
                | secret::Command::Delete { tenant, .. }
                | secret::Command::Label { tenant, .. },
            )
            | Self::Migration(
                migration::Command::Act { tenant, .. }
                | migration::Command::Event { tenant, .. }
                | migration::Command::Progress { tenant, .. }
                | migration::Command::Retain { tenant, .. },
            ) => Some(tenant),
            Self::Migration(migration::Command::Create(create)) => Some(&create.tenant),
            Self::Access(it) => it.tenant(),
            Self::Once { command, .. } => command.tenant(),
        }
    }

    /// Returns what a principal asks for and of what, as the audit names it; none for what no principal decides.
    pub fn subject(&self) -> Option<(&'static str, String)> {
        Some((self.action()?, self.object()))
    }

    /// Returns the name of what the command is about, for people.
    fn object(&self) -> String {
        match self {
            Self::Cluster(cluster::Command::Init { id, .. }) => id.clone(),
            Self::Cluster(
                cluster::Command::InviteNode { name, .. }
                | cluster::Command::EnrollNode { name, .. }
                | cluster::Command::NodeAddresses { name, .. }
                | cluster::Command::RemoveNode { name },
            ) => name.to_string(),
            Self::Host(host::Command { host, .. }) => host.to_string(),
            Self::Lease(
                lease::Command::Grant { migration, .. }
                | lease::Command::End { migration, .. }
                | lease::Command::Hurry { migration, .. },
            )
            | Self::Migration(
                migration::Command::Act { migration, .. } | migration::Command::Event { migration, .. },
            ) => migration.to_string(),
            Self::Migration(migration::Command::Create(create)) => create.migration.to_string(),
            Self::Migration(migration::Command::Progress { .. }) => "progress".to_owned(),
            Self::Access(it) => it.object(),
            Self::Once { command, .. } => command.object(),
            Self::Migration(migration::Command::Retain { .. }) => "retention".to_owned(),
            Self::Audit(note) => note.object.clone(),
            Self::AuditLog(_) => "audit".to_owned(),
            Self::Piece(_) => "command".to_owned(),
            Self::Secret(
                secret::Command::Set { name, .. }
                | secret::Command::Delete { name, .. }
                | secret::Command::Label { name, .. },
            ) => name.to_string(),
            Self::Secret(
                secret::Command::Rewrap(_)
                | secret::Command::NextKey(_)
                | secret::Command::UseKey { .. }
                | secret::Command::ForgetNextKey
                | secret::Command::DropOldKeys { .. },
            ) => "cluster key".to_owned(),
        }
    }

    /// Returns what is written into the audit for it; none for what no principal decides.
    fn action(&self) -> Option<&'static str> {
        match self {
            Self::Cluster(it) => Some(match it {
                cluster::Command::Init { .. } => "cluster.init",
                cluster::Command::InviteNode { .. } => "node.invite",
                cluster::Command::EnrollNode { .. } => "node.enroll",
                cluster::Command::NodeAddresses { .. } => "node.addresses",
                cluster::Command::RemoveNode { .. } => "node.remove",
            }),
            Self::Host(it) => match it.change {
                host::Change::Invite { .. } => Some("host.invite"),
                host::Change::Enroll { .. } => Some("host.enroll"),
                host::Change::Drain(_) => Some("host.drain"),
                host::Change::Revoke => Some("host.revoke"),
                host::Change::Limit(_) => Some("host.limit"),
                host::Change::Renew { .. }
                | host::Change::Seen { .. }
                | host::Change::Started { .. }
                | host::Change::Facts(_) => None,
            },
            Self::Secret(it) => it.action(),
            Self::Migration(migration::Command::Create(_)) => Some("migration.create"),
            Self::Migration(migration::Command::Act { act, .. }) => match act {
                migration::Act::Cancel => Some("migration.cancel"),
                migration::Act::Retry => Some("migration.retry"),
                migration::Act::Cutover => Some("migration.cutover"),
                migration::Act::Rollback => Some("migration.rollback"),
                migration::Act::Settle => Some("migration.settle"),
                migration::Act::Verify { .. } => Some("migration.verify"),
                migration::Act::Pause => Some("migration.pause"),
                migration::Act::Resume => Some("migration.resume"),
                migration::Act::Set(_) => Some("migration.set"),
                migration::Act::Settled { .. }
                | migration::Act::SettleFailed { .. }
                | migration::Act::TimeOut => None,
            },
            Self::Access(it) => Some(it.action()),
            Self::Once { command, .. } => command.action(),
            Self::Migration(
                migration::Command::Event { .. }
                | migration::Command::Progress { .. }
                | migration::Command::Retain { .. },
            )
            | Self::Lease(_)
            | Self::Audit(_)
            | Self::AuditLog(_)
            | Self::Piece(_) => None,
        }
    }
}

/// The line that a change writes with itself.
fn audit_deed(stamp: &Stamp, command: &Command) -> Option<Deed> {
    let action = command.action()?;
    Some(Deed {
        tenant: command.tenant().cloned().unwrap_or_else(TenantId::default_tenant),
        principal: stamp.principal.to_string(),
        address: stamp.address.clone(),
        action: action.to_owned(),
        object: command.object(),
        refused: None,
        count: 1,
    })
}
