//! Read-only views of the state: filtered by tenant, in pages, as the documents that users' scripts read.
//!
//! Live progress is the leader's knowledge and is passed in; so is the time.

use std::collections::BTreeMap;

use common::clock::WallMs;
use common::control::MaxLoad;
use common::cost::{SourceCosts, SourceLoad};
use common::failure::FailureKind;
use common::finding::Rule;
use common::host::HostFacts;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::plan::PlannedStep;
use common::progress::Progress;
use common::spec::MigrationSpec;
use common::step::StepKind;
use common::step::file::{FileOutput, Proof};
use common::step::pass::PassRecord;
use common::view::{End, HostView, MigrationStatus, MigrationView, StepStatus, StepView};

use super::State;
use super::host::Host;
use super::migration::{Migration, WayBack};
use super::step::Step;
use super::table::Table;

/// Looks up the live progress of a step that runs.
pub type Live<'a> = &'a dyn Fn(&StepId) -> Option<Progress>;

/// The most items of one page.
pub const PAGE_MAX: usize = 1_000;
/// The items of a page when the caller does not say.
pub const PAGE_DEFAULT: usize = 100;

/// A part of a list, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to ask for next; none at the end.
    pub next: Option<String>,
}

/// What the leader knows of a host's agent now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether its session is open.
    pub connected: bool,
    /// When it was last heard.
    pub last_seen: Option<WallMs>,
    /// How far its clock is ahead of the leader's, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// What it found last, when it is newer than the state's.
    pub facts: Option<HostFacts>,
}

