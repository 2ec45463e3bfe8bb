//! What can be asked of users, API keys, tenants and labels.

use common::clock::WallMs;
use common::digest::Digest;
use common::grant::{Grant, Labels};
use common::id::{HostName, KeyId, OperatorName, TenantId};
use serde::{Deserialize, Serialize};

use super::user::PasswordHash;

/// What the audit calls the change of a password.
pub const SET_PASSWORD: &str = "user.password";

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a user.
    CreateUser {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// What is granted from the beginning.
        grant: Grant,
        /// The password's hash; none for a user without one.
        password: Option<PasswordHash>,
    },
    /// Grants more to a user.
    GrantUser {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// What.
        grant: Grant,
    },
    /// Takes away what a user was granted in one tenant.
    UngrantUser {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// Where.
        within: TenantId,
    },
    /// Accepts nothing of a user any more, or again; certificates from before stay void.
    DisableUser {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// Whether it is disabled.
        is_disabled: bool,
    },
    /// Sets the own password.
    SetPassword {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// Its hash.
        password: PasswordHash,
    },
    /// Makes an API key.
    CreateKey {
        /// Whose.
        tenant: TenantId,
        /// Its public part, drawn by the proposer.
        id: KeyId,
        /// What it is for.
        name: String,
        /// Digest of its secret part.
        digest: Digest,
        /// What it may do.
        grant: Grant,
        /// When it ends.
        expires: Option<WallMs>,
    },
    /// Revokes an API key.
    RevokeKey {
        /// Whose.
        tenant: TenantId,
        /// Which.
        id: KeyId,
    },
    /// Makes a tenant.
    CreateTenant {
        /// Which.
        name: TenantId,
    },
    /// Says what a tenant may do at once.
    LimitTenant {
        /// Which.
        name: TenantId,
        /// Migrations that run beside each other.
        migrations_max: Option<u32>,
    },
    /// Labels a host, in the place of all labels that it had.
    LabelHost {
        /// Whose.
        tenant: TenantId,
        /// Which.
        host: HostName,
        /// With what.
        labels: Labels,
    },
    /// Sets another's password, which makes whoever knows it that user in every tenant; certificates from before are void.
    ResetPassword {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: OperatorName,
        /// Its hash.
        password: PasswordHash,
    },
}

impl Command {
    /// Returns whose records the command is about; none when it is about a tenant as such.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::CreateUser { tenant, .. }
            | Self::GrantUser { tenant, .. }
            | Self::UngrantUser { tenant, .. }
            | Self::DisableUser { tenant, .. }
            | Self::SetPassword { tenant, .. }
            | Self::ResetPassword { tenant, .. }
            | Self::CreateKey { tenant, .. }
            | Self::RevokeKey { tenant, .. }
            | Self::LabelHost { tenant, .. } => Some(tenant),
            Self::CreateTenant { .. } | Self::LimitTenant { .. } => None,
        }
    }

    /// Returns the name of what the command is about, for people.
    pub fn object(&self) -> String {
        match self {
            Self::CreateUser { name, .. }
            | Self::GrantUser { name, .. }
            | Self::UngrantUser { name, .. }
            | Self::DisableUser { name, .. }
            | Self::SetPassword { name, .. }
            | Self::ResetPassword { name, .. } => name.to_string(),
            Self::CreateKey { id, .. } | Self::RevokeKey { id, .. } => id.to_string(),
            Self::CreateTenant { name } | Self::LimitTenant { name, .. } => name.to_string(),
            Self::LabelHost { host, .. } => host.to_string(),
        }
    }

    /// Returns what is written into the audit for it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::CreateUser { .. } => "user.create",
            Self::GrantUser { .. } => "user.grant",
            Self::UngrantUser { .. } => "user.ungrant",
            Self::DisableUser { is_disabled: true, .. } => "user.disable",
            Self::DisableUser { is_disabled: false, .. } => "user.enable",
            Self::SetPassword { .. } | Self::ResetPassword { .. } => SET_PASSWORD,
            Self::CreateKey { .. } => "key.create",
            Self::RevokeKey { .. } => "key.revoke",
            Self::CreateTenant { .. } => "tenant.create",
            Self::LimitTenant { .. } => "tenant.limit",
            Self::LabelHost { .. } => "host.label",
        }
    }
}
