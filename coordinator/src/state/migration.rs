//! Migrations: what was asked for, the plan, the steps, and how it goes.
//!
//! The life of one migration is in [`super::life`]; this file holds the record, what can be asked of it, and who finds
//! it. A root is taken until its migration has ended and its way back is over.

use std::sync::Arc;

use common::clock::WallMs;
use common::control::{ControlChange, HostLimits};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::plan::{Plan, PlannedStep};
use common::principal::Principal;
use common::progress::Progress;
use common::spec::MigrationSpec;
use common::view::{MigrationStatus, MigrationView};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::finding::Findings;
use super::refusal::Refusal;
use super::roots::{Overlap, Roots};
use super::stamp::Stamp;
use super::step::{self, Step};
use super::table::Table;
use super::{Applied, Outcome, creation};

/// Checkpoints in one command; more wait for the next.
pub const CHECKPOINTS_MAX: usize = 64;

/// One migration. A copy is cheap: what is large is shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub id: MigrationId,
    /// Who made it.
    pub principal: Principal,
    /// The request that made it; a repeated one makes no second.
    pub request_id: String,
    /// When it was made.
    pub created: WallMs,
    /// What was asked for.
    #[serde(with = "super::document")]
    pub spec: Arc<MigrationSpec>,
    /// The folders that it works on.
    pub roots: Arc<Roots>,
    /// The current plan.
    #[serde(with = "super::document")]
    pub plan: Arc<Plan>,
    /// Where it stands.
    pub status: MigrationStatus,
    /// Why it is or was unwound.
    pub unwinding: Option<UnwindCause>,
    /// The steps, in the order of the plan.
    pub steps: Vec<Step>,
    /// What stopped it, first error first.
    #[serde(with = "super::document")]
    pub failures: Vec<Failure>,
    /// Sentences worth reading.
    pub warnings: Vec<String>,
    /// What was noticed.
    pub findings: Arc<Findings>,
    /// When its first step was granted.
    pub started: Option<WallMs>,
    /// When the time for the whole began to count: with the first grant, and again after an operator's retry.
    pub clock_began: Option<WallMs>,
    /// When it first completed.
    pub completed: Option<WallMs>,
    /// When it ended last.
    pub ended: Option<WallMs>,
    /// Whether it can be undone.
    pub way_back: WayBack,
    /// The highest progress ever shown, in thousandths.
    pub permille_max: u32,
    /// What was kept of one that ended long ago; stands beside the record in a snapshot.
    #[serde(skip)]
    pub condensed: Option<Arc<MigrationView>>,
    /// What an operator said since; stands beside the record in a snapshot.
    #[serde(skip)]
    pub control: Control,
}

/// Why steps are undone; decides what the end is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnwindCause {
    /// A step failed for good.
    Failure,
    /// An operator took it back before its end.
    Cancel,
    /// An operator took it back after its end.
    Rollback,
}

/// Whether what a migration did can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WayBack {
    /// The undo log is kept; until when, if that is set.
    Open(Option<WallMs>),
    /// The destination's agent is to remove it, under this token.
    Settling(FencingToken),
    /// Nothing is kept.
    Ended,
}

/// What can be asked of migrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Makes and queues one.
    Create(Box<Create>),
    /// An operator's word, or that of a deadline.
    Act {
        /// Whose.
        tenant: TenantId,
        /// Which.
        migration: MigrationId,
        /// What.
        act: Act,
    },
    /// An event from an agent's outbox.
    Event {
        /// Whose.
        tenant: TenantId,
        /// The agent.
        host: HostName,
        /// The event's number in the agent's outbox.
        number: u64,
        /// Which migration.
        migration: MigrationId,
        /// Which step.
        step: StepId,
        /// The lease under which it happened.
        token: FencingToken,
        /// What happened.
        event: step::Event,
    },
    /// Coarse checkpoints of progress, at most [`CHECKPOINTS_MAX`].
    Progress {
        /// Whose.
        tenant: TenantId,
        /// How far steps are.
        checkpoints: Vec<Checkpoint>,
    },
    /// Condenses and forgets what ended long ago, at most [`super::retention::RETAINED_MAX`]; the leader's own.
    Retain {
        /// Whose.
        tenant: TenantId,
        /// Those of which only the totals are kept.
        condense: Vec<MigrationId>,
        /// Those of which nothing is kept.
        forget: Vec<MigrationId>,
    },
}

/// A new migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Create {
    /// Whose.
    pub tenant: TenantId,
    /// Its id, drawn by the proposer.
    pub migration: MigrationId,
    /// Made by the caller; a repeated request gets the same migration.
    pub request_id: String,
    /// What was asked for.
    #[serde(with = "super::document")]
    pub spec: Arc<MigrationSpec>,
    /// What the agents found at the roots.
    pub roots: Roots,
    /// What will be done.
    #[serde(with = "super::document")]
    pub plan: Arc<Plan>,
    /// Whether the operator agreed to what the plan ends.
    pub is_confirmed: bool,
}

