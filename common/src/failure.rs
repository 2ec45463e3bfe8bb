//! The error of every boundary, as a value that survives a crash.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The input cannot be used as it is.
    Invalid,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// The named thing does not exist.
    NotFound,
    /// Something else stands there, or somebody else changed it.
    Conflict,
    /// The effect was asked for under an older token or a lost lease.
    Fenced,
    /// This host, kernel or version cannot do it.
    Unsupported,
    /// The source changed while it was read.
    Changed,
    /// Content differs from its digest while nothing says that it was changed.
    Corrupt,
    /// Space, inodes or a quota ran out.
    Exhausted,
    /// Too much at once.
    Throttled,
    /// The peer cannot be reached.
    Unreachable,
    /// It took longer than it may.
    Timeout,
    /// Somebody asked for it to stop.
    Cancelled,
    /// An undo failed; a person is needed.
    Stuck,
    /// A bug of ours.
    Bug,
}

impl FailureKind {
    /// Returns the exit code that `ctl` ends with for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::Unauthenticated | Self::Denied => 3,
            Self::NotFound => 4,
            Self::Conflict | Self::Fenced => 5,
            Self::Unsupported => 6,
            Self::Changed => 7,
            Self::Corrupt => 8,
            Self::Exhausted => 9,
            Self::Throttled => 10,
            Self::Unreachable | Self::Timeout => 11,
            Self::Stuck => 12,
            Self::Bug => 70,
            Self::Cancelled => 130,
        }
    }

    /// Returns whether and when a failure of this kind is tried again, unless the failure says otherwise.
    pub fn retry(self) -> Retry {
        match self {
            Self::Changed | Self::Corrupt | Self::Throttled | Self::Unreachable | Self::Timeout => {
                Retry::Later
            }
            Self::Exhausted | Self::Stuck => Retry::AfterOperator,
            Self::Invalid
            | Self::Unauthenticated
            | Self::Denied
            | Self::NotFound
            | Self::Conflict
            | Self::Fenced
            | Self::Unsupported
            | Self::Cancelled
            | Self::Bug => Retry::Never,
        }
    }

    /// Returns the word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Fenced => "fenced",
            Self::Unsupported => "unsupported",
            Self::Changed => "changed",
            Self::Corrupt => "corrupt",
            Self::Exhausted => "exhausted",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Stuck => "stuck",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Never by itself.
    Never,
    /// After a delay, a bounded number of times.
    Later,
    /// Once a person has changed something.
    AfterOperator,
}

/// Context field of a refusal that a person may lift: its value is the sentence to show before asking, and the same
/// request with `confirmed` set goes through.
pub const CONFIRM: &str = "confirm";

/// Context field in which the coordinator names whom to ask, from its configuration.
pub const SUPPORT_CONTACT: &str = "support_contact";

/// An error as a value: it crosses processes, is stored, and shows its whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// To branch on.
    pub kind: FailureKind,
    /// Whether trying again can help.
    pub retry: Retry,
    /// The chain, outermost first, joined by `: `.
    pub message: String,
    /// Nouns: host, step, path. Never a secret.
    #[serde(default)]
    pub context: Vec<(String, String)>,
    /// What the operator can do.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failure {
    /// Makes a failure whose retry follows from its kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, retry: kind.retry(), message: message.into(), context: Vec::new(), hint: None }
    }

    /// Makes a failure out of an error and everything that caused it.
    pub fn of(kind: FailureKind, error: &dyn std::error::Error) -> Self {
        Self::new(kind, chain(error))
    }

    /// Says what the operator can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a noun.
    #[must_use]
    pub fn context(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.push((field.into(), value.into()));
        self
    }

    /// Returns what a person must agree to before the request is repeated with `confirmed`, if this is such a refusal.
    pub fn confirmation(&self) -> Option<&str> {
        let (_, sentence) = self.context.iter().find(|(field, _)| field == CONFIRM)?;
        Some(sentence)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Returns an error's message followed by those of its sources, joined by `: `.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_shows_the_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening the journal")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::of(FailureKind::Exhausted, &Outer(std::io::Error::other("disk full")));
        assert_eq!(failure.message, "opening the journal: disk full");
        assert_eq!(failure.retry, Retry::AfterOperator);
    }

    #[test]
    fn a_refusal_may_ask_for_agreement() {
        let refusal = Failure::new(FailureKind::Conflict, "the way back of b7 would end");
        assert_eq!(refusal.confirmation(), None);
        let refusal = refusal.context(CONFIRM, "This ends the way back of b7.");
        assert_eq!(refusal.confirmation(), Some("This ends the way back of b7."));
    }
}
