//! Who acts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{HostName, NodeName, TenantId};

/// Who a certificate says its holder is; every request and every record carries one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A person at `ctl`.
    Operator {
        /// The tenant that the operator works in.
        tenant: TenantId,
        /// The operator's name.
        name: String,
    },
    /// An agent on a host.
    Agent {
        /// The tenant that the host belongs to.
        tenant: TenantId,
        /// The host.
        host: HostName,
    },
    /// A coordinator node.
    Node {
        /// The node.
        name: NodeName,
    },
}

impl Principal {
    /// Returns the tenant that the principal acts in; a node acts for the cluster and so in the default one.
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Operator { tenant, .. } | Self::Agent { tenant, .. } => tenant.clone(),
            Self::Node { .. } => TenantId::default_tenant(),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { tenant, name } => write!(f, "operator:{tenant}/{name}"),
            Self::Agent { tenant, host } => write!(f, "agent:{tenant}/{host}"),
            Self::Node { name } => write!(f, "node:{name}"),
        }
    }
}