/// What can be asked of one migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Act {
    /// Stop, and undo what was done.
    Cancel,
    /// Go on with what failed or is stuck.
    Retry,
    /// Undo a migration that has ended.
    Rollback,
    /// End the way back.
    Settle,
    /// The way back is removed at the destination.
    Settled {
        /// The token under which it was asked for.
        token: FencingToken,
    },
    /// The way back could not be removed now; the migration ends without waiting for it.
    SettleFailed {
        /// The token under which it was asked for.
        token: FencingToken,
        /// Why.
        #[serde(with = "super::document")]
        failure: Failure,
    },
    /// Verify once more, by one more step.
    Verify {
        /// The step, with an id that the plan does not have.
        #[serde(with = "super::document")]
        step: PlannedStep,
    },
    /// The time for the whole is over.
    TimeOut,
    /// Hold it up; what has landed stays.
    Pause,
    /// Go on with what is paused.
    Resume,
    /// Change how it runs.
    Set(#[serde(with = "super::document")] ControlChange),
    /// Let the last pass begin.
    Cutover,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which migration.
    pub migration: MigrationId,
    /// Which step.
    pub step: StepId,
    /// The lease under which it was reported.
    pub token: FencingToken,
    /// How far.
    #[serde(with = "super::document")]
    pub progress: Progress,
}

/// All migrations, with what is needed to find those that need something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Migrations {
    table: Table<MigrationId, Migration>,
    /// Those that are not at rest: something runs, or a way back is being removed.
    active: Table<MigrationId, ()>,
    /// Those that hold their roots.
    holding: Table<MigrationId, ()>,
    /// By request.
    requests: Table<String, MigrationId>,
    /// How many of a tenant run beside each other; the record is the tenant's.
    pub(super) limits: RedBlackTreeMapSync<TenantId, u32>,
    /// What the migrations of a host share.
    pub(super) host_limits: Table<HostName, HostLimits>,
}

impl Migrations {
    /// Returns a migration.
    pub fn get(&self, tenant: &TenantId, id: &MigrationId) -> Option<&Arc<Migration>> {
        self.table.get(tenant, id)
    }

    /// Returns the migration that a request made.
    pub fn by_request(&self, tenant: &TenantId, request_id: &str) -> Option<&Arc<Migration>> {
        let id = self.requests.get(tenant, &request_id.to_owned())?;
        self.table.get(tenant, id)
    }

    /// Returns the migrations.
    pub fn table(&self) -> &Table<MigrationId, Migration> {
        &self.table
    }

