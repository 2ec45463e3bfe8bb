//! Every call, and what it needs.
//!
//! A new call is a new variant, and does not compile without its line in [`Call::needs`]. That every method of the
//! services is one of these is a test over their descriptors.

use common::role::Role;

use Role::{Admin, Approver, Auditor, Operator, Viewer};

/// What is asked for; one for each command that an operator would allow or forbid by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Turn a token into a certificate.
    Enroll,
    /// Turn a password into a certificate.
    Login,
    /// Turn a certificate into the next one.
    Renew,
    /// An agent's stream.
    Session,
    /// Node to node.
    Raft,
    /// Ask who one is.
    WhoAmI,
    /// Change the own password.
    SetOwnPassword,
    /// Make a plan and change nothing.
    Plan,
    /// Make and run a migration.
    Migrate,
    /// Stop and undo.
    Cancel,
    /// Try again what failed.
    Retry,
    /// Let the last pass begin.
    Cutover,
    /// Undo what was completed.
    Rollback,
    /// End the way back.
    Settle,
    /// Compare again.
    Verify,
    /// Hold a migration up.
    Pause,
    /// Go on with a paused migration.
    Resume,
    /// Change how a migration runs.
    SetMigration,
    /// Look at migrations, their reports and lists.
    ReadMigration,
    /// Look at hosts.
    ReadHost,
    /// Let a host join.
    EnrollHost,
    /// Give a host no new steps, or again.
    DrainHost,
    /// Limit what the migrations of a host share.
    LimitHost,
    /// Label a host.
    LabelHost,
    /// Void a host's certificate.
    RevokeHost,
    /// Look at users.
    ReadUser,
    /// Make, grant, disable and enable users, and set their passwords.
    ChangeUser,
    /// Look at API keys.
    ReadKey,
    /// Make and revoke API keys.
    ChangeKey,
    /// Look at the names of secrets.
    ReadSecret,
    /// Name a secret in a spec, so that agents get it.
    UseSecret,
    /// Set and delete secrets.
    ChangeSecret,
    /// Label a secret.
    LabelSecret,
    /// Read the audit, its pages and anchors.
    ReadAudit,
    /// Have every coordinator check the audit, and read that of all tenants.
    VerifyAudit,
    /// Look at tenants.
    ReadTenant,
    /// Make tenants and set their limits.
    ChangeTenant,
    /// Look at the cluster.
    ReadCluster,
    /// Let a coordinator join, or take one out.
    ChangeCluster,
    /// Wrap all secrets by another cluster key.
    RotateClusterKey,
}

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// No certificate: what is shown is in the call itself.
    Nothing,
    /// A certificate of a host or node, and be it one that has expired.
    Renewable,
    /// A valid certificate of a host.
    Agent,
    /// A valid certificate of a node.
    Node,
    /// A person or key, whatever is granted to it.
    Anyone,
    /// A person, whatever is granted to it.
    AnyPerson,
    /// One of these roles in the tenant, in a scope that holds what is touched.
    Role(&'static [Role]),
    /// One of these roles in the whole tenant.
    WholeTenant(&'static [Role]),
    /// The role admin in the whole tenant, or in the whole tenant `default`, which looks after all tenants.
    TenantAdmin,
    /// One of these roles in the tenant `default`.
    Cluster(&'static [Role]),
}

impl Call {
    /// All calls.
    pub const ALL: [Self; 40] = [
        Self::Enroll,
        Self::Login,
        Self::Renew,
        Self::Session,
        Self::Raft,
        Self::WhoAmI,
        Self::SetOwnPassword,
        Self::Plan,
        Self::Migrate,
        Self::Cancel,
        Self::Retry,
        Self::Cutover,
        Self::Rollback,
        Self::Settle,
        Self::Verify,
        Self::Pause,
        Self::Resume,
        Self::SetMigration,
        Self::ReadMigration,
        Self::ReadHost,
        Self::EnrollHost,
        Self::DrainHost,
        Self::LimitHost,
        Self::LabelHost,
        Self::RevokeHost,
        Self::ReadUser,
        Self::ChangeUser,
        Self::ReadKey,
        Self::ChangeKey,
        Self::ReadSecret,
        Self::UseSecret,
        Self::ChangeSecret,
        Self::LabelSecret,
        Self::ReadAudit,
        Self::VerifyAudit,
        Self::ReadTenant,
        Self::ChangeTenant,
        Self::ReadCluster,
        Self::ChangeCluster,
        Self::RotateClusterKey,
    ];

    /// Returns what the call needs: the table.
    pub fn needs(self) -> Needs {
        match self {
            Self::Enroll | Self::Login => Needs::Nothing,
            Self::Renew => Needs::Renewable,
            Self::Session => Needs::Agent,
            Self::Raft => Needs::Node,
            Self::WhoAmI => Needs::Anyone,
            Self::SetOwnPassword => Needs::AnyPerson,
            // Where the coordinators are is what every `ctl` must know.
            Self::ReadMigration | Self::ReadHost | Self::ReadCluster => {
                Needs::Role(&[Viewer, Operator, Approver, Admin, Auditor])
            }
            Self::Plan
            | Self::Migrate
            | Self::Cancel
            | Self::Retry
            | Self::Cutover
            | Self::Rollback
            | Self::Settle
            | Self::Verify
            | Self::Pause
            | Self::Resume
            | Self::SetMigration
            | Self::DrainHost
            | Self::LimitHost
            | Self::ReadSecret
            | Self::UseSecret => Needs::Role(&[Operator, Admin]),
            Self::EnrollHost | Self::RevokeHost => Needs::Role(&[Admin]),
            // A label decides whose scope a thing is in, so it is not for who has a scope.
            Self::LabelHost | Self::LabelSecret => Needs::WholeTenant(&[Admin]),
            Self::ChangeSecret => Needs::WholeTenant(&[Operator, Admin]),
            Self::ReadAudit => Needs::WholeTenant(&[Auditor, Admin]),
            Self::VerifyAudit => Needs::Cluster(&[Auditor, Admin]),
            Self::ReadUser | Self::ChangeUser | Self::ReadKey | Self::ChangeKey => Needs::TenantAdmin,
            Self::ReadTenant | Self::ChangeTenant | Self::ChangeCluster | Self::RotateClusterKey => {
                Needs::Cluster(&[Admin])
            }
        }
    }

    /// Returns the words of the call for people, as in "may not …".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enroll => "join",
            Self::Login => "log in",
            Self::Renew => "renew a certificate",
            Self::Session => "open an agent's session",
            Self::Raft => "speak as a coordinator",
            Self::WhoAmI => "ask who it is",
            Self::SetOwnPassword => "change its password",
            Self::Plan => "plan migrations",
            Self::Migrate => "start migrations",
            Self::Cancel => "cancel migrations",
            Self::Retry => "retry migrations",
            Self::Cutover => "cut migrations over",
            Self::Rollback => "roll migrations back",
            Self::Settle => "settle migrations",
            Self::Verify => "verify migrations",
            Self::Pause => "pause migrations",
            Self::Resume => "resume migrations",
            Self::SetMigration => "change migrations",
            Self::ReadMigration => "look at migrations",
            Self::ReadHost => "look at hosts",
            Self::EnrollHost => "enroll hosts",
            Self::DrainHost => "drain hosts",
            Self::LimitHost => "limit hosts",
            Self::LabelHost => "label hosts",
            Self::RevokeHost => "revoke hosts",
            Self::ReadUser => "look at users",
            Self::ChangeUser => "change users",
            Self::ReadKey => "look at API keys",
            Self::ChangeKey => "make or revoke API keys",
            Self::ReadSecret => "look at secrets",
            Self::UseSecret => "use secrets",
            Self::ChangeSecret => "change secrets",
            Self::LabelSecret => "label secrets",
            Self::ReadAudit => "read the audit",
            Self::VerifyAudit => "verify the audit of all tenants",
            Self::ReadTenant => "look at tenants",
            Self::ChangeTenant => "change tenants",
            Self::ReadCluster => "look at the cluster",
            Self::ChangeCluster => "change the cluster",
            Self::RotateClusterKey => "rotate the cluster key",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_holds_every_call_once() {
        for (place, call) in Call::ALL.into_iter().enumerate() {
            assert_eq!(call as usize, place, "{call:?} is not where it is declared");
        }
        // The last variant ends the list, so one more that is not in it shows here.
        assert_eq!(Call::RotateClusterKey as usize + 1, Call::ALL.len());
    }
}
