//! The freeze: when the steps under it may begin, and a person's go where one is needed.

use common::clock::WallMs;
use common::phase::Phase;
use common::plan::PlannedStep;
use common::view::{MigrationStatus, StepStatus};

use super::effect::Effect;
use super::migration::Migration;
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::step::Step;

impl Migration {
    /// Whether a step that waits for no other may begin: what is under the freeze may need a person's go.
    pub(super) fn may_begin(&mut self, place: usize) -> bool {
        if self.plan.steps[place].phase != Phase::Freeze {
            return true;
        }
        let needs_go = self.status != MigrationStatus::CuttingOver && self.spec.has_manual_cutover();
        self.status = if needs_go { MigrationStatus::AwaitingCutover } else { MigrationStatus::CuttingOver };
        !needs_go
    }

    /// A person's go. What keeps the destination caught up ends by itself when the last pass begins.
    pub(super) fn cut_over(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        match self.status {
            MigrationStatus::AwaitingCutover => {
                self.status = MigrationStatus::CuttingOver;
                // What it waited for a person is nobody's fault.
                self.clock_began = Some(stamp.wall);
                Ok(Vec::new())
            }
            MigrationStatus::CuttingOver if self.spec.has_manual_cutover() => Ok(Vec::new()),
            MigrationStatus::Queued | MigrationStatus::Running if self.spec.has_manual_cutover() => {
                let hint = format!("wait until `ctl status {}` says that it awaits the cutover", self.id);
                Err(self.refused("it has not caught up yet", &hint))
            }
            _ if self.status.is_end() => {
                Err(self.refused("it has ended", "start a new one with `ctl migrate`"))
            }
            _ => {
                Err(self
                    .refused("it waits for no cutover", "`--cutover manual` makes a migration wait for one"))
            }
        }
    }

    /// Whether its time counts now: while it waits for a person it does not.
    pub fn has_time_limit(&self) -> bool {
        matches!(self.status, MigrationStatus::Running | MigrationStatus::CuttingOver)
    }

    /// Returns as what a migration goes on that is to run again: a person's go stands.
    pub(super) fn going_on_as(&self, to: MigrationStatus) -> MigrationStatus {
        let has_begun = |(planned, step): (&PlannedStep, &Step)| {
            planned.phase == Phase::Freeze && step.status != StepStatus::Blocked
        };
        let is_cutting_over =
            to == MigrationStatus::Running && self.completed.is_none() && self.planned().any(has_begun);
        if is_cutting_over { MigrationStatus::CuttingOver } else { to }
    }

    /// Returns how long the steps under the freeze worked, in milliseconds; an undo counts for them, too.
    pub(super) fn downtime_ms(&self, now: WallMs) -> u64 {
        let is_frozen = |(planned, _): &(&PlannedStep, &Step)| planned.phase == Phase::Freeze;
        self.planned().filter(is_frozen).map(|(_, step)| step.worked_ms(now)).sum()
    }

    /// Whether a step is a continuous one that a later step has followed: it must not begin again.
    pub(super) fn is_followed(&self, place: usize) -> Result<bool, Refusal> {
        let has_begun = |place: &usize| self.steps[*place].attempts > 0;
        Ok(self.steps[place].status == StepStatus::CaughtUp
            && self.dag()?.dependants(place).iter().any(has_begun))
    }
}