    /// Returns the migrations that are not at rest: running, unwinding, or with a way back to remove.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Migration>> {
        self.active.all().filter_map(|(tenant, id, _)| self.table.get(tenant, id))
    }

    /// Returns the migrations that hold their roots, the active ones and those with an open way back.
    pub fn holding(&self) -> impl Iterator<Item = &Arc<Migration>> {
        self.holding.all().filter_map(|(tenant, id, _)| self.table.get(tenant, id))
    }

    /// Stores a migration and keeps the indexes.
    pub(super) fn put(&mut self, migration: Migration) {
        let (tenant, id) = (migration.tenant.clone(), migration.id.clone());
        set(&mut self.active, &tenant, &id, migration.is_active());
        set(&mut self.holding, &tenant, &id, migration.holds_roots());
        self.requests.insert(&tenant, migration.request_id.clone(), id.clone());
        self.table.insert(&tenant, id, migration);
    }

    /// Removes a migration and what leads to it.
    pub(super) fn remove(&mut self, tenant: &TenantId, id: &MigrationId) {
        let Some(migration) = self.table.get(tenant, id).cloned() else { return };
        self.requests.remove(tenant, &migration.request_id);
        for index in [&mut self.active, &mut self.holding] {
            index.remove(tenant, id);
        }
        self.table.remove(tenant, id);
    }

    /// Applies what an operator or a deadline asks.
    pub(super) fn act(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        id: &MigrationId,
        act: Act,
    ) -> Result<Applied, Refusal> {
        let mut migration = self.copy(tenant, id)?;
        migration.check_whole()?;
        let was_at_rest = migration.status.is_end();
        let effects = migration.act(stamp, act)?;
        if was_at_rest && !migration.status.is_end() && !migration.spec.options.dry_run {
            // Others may have taken, or read, its roots meanwhile.
            self.refuse_taken(tenant, id, &migration.roots)?;
        }
        self.put(migration);
        let mut applied = Applied::done().effects(effects);
        applied.effects.extend(self.start_waiting(stamp));
        Ok(applied)
    }

    /// Returns a copy to change; a foreign id takes the path of an absent one.
    pub(super) fn copy(&self, tenant: &TenantId, id: &MigrationId) -> Result<Migration, Refusal> {
        let found = self.table.get(tenant, id).ok_or_else(|| Refusal::absent("migration", id))?;
        Ok(found.as_ref().clone())
    }

    /// Makes a migration.
    pub(super) fn create(&mut self, stamp: &Stamp, create: Create) -> Result<Applied, Refusal> {
        let Create { tenant, migration: id, request_id, spec, roots, plan, is_confirmed } = create;
        if let Some(existing) = self.by_request(&tenant, &request_id) {
            return Ok(Applied::new(Outcome::Created { migration: existing.id.clone(), is_new: false }));
        }
        creation::check_new(&id, &request_id, &plan)?;
        if self.table.get(&tenant, &id).is_some() {
            return Err(Refusal::new(FailureKind::Conflict, format!("the id `{id}` is taken"), "ask again"));
        }
        let mut effects = Vec::new();
        if !spec.options.dry_run {
            let over = self.refuse_taken(&tenant, &id, &roots)?;
            creation::refuse_unconfirmed(&over, is_confirmed, &plan.settles)?;
            for earlier in &over {
                let mut earlier = earlier.as_ref().clone();
                effects.extend(earlier.act(stamp, Act::Settle)?);
                self.put(earlier);
            }
        }
        let migration = Migration::new(stamp, tenant, id.clone(), request_id, spec, roots, plan);
        self.put(migration);
        effects.extend(self.start_waiting(stamp));
        Ok(Applied::new(Outcome::Created { migration: id, is_new: true }).effects(effects))
    }

    /// Refuses roots that another migration holds; returns those with an open way back, which end for this one.
    ///
    /// The look goes over all tenants, because a folder is one whoever asks; a foreign migration is named to nobody.
    fn refuse_taken(
        &self,
        tenant: &TenantId,
        id: &MigrationId,
        roots: &Roots,
    ) -> Result<Vec<Arc<Migration>>, Refusal> {
        let mut over = Vec::new();
        for other in self.holding().filter(|other| (&other.tenant, &other.id) != (tenant, id)) {
            let Some(clash) = other.roots_clash(roots) else { continue };
            let is_ours = other.tenant == *tenant;
            if other.status.is_end() && other.status != MigrationStatus::Stuck {
                // At rest: only what both write matters, and the earlier way back can end.
                if !clash.changed_by_both || matches!(other.way_back, WayBack::Ended) {
                    continue;
                }
                if is_ours {
                    over.push(Arc::clone(other));
                    continue;
                }
            }
            let name =
                if is_ours { format!("migration `{}`", other.id) } else { "another migration".to_owned() };
            let how = match clash.overlap {
                Overlap::Same => "is held by",
                Overlap::Above => "holds a folder of",
                Overlap::Below => "lies inside a folder of",
            };
            let message = format!("{} {how} {name}, which has not ended", clash.path);
            let hint = if is_ours {
                format!("wait for it, or stop it with `ctl cancel {}`", other.id)
            } else {
                "choose another folder, or wait".to_owned()
            };
            let refusal = Refusal::new(FailureKind::Conflict, message, hint);
            return Err(if is_ours { refusal.context("migration", &other.id) } else { refusal });
        }
        Ok(over)
    }

    /// Returns the migrations at rest whose way back would end for a migration onto these roots.
    ///
    /// # Errors
    /// When a root is taken by one that has not ended.
    pub fn settled_by(&self, tenant: &TenantId, roots: &Roots) -> Result<Vec<MigrationId>, Refusal> {
        let nobody = MigrationId::from_random([0; 10]);
        let over = self.refuse_taken(tenant, &nobody, roots)?;
        Ok(over.iter().map(|migration| migration.id.clone()).collect())
    }
}

impl Migration {
    fn new(
        stamp: &Stamp,
        tenant: TenantId,
        id: MigrationId,
        request_id: String,
        spec: Arc<MigrationSpec>,
        roots: Roots,
        plan: Arc<Plan>,
    ) -> Self {
        let way_back = if spec.options.dry_run { WayBack::Ended } else { WayBack::Open(None) };
        Self {
            tenant,
            id,
            principal: stamp.principal.clone(),
            request_id,
            created: stamp.wall,
            steps: plan.steps.iter().map(|_| Step::new()).collect(),
            spec,
            roots: Arc::new(roots),
            plan,
            status: MigrationStatus::Queued,
            unwinding: None,
            failures: Vec::new(),
            warnings: Vec::new(),
            findings: Arc::default(),
            started: None,
            clock_began: None,
            completed: None,
            ended: None,
            way_back,
            permille_max: 0,
            condensed: None,
            control: Control::default(),
        }
    }

    /// Whether something happens, or is to happen, by itself.
    pub fn is_active(&self) -> bool {
        !self.status.is_end() || matches!(self.way_back, WayBack::Settling(_))
    }

    /// Whether nobody else may work on its roots without ending its way back.
    pub fn holds_roots(&self) -> bool {
        let is_dry = self.spec.options.dry_run;
        !is_dry && (self.is_active() || self.way_back != WayBack::Ended)
    }

    fn roots_clash(&self, roots: &Roots) -> Option<super::roots::Clash> {
        roots.clash(&self.roots)
    }
}

fn set(index: &mut Table<MigrationId, ()>, tenant: &TenantId, id: &MigrationId, is_member: bool) {
    if !is_member {
        index.remove(tenant, id);
    } else if index.get(tenant, id).is_none() {
        index.insert(tenant, id.clone(), ());
    }
}
