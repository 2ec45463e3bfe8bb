//! The life of one migration: what each word of an operator, each event and each lost lease does to it.
//!
//! Every function changes the record that it is given and returns effects; callers store the record only when nothing
//! was refused. After each change [`Migration::advance`] lets the saga go on as far as it can without anybody's help.

use std::sync::Arc;

use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::finding::Rule;
use common::plan::{Plan, PlannedStep};
use common::step::{Reversibility, StepKind};
use common::view::{End, MigrationStatus, StepStatus};

use super::effect::Effect;
use super::migration::{Act, Migration, UnwindCause, WayBack};
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::step::{Step, bounded, check_steps};
use crate::saga::dag::Dag;
use crate::saga::status::{Change, IllegalTransition};
use crate::saga::{self, unwind::Unwind};

/// Errors that a record keeps; the first is always among them.
const FAILURES_MAX: usize = 32;
/// Warnings that a record keeps.
const WARNINGS_MAX: usize = 32;
/// How long files that a rollback moved aside are kept where nobody said how long, in milliseconds.
const KEPT_ASIDE_MS: u64 = 24 * 3_600_000;

impl From<IllegalTransition> for Refusal {
    fn from(error: IllegalTransition) -> Self {
        Self::new(FailureKind::Conflict, error.to_string(), "look again with `ctl status`")
    }
}

impl Migration {
    /// Does what an operator or a deadline asks.
    pub(super) fn act(&mut self, stamp: &Stamp, act: Act) -> Result<Vec<Effect>, Refusal> {
        let mut effects = match act {
            Act::Cancel => self.cancel(stamp)?,
            Act::Retry => self.retry()?,
            Act::Rollback => self.rollback(stamp)?,
            Act::Settle => self.settle(stamp)?,
            Act::Settled { token } => self.settled(token)?,
            Act::SettleFailed { token, failure } => self.settle_failed(stamp, token, &failure)?,
            Act::Verify { step } => self.verify(step)?,
            Act::TimeOut => self.time_out(stamp)?,
            Act::Pause => self.pause(stamp)?,
            Act::Resume => self.resume(stamp)?,
            Act::Set(change) => self.set(change)?,
            Act::Cutover => self.cut_over(stamp)?,
        };
        effects.extend(self.advance(stamp)?);
        Ok(effects)
    }

    /// Starts the steps that wait for nothing.
    pub(super) fn start(&mut self, stamp: &Stamp) -> Vec<Effect> {
        self.status = self.going_on_as(MigrationStatus::Running);
        // A plan is checked when the migration is made, so that the saga cannot refuse it here.
        self.advance(stamp).unwrap_or_default()
    }

    /// Lets the saga go on: unblocks, completes, unwinds, ends.
    pub(super) fn advance(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        let mut effects = Vec::new();
        let dag = self.dag()?;
        if self.status.runs_steps()
            && let Some(place) = self.steps.iter().position(|step| step.status == StepStatus::Failed)
        {
            effects.extend(self.stop_after_failure(stamp, place)?);
        }
        if self.status.runs_steps() {
            for place in saga::unblocked(&dag, &self.statuses()) {
                if self.may_begin(place) {
                    self.steps[place].change(Change::Unblocked)?;
                }
            }
            if self.steps.iter().all(|step| step.status == StepStatus::Succeeded) {
                self.complete(stamp, &mut effects);
            }
        }
        if self.status == MigrationStatus::Unwinding {
            self.go_on_unwinding(stamp, &dag, &mut effects)?;
        }
        self.permille_max = self.permille_max.max(self.permille(&|_| None));
        effects.push(self.changed());
        Ok(effects)
    }

    /// The effect that wakes watchers and dispatch.
    pub(super) fn changed(&self) -> Effect {
        Effect::MigrationChanged { tenant: self.tenant.clone(), migration: self.id.clone() }
    }

    /// Returns the graph of the plan.
    pub(super) fn dag(&self) -> Result<Dag, Refusal> {
        Dag::new(&self.plan)
            .map_err(|error| Refusal::new(FailureKind::Bug, error.to_string(), "report this as a bug"))
    }

    /// Returns where the steps stand, in the order of the plan.
    pub fn statuses(&self) -> Vec<StepStatus> {
        self.steps.iter().map(|step| step.status).collect()
    }

    /// Returns what the undo of each step promises; a dry run has changed nothing, so nothing of it is undone.
    pub(super) fn reversibilities(&self) -> Vec<Reversibility> {
        let is_dry = self.spec.options.dry_run;
        let of = |planned: &PlannedStep| if is_dry { Reversibility::ReadOnly } else { planned.reversibility };
        self.plan.steps.iter().map(of).collect()
    }

