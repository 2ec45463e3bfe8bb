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

/// What all migrations of a host share, as the source or as the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLimits {
    /// What their sources may send together; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How many run beside each other; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u32>,
}

impl HostLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change of them: the document of `ctl host limit`. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostLimitChange {
    /// What the sources may send together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How many run beside each other; zero lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u32>,
}
