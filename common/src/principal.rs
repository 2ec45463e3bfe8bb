//! Who acts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{HostName, KeyId, NodeName, TenantId};

/// Who a certificate says its holder is; every request and every record carries one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A person at `ctl`. What it may do is granted, not part of who it is.
    #[serde(rename = "operator")]
    Person {
        /// The tenant that the person belongs to.
        tenant: TenantId,
        /// The person's name.
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
    /// An API key: a pipeline or a script. Never in a certificate.
    #[serde(rename = "api_key")]
    Key {
        /// The tenant that the key belongs to.
        tenant: TenantId,
        /// Its public part.
        id: KeyId,
    },
}

impl Principal {
    /// Returns the tenant that the principal acts in; a node acts for the cluster and so in the default one.
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Person { tenant, .. } | Self::Agent { tenant, .. } | Self::Key { tenant, .. } => {
                tenant.clone()
            }
            Self::Node { .. } => TenantId::default_tenant(),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person { tenant, name } => write!(f, "user:{tenant}/{name}"),
            Self::Agent { tenant, host } => write!(f, "agent:{tenant}/{host}"),
            Self::Node { name } => write!(f, "node:{name}"),
            Self::Key { tenant, id } => write!(f, "key:{tenant}/{id}"),
        }
    }
}