    fn complete(&mut self, stamp: &Stamp, effects: &mut Vec<Effect>) {
        let is_first = self.completed.is_none();
        if is_first && self.way_back != WayBack::Ended {
            let window = self.spec.rollback_window_ms();
            if window == 0 && !matches!(self.way_back, WayBack::Settling(_)) {
                self.begin_settling(stamp, effects);
            }
            if matches!(self.way_back, WayBack::Settling(_)) {
                return;
            }
            self.way_back = WayBack::Open(Some(WallMs(stamp.wall.0.saturating_add(window))));
        }
        self.completed = self.completed.or(Some(stamp.wall));
        self.end(stamp.wall, MigrationStatus::Completed);
    }

    fn end(&mut self, now: WallMs, status: MigrationStatus) {
        self.status = status;
        self.ended = Some(now);
    }

    fn begin_settling(&mut self, stamp: &Stamp, effects: &mut Vec<Effect>) {
        self.way_back = WayBack::Settling(stamp.token());
        effects.push(Effect::Settle { tenant: self.tenant.clone(), migration: self.id.clone() });
    }

    /// A step failed for good.
    fn stop_after_failure(&mut self, stamp: &Stamp, place: usize) -> Result<Vec<Effect>, Refusal> {
        let failure = self.steps[place].failure.clone();
        let is_corrupt = failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Corrupt);
        if let Some(failure) = failure {
            self.add_failure(failure);
        }
        // A check of what has long been completed changes nothing, unless content rotted that can still be replaced.
        let is_way_open = matches!(self.way_back, WayBack::Open(_));
        let can_unwind = self.completed.is_none() || (is_corrupt && is_way_open);
        if can_unwind && !self.spec.options.dry_run && self.spec.options.rollback_on_failure {
            return self.begin_unwinding(stamp, UnwindCause::Failure, "another step failed");
        }
        let effects = self.end_leases(stamp.wall, Change::Lost, "another step failed")?;
        if self.completed.is_none() && self.way_back != WayBack::Ended {
            self.way_back = WayBack::Open(None);
        }
        self.end(stamp.wall, MigrationStatus::Failed);
        Ok(effects)
    }

    fn begin_unwinding(
        &mut self,
        stamp: &Stamp,
        cause: UnwindCause,
        reason: &str,
    ) -> Result<Vec<Effect>, Refusal> {
        let effects = self.end_leases(stamp.wall, Change::Failed, reason)?;
        for step in &mut self.steps {
            step.give_up_half_done()?;
            step.failures = 0;
        }
        self.status = MigrationStatus::Unwinding;
        self.unwinding = Some(cause);
        self.control.paused = None;
        self.ended = None;
        Ok(effects)
    }

    fn go_on_unwinding(
        &mut self,
        stamp: &Stamp,
        dag: &Dag,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        match saga::unwind::next(dag, &self.statuses(), &self.reversibilities()) {
            Unwind::Undo(_) => {}
            Unwind::Stuck => {
                let stuck = self.steps.iter().find(|step| step.status == StepStatus::Stuck);
                if let Some(failure) = stuck.and_then(|step| step.failure.clone()) {
                    self.add_failure(failure);
                }
                // Undos beside it go on with the retry; nobody looks after a lease of what stands still.
                effects.extend(self.end_leases(stamp.wall, Change::Lost, "another undo failed")?);
                self.end(stamp.wall, MigrationStatus::Stuck);
            }
            Unwind::Irreversible(place) => {
                let step = &self.plan.steps[place].id;
                self.add_failure(
                    Failure::new(FailureKind::Unsupported, format!("the step `{step}` cannot be undone"))
                        .hint("what it needed was left as it is; go on from here by hand"),
                );
                self.way_back = WayBack::Open(None);
                self.end(stamp.wall, MigrationStatus::Failed);
            }
            Unwind::Done => self.end_unwound(stamp, effects),
        }
        Ok(())
    }

    fn end_unwound(&mut self, stamp: &Stamp, effects: &mut Vec<Effect>) {
        let was_tried = self.steps.iter().any(|step| step.attempts > 0);
        let is_kept_aside = self.findings.total_of(Rule::KeptAside) > 0;
        match self.way_back {
            WayBack::Open(_) if !was_tried => self.way_back = WayBack::Ended,
            WayBack::Open(_) if is_kept_aside => {
                let kept_ms = self.spec.rollback_window_ms().max(KEPT_ASIDE_MS);
                self.way_back = WayBack::Open(Some(WallMs(stamp.wall.0.saturating_add(kept_ms))));
                self.warn("what others changed since was moved aside; `ctl settle` removes it".to_owned());
            }
            WayBack::Open(_) => {
                self.begin_settling(stamp, effects);
                return;
            }
            WayBack::Settling(_) => return,
            WayBack::Ended => {}
        }
        self.end_as_unwound(stamp.wall);
    }

    fn end_as_unwound(&mut self, now: WallMs) {
        let status = match self.unwinding {
            Some(UnwindCause::Cancel) => MigrationStatus::Cancelled,
            Some(UnwindCause::Failure | UnwindCause::Rollback) | None => MigrationStatus::RolledBack,
        };
        self.end(now, status);
    }

    fn cancel(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        match self.status.end() {
            None if self.status == MigrationStatus::Unwinding => Ok(Vec::new()),
            None if self.completed.is_some() => self.stop_checking(stamp),
            None if matches!(self.way_back, WayBack::Settling(_)) && self.status.runs_steps() => {
                Err(self.refused("it has done its work and is ending", "wait for its end"))
            }
            None => {
                let failure =
                    Failure::new(FailureKind::Cancelled, format!("cancelled by {}", stamp.principal));
                self.add_failure(failure);
                self.begin_unwinding(stamp, UnwindCause::Cancel, "the migration was cancelled")
            }
            Some(End::Cancelled) => Ok(Vec::new()),
            Some(End::Completed | End::Failed) => {
                let hint = format!("take it back with `ctl rollback {}` while that is possible", self.id);
                Err(self.refused("it has ended", &hint))
            }
            Some(End::RolledBack) => {
                Err(self.refused("it was rolled back already", "nothing is left to cancel"))
            }
            Some(End::Stuck) => {
                let hint = format!("remove the cause and `ctl retry {}`", self.id);
                Err(self.refused("it is stuck while it is being undone", &hint))
            }
        }
    }

    /// A cancelled check of a completed migration leaves the migration completed.
    fn stop_checking(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        self.control.paused = None;
        let effects = self.end_leases(stamp.wall, Change::Lost, "the check was cancelled")?;
        self.drop_open_steps();
        self.end(stamp.wall, MigrationStatus::Completed);
        Ok(effects)
    }

    fn drop_open_steps(&mut self) {
        let mut plan: Plan = (*self.plan).clone();
        let ended: Vec<bool> = self.steps.iter().map(|step| step.status == StepStatus::Succeeded).collect();
        let mut keep = ended.iter().copied();
        plan.steps.retain(|_| keep.next().unwrap_or(false));
        let mut keep = ended.iter().copied();
        self.steps.retain(|_| keep.next().unwrap_or(false));
        plan.parent = Some(plan.generation);
        plan.generation += 1;
        self.plan = Arc::new(plan);
    }

    fn retry(&mut self) -> Result<Vec<Effect>, Refusal> {
        let (from, to) = match self.status.end() {
            None if self.status.runs_steps() || self.status == MigrationStatus::Unwinding => {
                return Ok(Vec::new());
            }
            Some(End::Failed) if self.unwinding.is_none() => (StepStatus::Failed, MigrationStatus::Running),
            Some(End::Stuck) => (StepStatus::Stuck, MigrationStatus::Unwinding),
            None if self.status == MigrationStatus::Paused => {
                let hint = format!("go on with `ctl resume {}`", self.id);
                return Err(self.refused("it is paused, and nothing of it has failed", &hint));
            }
            None | Some(End::Completed | End::Failed | End::RolledBack | End::Cancelled) => {
                return Err(self.refused(
                    "only a failed or stuck migration can be tried again",
                    "start a new one with `ctl migrate`",
                ));
            }
        };
        if self.completed.is_none()
            && !self.spec.options.dry_run
            && !matches!(self.way_back, WayBack::Open(_))
        {
            return Err(self.refused("its way back has ended", "start a new one with `ctl migrate`"));
        }
        for step in &mut self.steps {
            if step.status == from {
                step.change(Change::Retried)?;
            }
            step.failures = 0;
            step.not_before = None;
        }
        if to == MigrationStatus::Running {
            self.failures.clear();
        }
        self.clock_began = None;
        self.status = self.going_on_as(to);
        self.ended = None;
        Ok(Vec::new())
    }

    fn rollback(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        if self.status == MigrationStatus::Unwinding || self.status == MigrationStatus::RolledBack {
            return Ok(Vec::new());
        }
        if !self.is_rollback_available() {
            let why = if self.status.is_end() { "its way back has ended" } else { "it has not ended" };
            let hint = if self.status.is_end() {
                "restore what stood there from a backup".to_owned()
            } else {
                format!("stop it with `ctl cancel {}`, which undoes it too", self.id)
            };
            return Err(self.refused(why, &hint));
        }
        self.begin_unwinding(stamp, UnwindCause::Rollback, "the migration is rolled back")
    }

    /// Whether a rollback can be asked for now.
    pub fn is_rollback_available(&self) -> bool {
        let stands = matches!(
            self.status,
            MigrationStatus::Completed | MigrationStatus::Failed | MigrationStatus::Paused
        );
        let was_tried = self.steps.iter().any(|step| step.attempts > 0);
        stands && was_tried && matches!(self.way_back, WayBack::Open(_))
    }

    fn settle(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        let mut effects = Vec::new();
        if !self.status.is_end() || self.status == MigrationStatus::Stuck {
            return Err(self.refused("it has not ended", &format!("see `ctl status {}`", self.id)));
        }
        if matches!(self.way_back, WayBack::Open(_)) {
            self.begin_settling(stamp, &mut effects);
        }
        Ok(effects)
    }

    fn settled(&mut self, token: FencingToken) -> Result<Vec<Effect>, Refusal> {
        match self.way_back {
            WayBack::Settling(asked) if asked == token => self.way_back = WayBack::Ended,
            WayBack::Ended => {}
            WayBack::Settling(_) | WayBack::Open(_) => {
                return Err(
                    self.refused("this way back is not the one that was removed", "nothing needs doing")
                );
            }
        }
        Ok(Vec::new())
    }

    fn settle_failed(
        &mut self,
        stamp: &Stamp,
        token: FencingToken,
        failure: &Failure,
    ) -> Result<Vec<Effect>, Refusal> {
        if self.way_back != WayBack::Settling(token) {
            return Err(self.refused("its way back is not being removed", "nothing needs doing"));
        }
        let message = bounded(failure.clone()).message;
        self.warn(format!("the stage at the destination could not be removed yet: {message}"));
        if self.status.runs_steps() && self.completed.is_none() {
            self.completed = Some(stamp.wall);
            self.end(stamp.wall, MigrationStatus::Completed);
        } else if self.status == MigrationStatus::Unwinding {
            self.end_as_unwound(stamp.wall);
        }
        Ok(Vec::new())
    }

    fn verify(&mut self, step: PlannedStep) -> Result<Vec<Effect>, Refusal> {
        let may = self.completed.is_some()
            && self.unwinding.is_none()
            && matches!(self.status, MigrationStatus::Completed | MigrationStatus::Failed);
        if !may {
            let has_ended = self.status.is_end();
            let hint = if has_ended { "start a new one with `ctl migrate`" } else { "wait for its end" };
            return Err(self.refused("only a completed migration can be verified again", hint));
        }
        if step.kind != StepKind::FileVerify || self.place(&step.id).is_some() {
            return Err(self.refused("the step is not a new verification", "ask again"));
        }
        if self.status == MigrationStatus::Failed {
            self.drop_open_steps();
        }
        let mut findings = (*self.findings).clone();
        for earlier in self.plan.steps.iter().filter(|planned| planned.kind == StepKind::FileVerify) {
            findings.forget(&earlier.id);
        }
        self.findings = Arc::new(findings);
        let mut plan: Plan = (*self.plan).clone();
        plan.parent = Some(plan.generation);
        plan.generation += 1;
        plan.steps.push(step);
        check_steps(&plan.steps)?;
        Dag::new(&plan).map_err(|error| self.refused(&error.to_string(), "ask again"))?;
        self.plan = Arc::new(plan);
        self.steps.push(Step::new());
        self.failures.clear();
        self.status = MigrationStatus::Running;
        self.ended = None;
        Ok(Vec::new())
    }

    fn time_out(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        let limit = self.spec.options.timeout_ms.unwrap_or(u64::MAX);
        let is_over = self.clock_began.is_some_and(|began| stamp.wall.since(began) >= limit);
        // Once its way back is being removed its work is done, and there is nothing left to undo it with.
        let is_ending = matches!(self.way_back, WayBack::Settling(_));
        let may_end = self.has_time_limit() && self.completed.is_none();
        if !is_over || is_ending || !may_end {
            return Err(self.refused("its time is not over", "nothing needs doing"));
        }
        let message = format!("it took longer than {} s", limit / 1_000);
        self.add_failure(
            Failure::new(FailureKind::Timeout, message).hint("allow more time with `options.timeout`"),
        );
        if self.spec.options.rollback_on_failure && !self.spec.options.dry_run {
            return self.begin_unwinding(stamp, UnwindCause::Failure, "the time for the migration is over");
        }
        let effects = self.end_leases(stamp.wall, Change::Failed, "the time for the migration is over")?;
        self.end(stamp.wall, MigrationStatus::Failed);
        Ok(effects)
    }

    pub(super) fn add_failure(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_MAX && self.failures.last() != Some(&failure) {
            self.failures.push(failure);
        }
    }

    pub(super) fn warn(&mut self, sentence: String) {
        if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&sentence) {
            self.warnings.push(sentence);
        }
    }

    pub(super) fn refused(&self, why: &str, hint: &str) -> Refusal {
        Refusal::new(FailureKind::Conflict, format!("migration `{}`: {why}", self.id), hint)
            .context("migration", &self.id)
            .context("status", self.status.as_str())
    }
}
