//! What the coordinator tells about users, API keys and tenants: the documents that `ctl --output json` prints.
//!
//! As `view`: fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::grant::Grant;
use crate::id::{KeyId, OperatorName, TenantId};

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The name, unique in the tenant.
    pub name: OperatorName,
    /// The tenant that the person belongs to.
    pub tenant: TenantId,
    /// Whether nothing of it is accepted any more.
    pub disabled: bool,
    /// Whether it can log in with a password.
    pub has_password: bool,
    /// What it may do, and where.
    pub grants: Vec<Grant>,
    /// Who made it.
    pub principal: String,
    /// When.
    pub created: WallMs,
    /// Where to log in, and by what the cluster is known: only in the answer to who makes the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginHint>,
}

/// What somebody needs to log in from a machine that knows nothing yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginHint {
    /// Where the coordinators are, as HOST:PORT.
    pub coordinators: Vec<String>,
    /// The digest of the cluster's certificate.
    pub ca_digest: String,
}

/// An API key, without the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its public part, unique in the tenant.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// What it is for.
    pub name: String,
    /// What it may do, and where.
    pub grants: Vec<Grant>,
    /// Who made it.
    pub principal: String,
    /// When.
    pub created: WallMs,
    /// When it ends; none for never.
    pub expires: Option<WallMs>,
    /// When it was revoked; none while it was not.
    pub revoked: Option<WallMs>,
}

/// A new API key. This is the only time that it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewKeyView {
    /// The key, to be put into a file or a variable.
    pub key: String,
    /// Its public part.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// When it ends; none for never.
    pub expires: Option<WallMs>,
}

impl std::fmt::Debug for NewKeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKeyView").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a tenant may do at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLimits {
    /// Migrations that run beside each other; more wait for their turn. None for no limit.
    pub migrations: Option<u32>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its name.
    pub name: TenantId,
    /// When it was made; none for the one that every cluster has.
    pub created: Option<WallMs>,
    /// What it may do at once.
    pub limits: TenantLimits,
}

/// Who somebody is to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoView {
    /// As `user:default/eve`.
    pub principal: String,
    /// The tenant that is meant.
    pub tenant: TenantId,
    /// What is granted, in all tenants.
    pub grants: Vec<Grant>,
}
