//! The guard of deletes: what must hold before anything is removed.

use common::spec::MaxDelete;

/// What helps when it does not hold.
pub(crate) const HINT: &str =
    "Look whether the source is the right one and whole; if it is, allow more with --max-delete.";

/// What would be removed, and of how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    /// Entries that would go, directories that make room for something else included.
    pub(crate) count: u64,
    /// Entries at the destination.
    pub(crate) present: u64,
    /// Entries at the source.
    pub(crate) at_source: u64,
    /// Whether the source's root is the directory that it was when the migration began.
    pub(crate) is_same_source: bool,
}

impl Removal {
    /// Says why nothing may be removed, if so.
    pub(crate) fn refusal(self, max_delete: MaxDelete) -> Option<String> {
        let Self { count, present, at_source, is_same_source } = self;
        let limit = match max_delete {
            MaxDelete::Count(limit) => limit,
            MaxDelete::Percent(percent) => present.saturating_mul(u64::from(percent)) / 100,
        };
        if !is_same_source {
            let why = "the source's root is not the directory that it was when the migration began: is its mount lost?";
            Some(why.to_owned())
        } else if at_source == 0 {
            Some("the source is empty".to_owned())
        } else {
            let why = format!("{count} of {present} entries would go, more than the {limit} allowed");
            (count > limit).then_some(why)
        }
    }
}
