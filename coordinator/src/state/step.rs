//! What is known of one step of a migration.
//!
//! Every change of the status goes through the saga's table.

use common::clock::WallMs;
use common::failure::{Failure, FailureKind, Retry};
use common::id::StepId;
use common::limit::{
    STEP_ATTEMPTS_MAX, STEP_FAILURES_KEPT, STEP_FORGIVEN_AFTER, STEP_RETRY_FIRST, STEP_RETRY_MAX,
};
use common::plan::PlannedStep;
use common::progress::Progress;
use common::step::StepKind;
use common::view::StepStatus;
use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::refusal::Refusal;
use crate::saga::status::{self, Change, IllegalTransition};

/// The largest output that a step may report.
pub const OUTPUT_BYTES_MAX: usize = 32 * 1024;

/// The longest text of a failure or a finding, as JSON has it: a path of the kernel's limit fits.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;
/// The longest name of a field.
const NAME_BYTES_MAX: usize = 64;
/// Nouns that a failure may carry, and the bytes of all of them.
const CONTEXT_MAX: usize = 16;
const CONTEXT_BYTES_MAX: usize = 16 * 1024;
/// Steps that a plan may have, those that later verifications add included; each may keep an output and a failure.
const STEPS_MAX: usize = 256;
/// Bytes of parameters of all steps of a plan: the patterns of the spec stand in each of them.
const PARAMS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One step of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it stands.
    pub status: StepStatus,
    /// Leases granted for running or undoing it.
    pub attempts: u32,
    /// Failures in a row since the start, since an operator asked for a retry, or since an attempt came further.
    pub failures: u32,
    /// The lease, while one is held.
    pub lease: Option<Lease>,
    /// Not granted again before this.
    pub not_before: Option<WallMs>,
    /// What it did, as JSON.
    pub output: Option<String>,
    /// What failed last.
    #[serde(with = "super::document")]
    pub failure: Option<Failure>,
    /// How far it was at the last checkpoint, and never less than any attempt before.
    #[serde(with = "super::document")]
    pub progress: Progress,
    /// How long its attempts took, in milliseconds, without the one that runs.
    pub worked_ms: u64,
}

impl Step {
    /// Makes a step that waits.
    pub(super) fn new() -> Self {
        Self {
            status: StepStatus::Blocked,
            attempts: 0,
            failures: 0,
            lease: None,
            not_before: None,
            output: None,
            failure: None,
            progress: Progress::default(),
            worked_ms: 0,
        }
    }

    /// Moves the status.
    pub(super) fn change(&mut self, change: Change) -> Result<(), IllegalTransition> {
        self.status = status::next(self.status, change)?;
        Ok(())
    }

    /// Ends the lease, and counts its time.
    pub(super) fn end_lease(&mut self, now: WallMs) -> Option<Lease> {
        let lease = self.lease.take()?;
        self.worked_ms += now.since(lease.granted);
        Some(lease)
    }

    /// Takes a failure of the run or of the undo: waits and tries again, or gives up. Says whether it gave up.
    pub(super) fn fail(
        &mut self,
        kind: StepKind,
        failure: Failure,
        is_undo: bool,
        now: WallMs,
    ) -> Result<bool, IllegalTransition> {
        self.failures += 1;
        // Content that verification found corrupt does not heal by looking again.
        let is_proof = kind == StepKind::FileVerify && failure.kind == FailureKind::Corrupt;
        let may_pass = failure.retry == Retry::Later && !is_proof && self.failures < STEP_ATTEMPTS_MAX;
        self.failure = Some(failure);
        self.not_before = may_pass.then(|| WallMs(now.0 + delay_ms(self.failures)));
        match (is_undo, may_pass) {
            (false, true) => {
                self.change(Change::Failed)?;
                self.change(Change::Retried)?;
            }
            (false, false) => self.change(Change::Failed)?,
            (true, true) => self.change(Change::UndoLost)?,
            (true, false) => self.change(Change::UndoFailed)?,
        }
        Ok(!may_pass)
    }

    /// Takes how far it is. Failures are counted in a row: a step that comes further than ever between them is not one
    /// that cannot be done, but one that soon fails again is not tried in haste.
    pub(super) fn take_progress(&mut self, progress: Progress, now: WallMs) {
        if progress.is_further_than(&self.progress) {
            let is_long = self
                .lease
                .as_ref()
                .is_some_and(|lease| u128::from(now.since(lease.granted)) >= STEP_FORGIVEN_AFTER.as_millis());
            self.failures = if is_long { 0 } else { self.failures.min(STEP_FAILURES_KEPT) };
        }
        self.progress = progress.not_below(&self.progress);
    }

    /// Takes an attempt that may have left something half done as one that failed, so that it is undone.
    ///
    /// A step whose lease was lost is ready again; the table knows an undo of a failed step only, so the attempt that
    /// will not come is granted and failed in one breath.
    pub(super) fn give_up_half_done(&mut self) -> Result<(), IllegalTransition> {
        if self.status == StepStatus::Ready && self.attempts > 0 {
            self.change(Change::Granted)?;
            self.change(Change::Failed)?;
        }
        self.not_before = None;
        Ok(())
    }