/// Returns one page of those of a tenant's migrations that the asker may see, by id.
pub fn migrations(
    state: &State,
    tenant: &TenantId,
    from: Option<&MigrationId>,
    limit: usize,
    is_seen: &dyn Fn(&Migration) -> bool,
) -> Page<std::sync::Arc<Migration>> {
    let limit = page_size(limit);
    let table = state.migrations().table();
    let seen = |(_, it): &(&MigrationId, &std::sync::Arc<Migration>)| is_seen(it);
    let mut items: Vec<_> = match from {
        Some(from) => {
            let after = table.of_tenant_after(tenant, from).filter(seen);
            after.take(limit + 1).map(|(_, it)| it.clone()).collect()
        }
        None => table.of_tenant(tenant).filter(seen).take(limit + 1).map(|(_, it)| it.clone()).collect(),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(|last| last.id.to_string());
    Page { items, next }
}

/// Returns one page of those of a tenant's hosts that the asker may see, by name.
pub fn hosts<'state>(
    state: &'state State,
    tenant: &TenantId,
    from: Option<&HostName>,
    limit: usize,
    is_seen: &dyn Fn(&HostName) -> bool,
) -> Page<(&'state HostName, &'state Host)> {
    let limit = page_size(limit);
    let table = state.hosts().table();
    let mut items: Vec<(&HostName, &Host)> = match from {
        Some(from) => table
            .of_tenant_after(tenant, from)
            .filter(|(name, _)| is_seen(name))
            .take(limit + 1)
            .map(|(name, it)| (name, it.as_ref()))
            .collect(),
        None => table
            .of_tenant(tenant)
            .filter(|(name, _)| is_seen(name))
            .take(limit + 1)
            .map(|(name, it)| (name, it.as_ref()))
            .collect(),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(|(name, _)| name.to_string());
    Page { items, next }
}

/// Returns one page of a tenant's records of one kind, by id.
pub fn records<'state, K: Ord + Clone + std::fmt::Display, V>(
    table: &'state Table<K, V>,
    tenant: &TenantId,
    from: Option<&K>,
    limit: u32,
) -> Page<(&'state K, &'state V)> {
    let limit = page_size(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut items: Vec<(&K, &V)> = match from {
        Some(from) => {
            table.of_tenant_after(tenant, from).take(limit + 1).map(|(id, it)| (id, it.as_ref())).collect()
        }
        None => table.of_tenant(tenant).take(limit + 1).map(|(id, it)| (id, it.as_ref())).collect(),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(|(id, _)| id.to_string());
    Page { items, next }
}

/// Returns one page of names, in their order.
pub fn cut<K: std::fmt::Display>(names: impl Iterator<Item = K>, limit: u32) -> Page<K> {
    let limit = page_size(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut items: Vec<K> = names.take(limit + 1).collect();
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(ToString::to_string);
    Page { items, next }
}

fn page_size(limit: usize) -> usize {
    if limit == 0 { PAGE_DEFAULT } else { limit.min(PAGE_MAX) }
}

/// Returns how many steps each of a tenant's hosts holds now.
pub fn steps_running(state: &State, tenant: &TenantId) -> BTreeMap<HostName, u32> {
    let mut running = BTreeMap::new();
    for migration in state.migrations().active().filter(|migration| migration.tenant == *tenant) {
        for lease in migration.steps.iter().filter_map(|step| step.lease.as_ref()) {
            *running.entry(lease.host.clone()).or_default() += 1;
        }
    }
    running
}

/// Returns the view of a host; `running` is what [`steps_running`] says.
pub fn host_view(
    state: &State,
    tenant: &TenantId,
    name: &HostName,
    host: &Host,
    running: &BTreeMap<HostName, u32>,
    presence: Presence,
) -> HostView {
    HostView {
        name: name.clone(),
        tenant: tenant.clone(),
        status: host.status,
        connected: presence.connected,
        last_seen: presence.last_seen,
        facts: presence.facts.or_else(|| host.facts.clone()),
        steps_running: running.get(name).copied().unwrap_or(0),
        clock_ahead_ms: presence.clock_ahead_ms,
        limits: state.migrations().host_limits(tenant, name),
    }
}

/// What the steps' outputs say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    moved: FileOutput,
    proof: FileOutput,
    is_verified: bool,
    is_partial: bool,
    /// What the agents counted: of the passes, and of the checks since the last that looked at everything.
    found_moving: u64,
    found_checking: u64,
    /// What all steps cost the source's host.
    costs: SourceCosts,
    /// Those of each step that are kept, and all of them.
    passes: Vec<PassRecord>,
    passes_total: u64,
    freeze_predicted_ms: u64,
}

impl Migration {
    /// Returns the view of this migration; `is_whole` adds steps and findings.
    pub fn view(&self, now: WallMs, live: Live<'_>, is_whole: bool) -> MigrationView {
        if let Some(condensed) = &self.condensed {
            return condensed.as_ref().clone();
        }
        let summary = self.summary();
        let progress = self.progress(live);
        let has_totals = summary.moved.version != 0;
        let pick = |output: u64, live: u64| if has_totals { output } else { live };
        let duration_ms = self.duration_ms(now);
        let permille = self.permille(live).max(self.permille_max);
        let running = progress.source_cost.filter(|_| !self.status.is_end());
        MigrationView {
            id: self.id.clone(),
            tenant: self.tenant.clone(),
            name: self.spec.name.clone(),
            status: self.status,
            progress: f64::from(permille) / 10.0,
            is_estimate: !self.status.is_end() && !has_totals && !progress.is_scan_complete,
            current_step: self.current_step(),
            steps_completed: count(self.steps_completed()),
            steps_total: count(self.steps.len()),
            eta_ms: self.eta_ms(progress, permille, duration_ms),
            downtime_predicted_ms: summary.freeze_predicted_ms,
            downtime_ms: self.downtime_ms(now),
            passes: if is_whole { summary.passes } else { Vec::new() },
            passes_total: summary.passes_total,
            rollback_available: self.is_rollback_available(),
            rollback_until: self.rollback_until(),
            settling: matches!(self.way_back, WayBack::Settling(_)),
            paused_since: self.control.paused,
            bandwidth_limit: self.bandwidth().filter(|limit| !limit.is_unlimited()).cloned(),
            bandwidth_now: None,
            max_load: self.max_load().map(|load| MaxLoad { hundredths: Some(load) }),
            source_load: SourceLoad::new(&summary.costs, running),
            priority: self.priority(),
            waits_for: None,
            errors: self.failures.clone(),
            warnings: self.warnings.clone(),
            verified: summary.is_verified && self.stands(),
            partial: summary.is_partial,
            files_total: pick(summary.moved.files_total, progress.files_total),
            files_sent: summary.moved.files_sent,
            files_done: pick(summary.moved.files_total, progress.files_done),
            bytes_total: pick(summary.moved.bytes_total, progress.bytes_total),
            bytes_done: pick(summary.moved.bytes_total, progress.bytes_done),
            bytes_on_wire: pick(summary.moved.bytes_on_wire, progress.bytes_on_wire)
                + summary.proof.bytes_on_wire,
            bytes_resent: summary.moved.bytes_resent,
            bytes_deduplicated: summary.moved.bytes_deduplicated,
            bytes_compressed: summary.moved.bytes_compressed,
            bytes_compressed_to: summary.moved.bytes_compressed_to,
            reach: summary.moved.reach.filter(|_| has_totals).or(progress.reach),
            transport: summary.moved.transport.filter(|_| has_totals).or(progress.transport),
            bytes_per_s: if self.status.is_end() { 0 } else { progress.bytes_per_s },
            deleted: summary.moved.deleted,
            duration_ms,
            principal: self.principal.to_string(),
            created: self.created,
            ended: self.ended,
            source: self.spec.source.location.to_string(),
            destination: self.spec.destination.location.to_string(),
            steps: if is_whole { self.step_views(now, live) } else { Vec::new() },
            findings: if is_whole { self.findings.iter().cloned().collect() } else { Vec::new() },
            findings_total: self.findings.total().max(summary.found_moving + summary.found_checking),
            dry_run: self.spec.options.dry_run,
            sanitized: summary.moved.sanitized.clone(),
            proof: summary.proof.proof,
            source_digest: summary.proof.source_digest.or(summary.moved.source_digest),
            destination_digest: summary.proof.destination_digest.or(summary.moved.destination_digest),
            exit_code: self.exit_code(),
        }
    }

    fn steps_completed(&self) -> usize {
        self.steps.iter().filter(|step| step.status == StepStatus::Succeeded).count()
    }

    /// Returns when the way back of what has ended is over, if that is known.
    fn rollback_until(&self) -> Option<WallMs> {
        match self.way_back {
            WayBack::Open(until) if self.status.is_end() => until,
            WayBack::Open(_) | WayBack::Settling(_) | WayBack::Ended => None,
        }
    }

    /// Whether what was proven is still there.
    fn stands(&self) -> bool {
        self.unwinding.is_none() && (self.status.runs_steps() || self.status == MigrationStatus::Completed)
    }

    /// Returns the exit code that `ctl` ends with, once the migration has ended.
    pub fn exit_code(&self) -> Option<u8> {
        let first = self.failures.first();
        Some(match self.status.end()? {
            End::Completed => self.exit_code_when_completed(),
            End::Stuck => FailureKind::Stuck.exit_code(),
            End::Cancelled => FailureKind::Cancelled.exit_code(),
            // A rollback that an operator asked for did what was asked.
            End::RolledBack if first.is_none() => 0,
            End::RolledBack | End::Failed => {
                first.map_or(FailureKind::Bug, |failure| failure.kind).exit_code()
            }
        })
    }

    fn exit_code_when_completed(&self) -> u8 {
        let summary = self.summary();
        let is_asked = asks_for_proof(&self.spec);
        if self.findings.total_of(Rule::Conflict) > 0 {
            FailureKind::Conflict.exit_code()
        } else if summary.is_partial || (is_asked && !summary.is_verified) {
            FailureKind::Changed.exit_code()
        } else {
            0
        }
    }

    /// Returns how far the whole is, in thousandths; 1000 only once it has completed.
    pub(super) fn permille(&self, live: Live<'_>) -> u32 {
        let mut done = 0;
        let mut total = 0;
        for (planned, step) in self.planned() {
            let weight = u64::from(planned.weight.max(1));
            let part = match step.status {
                StepStatus::Succeeded => 1_000,
                StepStatus::Blocked => 0,
                StepStatus::Ready
                | StepStatus::Leased
                | StepStatus::CaughtUp
                | StepStatus::Failed
                | StepStatus::Undoing
                | StepStatus::Undone
                | StepStatus::Stuck => live(&planned.id).unwrap_or(step.progress).permille(),
            };
            done += weight * u64::from(part.min(1_000));
            total += weight * 1_000;
        }
        if self.status == MigrationStatus::Completed {
            return 1_000;
        }
        let part = (done * 1_000).checked_div(total).unwrap_or(0);
        u32::try_from(part).unwrap_or(0).min(999)
    }

    /// The progress that people mean: that of the step that runs, or of the last that moved something.
    fn progress(&self, live: Live<'_>) -> Progress {
        let of = |place: usize| live(&self.plan.steps[place].id).unwrap_or(self.steps[place].progress);
        let runs = self.steps.iter().position(|step| step.lease.is_some());
        let moves = |place: &usize| self.plan.steps[*place].kind != StepKind::FileVerify;
        let last = (0..self.steps.len()).rev().find(|place| moves(place) && self.steps[*place].attempts > 0);
        match (runs, last) {
            (_, Some(place)) => {
                let rate = runs.map_or(0, |runs| of(runs).bytes_per_s);
                let source_cost = runs.and_then(|runs| of(runs).source_cost);
                Progress { bytes_per_s: rate, source_cost, ..of(place) }
            }
            (Some(place), None) => of(place),
            (None, None) => Progress::default(),
        }
    }

    /// Returns how long it took or has taken, in milliseconds.
    fn duration_ms(&self, now: WallMs) -> u64 {
        // A later verification does not make the migration longer.
        let end = self.completed.or(self.ended).unwrap_or(now);
        let forward = self.started.map_or(0, |started| end.since(started));
        if self.unwinding.is_none() || self.completed.is_none() {
            return forward;
        }
        // Between its completion and its rollback nobody worked on it; what the undo took is in the work of the steps.
        self.steps.iter().map(|step| step.worked_ms(now)).sum::<u64>().max(forward)
    }

    fn current_step(&self) -> Option<StepId> {
        // The last: a continuous step runs on until the one that follows it has begun.
        let runs = self.steps.iter().rposition(|step| step.lease.is_some());
        let waits = || self.steps.iter().position(|step| step.status == StepStatus::Ready);
        let place = if self.status.is_end() { None } else { runs.or_else(waits) };
        place.map(|place| self.plan.steps[place].id.clone())
    }

    fn eta_ms(&self, progress: Progress, permille: u32, duration_ms: u64) -> Option<u64> {
        if self.status != MigrationStatus::Running || !progress.is_scan_complete {
            return None;
        }
        let left = progress.bytes_total.saturating_sub(progress.bytes_done);
        if progress.bytes_per_s > 0 && left > 0 {
            return Some(left.saturating_mul(1_000) / progress.bytes_per_s);
        }
        (permille > 0).then(|| duration_ms * u64::from(1_000 - permille.min(1_000)) / u64::from(permille))
    }

    fn step_views(&self, now: WallMs, live: Live<'_>) -> Vec<StepView> {
        let view = |(planned, step): (&PlannedStep, &Step)| StepView {
            id: planned.id.clone(),
            kind: planned.kind,
            phase: planned.phase,
            status: step.status,
            host: planned.host.clone(),
            attempts: step.attempts,
            progress: live(&planned.id).filter(|_| step.lease.is_some()).unwrap_or_else(|| result_of(step)),
            duration_ms: step.worked_ms(now),
            failure: step.failure.clone(),
        };
        self.planned().map(view).collect()
    }

    /// Returns the outputs of the steps that waited steps may read, by step.
    pub fn output(&self, step: &StepId) -> Option<&str> {
        self.steps.get(self.place(step)?)?.output.as_deref()
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        let mut has_proof = false;
        for (planned, step) in self.planned() {
            let Some(output) = step.output.as_deref() else { continue };
            let Ok(output) = serde_json::from_str::<FileOutput>(output) else { continue };
            if let Some(costs) = &output.source_costs {
                summary.costs.add_all(costs);
            }
            if planned.kind == StepKind::FileVerify {
                // A later proof replaces an earlier one, which looked at an earlier tree.
                let is_good = step.status == StepStatus::Succeeded && output.is_verified;
                summary.is_verified = is_good
                    && (summary.is_verified || !has_proof || planned.scope == common::phase::Scope::Whole);
                // As the findings of earlier checks are forgotten when a later one begins.
                let is_anew = has_proof && planned.scope == common::phase::Scope::Whole;
                let earlier = if is_anew { 0 } else { summary.found_checking };
                summary.found_checking = earlier + output.findings_total;
                has_proof = true;
                let bytes_on_wire = summary.proof.bytes_on_wire + output.bytes_on_wire;
                summary.is_partial |= output.is_partial;
                summary.proof = FileOutput { bytes_on_wire, ..output };
            } else {
                // The last pass looked at everything again.
                summary.is_partial = output.is_partial;
                summary.found_moving = output.findings_total;
                summary.passes.extend(output.passes.iter().cloned());
                summary.passes_total += output.passes_total;
                summary.freeze_predicted_ms =
                    output.freeze_predicted_ms.unwrap_or(summary.freeze_predicted_ms);
                summary.moved = add(summary.moved, output);
            }
        }
        summary
    }
}

/// The totals are those of the last pass; what was sent adds up.
fn add(earlier: FileOutput, pass: FileOutput) -> FileOutput {
    FileOutput {
        files_sent: earlier.files_sent + pass.files_sent,
        bytes_sent: earlier.bytes_sent + pass.bytes_sent,
        metadata_changed: earlier.metadata_changed + pass.metadata_changed,
        deleted: earlier.deleted + pass.deleted,
        bytes_on_wire: earlier.bytes_on_wire + pass.bytes_on_wire,
        bytes_resent: earlier.bytes_resent + pass.bytes_resent,
        bytes_deduplicated: earlier.bytes_deduplicated + pass.bytes_deduplicated,
        bytes_compressed: earlier.bytes_compressed + pass.bytes_compressed,
        bytes_compressed_to: earlier.bytes_compressed_to + pass.bytes_compressed_to,
        duration_ms: earlier.duration_ms + pass.duration_ms,
        proof: Proof::default(),
        ..pass
    }
}

/// Returns how far a step came that does not run: what it said in the end, where that is known, because checkpoints are
/// seconds older.
fn result_of(step: &Step) -> Progress {
    let output = step.output.as_deref().and_then(|output| serde_json::from_str::<FileOutput>(output).ok());
    match output {
        Some(output) if step.status == StepStatus::Succeeded && output.version != 0 => Progress {
            files_done: output.files_total,
            files_total: output.files_total,
            bytes_done: output.bytes_total,
            bytes_total: output.bytes_total,
            is_scan_complete: true,
            bytes_on_wire: output.bytes_on_wire,
            bytes_per_s: 0,
            reach: output.reach,
            transport: output.transport,
            source_cost: None,
        },
        Some(_) | None => step.progress,
    }
}

fn asks_for_proof(spec: &MigrationSpec) -> bool {
    spec.options.verify_after && !spec.options.dry_run
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
