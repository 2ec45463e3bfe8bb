//! The life of a step: one table.
//!
//! Every change of a step's status goes through [`next`], when it happens and when the log is replayed; what is not in
//! the table is an error, never a silent no-op.

use common::view::StepStatus;

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// All that it waits for has ended well or is caught up.
    Unblocked,
    /// An agent was given the lease of a run.
    Granted,
    /// The lease of a run ended without a result.
    Lost,
    /// A continuous step has nothing left to do.
    CaughtUp,
    /// The run ended well.
    Succeeded,
    /// The run ended badly.
    Failed,
    /// It is tried again.
    Retried,
    /// An agent was given the lease of the undo.
    UndoGranted,
    /// The lease of the undo ended without a result.
    UndoLost,
    /// The undo ended well.
    Undone,
    /// The undo ended badly.
    UndoFailed,
}

/// A change that the table does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step that is {from:?} cannot become {change:?}")]
pub struct IllegalTransition {
    /// Where the step stood.
    pub from: StepStatus,
    /// What was to happen.
    pub change: Change,
}

/// Returns the status after a change.
///
/// # Errors
/// When the table does not have the pair.
pub fn next(from: StepStatus, change: Change) -> Result<StepStatus, IllegalTransition> {
    match (from, change) {
        (StepStatus::Blocked, Change::Unblocked)
        | (StepStatus::Leased | StepStatus::CaughtUp, Change::Lost)
        | (StepStatus::Failed, Change::Retried) => Ok(StepStatus::Ready),
        (StepStatus::Ready, Change::Granted) => Ok(StepStatus::Leased),
        (StepStatus::Leased, Change::CaughtUp) => Ok(StepStatus::CaughtUp),
        (StepStatus::Leased | StepStatus::CaughtUp, Change::Succeeded) => Ok(StepStatus::Succeeded),
        (StepStatus::Leased | StepStatus::CaughtUp, Change::Failed) => Ok(StepStatus::Failed),
        (StepStatus::Succeeded | StepStatus::Failed, Change::UndoGranted)
        | (StepStatus::Undoing, Change::UndoLost)
        | (StepStatus::Stuck, Change::Retried) => Ok(StepStatus::Undoing),
        (StepStatus::Undoing, Change::Undone) => Ok(StepStatus::Undone),
        (StepStatus::Undoing, Change::UndoFailed) => Ok(StepStatus::Stuck),
        (from, change) => Err(IllegalTransition { from, change }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUSES: [StepStatus; 9] = [
        StepStatus::Blocked,
        StepStatus::Ready,
        StepStatus::Leased,
        StepStatus::CaughtUp,
        StepStatus::Succeeded,
        StepStatus::Failed,
        StepStatus::Undoing,
        StepStatus::Undone,
        StepStatus::Stuck,
    ];
    const CHANGES: [Change; 11] = [
        Change::Unblocked,
        Change::Granted,
        Change::Lost,
        Change::CaughtUp,
        Change::Succeeded,
        Change::Failed,
        Change::Retried,
        Change::UndoGranted,
        Change::UndoLost,
        Change::Undone,
        Change::UndoFailed,
    ];

    #[test]
    fn the_table_has_sixteen_moves_and_no_other() {
        use StepStatus as S;
        let legal = [
            (S::Blocked, Change::Unblocked, S::Ready),
            (S::Ready, Change::Granted, S::Leased),
            (S::Leased, Change::Lost, S::Ready),
            (S::Leased, Change::CaughtUp, S::CaughtUp),
            (S::CaughtUp, Change::Lost, S::Ready),
            (S::CaughtUp, Change::Succeeded, S::Succeeded),
            (S::CaughtUp, Change::Failed, S::Failed),
            (S::Leased, Change::Succeeded, S::Succeeded),
            (S::Leased, Change::Failed, S::Failed),
            (S::Failed, Change::Retried, S::Ready),
            (S::Succeeded, Change::UndoGranted, S::Undoing),
            (S::Failed, Change::UndoGranted, S::Undoing),
            (S::Undoing, Change::Undone, S::Undone),
            (S::Undoing, Change::UndoLost, S::Undoing),
            (S::Undoing, Change::UndoFailed, S::Stuck),
            (S::Stuck, Change::Retried, S::Undoing),
        ];
        for from in STATUSES {
            for change in CHANGES {
                let expected =
                    legal.iter().find(|(f, c, _)| (*f, *c) == (from, change)).map(|(_, _, to)| *to);
                assert_eq!(next(from, change).ok(), expected, "{from:?} {change:?}");
            }
        }
    }
}