    /// Returns how long its attempts took, in milliseconds, with the one that runs.
    pub(super) fn worked_ms(&self, now: WallMs) -> u64 {
        self.worked_ms + self.lease.as_ref().map_or(0, |lease| now.since(lease.granted))
    }

    /// Whether it may be granted at this time.
    pub fn is_due(&self, now: WallMs) -> bool {
        self.lease.is_none() && self.not_before.is_none_or(|due| now >= due)
    }
}

/// The wait after so many failures in a row; without a jitter, because every replica must compute the same.
fn delay_ms(failures: u32) -> u64 {
    let doubled =
        STEP_RETRY_FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    u64::try_from(doubled.min(STEP_RETRY_MAX).as_millis()).unwrap_or(u64::MAX)
}

/// A step and what happened to it, as an agent reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The run ended well, with its output as JSON; or the undo did.
    Succeeded(String),
    /// The run or the undo failed.
    Failed(#[serde(with = "super::document")] Failure),
    /// A continuous step has nothing left to do; its lag in milliseconds.
    CaughtUp(u64),
    /// Some findings.
    Findings(#[serde(with = "super::document")] Vec<common::finding::Finding>),
    /// What a continuous step did so far; its output as JSON.
    SoFar(String),
}

/// Cuts what an agent says to what a record may hold.
pub(super) fn bounded(mut failure: Failure) -> Failure {
    cut(&mut failure.message, TEXT_BYTES_MAX);
    failure.context.truncate(CONTEXT_MAX);
    let mut left = CONTEXT_BYTES_MAX;
    for (field, value) in &mut failure.context {
        cut(field, NAME_BYTES_MAX);
        cut(value, TEXT_BYTES_MAX.min(left));
        left -= value.chars().map(escaped_len).sum::<usize>();
    }
    if let Some(hint) = &mut failure.hint {
        cut(hint, TEXT_BYTES_MAX);
    }
    failure
}

/// Cuts a text to what takes so many bytes as JSON, which is how records hold it.
pub(super) fn cut(text: &mut String, bytes_max: usize) {
    let mut bytes = 0;
    let beyond = text.char_indices().find(|(_, character)| {
        bytes += escaped_len(*character);
        bytes > bytes_max
    });
    if let Some((end, _)) = beyond {
        text.truncate(end);
    }
}

/// The bytes of a character in JSON: a control character becomes six.
fn escaped_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => character.len_utf8(),
    }
}

/// Refuses more steps than one record holds.
pub(super) fn check_steps(steps: &[PlannedStep]) -> Result<(), Refusal> {
    let bytes: usize = steps.iter().map(|planned| planned.params.len()).sum();
    if steps.len() <= STEPS_MAX && bytes <= PARAMS_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "a plan has at most {STEPS_MAX} steps and {PARAMS_BYTES_MAX} bytes of parameters, and this one would have {} and {bytes}",
        steps.len()
    );
    Err(Refusal::new(
        FailureKind::Exhausted,
        message,
        "shorten the patterns of the spec, or start a new migration",
    ))
}

/// Identifies a step in refusals and warnings.
pub(super) fn named(step: &StepId) -> String {
    format!("the step `{step}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leased() -> Step {
        Step { status: StepStatus::Leased, attempts: 1, ..Step::new() }
    }

    #[test]
    fn what_may_pass_is_tried_again_with_growing_waits_and_a_bound() {
        let mut step = leased();
        let mut waits = Vec::new();
        for _ in 1..STEP_ATTEMPTS_MAX {
            let failure = Failure::new(FailureKind::Unreachable, "no route");
            assert!(!step.fail(StepKind::FileCopy, failure, false, WallMs(0)).unwrap());
            assert_eq!(step.status, StepStatus::Ready);
            waits.push(step.not_before.unwrap().0);
            assert!(!step.is_due(WallMs(0)));
            step.change(Change::Granted).unwrap();
        }
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        let failure = Failure::new(FailureKind::Unreachable, "no route");
        assert!(step.fail(StepKind::FileCopy, failure, false, WallMs(0)).unwrap());
        assert_eq!(step.status, StepStatus::Failed);
    }

    #[test]
    fn what_cannot_pass_fails_at_once() {
        for (kind, failure) in [
            (StepKind::FileCopy, FailureKind::Exhausted),
            (StepKind::FileCopy, FailureKind::Invalid),
            (StepKind::FileVerify, FailureKind::Corrupt),
        ] {
            let mut step = leased();
            assert!(step.fail(kind, Failure::new(failure, "x"), false, WallMs(0)).unwrap());
            assert_eq!(step.status, StepStatus::Failed);
        }
        let mut undo = Step { status: StepStatus::Undoing, ..leased() };
        assert!(undo.fail(StepKind::FileCopy, Failure::new(FailureKind::Bug, "x"), true, WallMs(0)).unwrap());
        assert_eq!(undo.status, StepStatus::Stuck);
    }

    #[test]
    fn a_lost_attempt_is_undone_and_an_untried_one_is_not() {
        let mut lost = Step { status: StepStatus::Ready, attempts: 1, ..Step::new() };
        lost.give_up_half_done().unwrap();
        assert_eq!(lost.status, StepStatus::Failed);
        let mut untried = Step { status: StepStatus::Ready, ..Step::new() };
        untried.give_up_half_done().unwrap();
        assert_eq!(untried.status, StepStatus::Ready);
    }
}
