//! What of a migration is changed while it runs: the document of `ctl set`.

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;

/// The changes; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlChange {
    /// How fast its source may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Bandwidth>,
}

impl ControlChange {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
