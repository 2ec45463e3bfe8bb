//! What an operator can ask for of a migration that exists.

/// What can be asked for of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Stop and undo.
    Cancel,
    /// Try again what failed.
    Retry,
    /// Let the last pass begin.
    Cutover,
    /// Undo what was completed.
    Rollback,
    /// End the way back.
    Settle,
    /// Compare again; `deep` reads both sides whole.
    Verify {
        /// Read both sides whole.
        deep: bool,
    },
    /// Hold up.
    Pause,
    /// Go on with what is paused.
    Resume,
}

impl Verb {
    /// Returns the word of the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Cutover => "cutover",
            Self::Rollback => "rollback",
            Self::Settle => "settle",
            Self::Verify { .. } => "verify",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}
