//! Why a command was not applied.

use common::failure::{CONFIRM, Failure, FailureKind};

/// A committed command that no longer fits; it changed nothing. Says what, where, why and what to do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal(#[serde(with = "super::document")] Box<Failure>);

impl Refusal {
    /// Makes a refusal out of its parts.
    pub fn new(kind: FailureKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(Box::new(Failure::new(kind, message).hint(hint)))
    }

    /// The path of an absent thing, and of a foreign one.
    pub fn absent(noun: &str, id: &impl std::fmt::Display) -> Self {
        let list = match noun {
            "host" => "ctl host list",
            "user" => "ctl user list",
            "API key" => "ctl key list",
            "tenant" => "ctl tenant list",
            "secret" => "ctl secret list",
            _ => "ctl list",
        };
        let hint = format!("see `{list}` for what there is");
        Self::new(FailureKind::NotFound, format!("there is no {noun} `{id}`"), hint)
    }

    /// Something that a person may agree to; `sentence` is shown before the question.
    #[must_use]
    pub fn confirm(mut self, sentence: impl Into<String>) -> Self {
        self.0.context.push((CONFIRM.to_owned(), sentence.into()));
        self
    }

    /// Adds a noun.
    #[must_use]
    pub fn context(mut self, field: &str, value: impl std::fmt::Display) -> Self {
        self.0.context.push((field.to_owned(), value.to_string()));
        self
    }

    /// Returns the failure to answer with.
    pub fn into_failure(self) -> Failure {
        *self.0
    }

    /// Returns the failure that it says.
    pub fn failure(&self) -> &Failure {
        &self.0
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refusal {}
