//! Which attack is under way.

use std::path::Path;

/// An attack by its name, and what it aims at.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    /// Its name; `none` is honest.
    pub(crate) name: String,
    /// A path or a number, where the attack needs one.
    pub(crate) aim: String,
}

impl Attack {
    /// Reads the plan: `NAME` or `NAME AIM`.
    pub(crate) fn read(plan: &Path) -> Self {
        let text = std::fs::read_to_string(plan).unwrap_or_else(|_absent| "none".to_owned());
        let (name, aim) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        Self { name: name.to_owned(), aim: aim.to_owned() }
    }
}
