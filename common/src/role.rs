//! What a person or an API key may be.
//!
//! Which calls a role may make is decided by the coordinator's table of access; here it only has a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A role in one tenant. Roles do not contain each other: who needs two is granted two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks at hosts and migrations.
    Viewer,
    /// Looks, and moves: starts, stops and undoes migrations, drains hosts, sets secrets.
    Operator,
    /// Looks, and agrees to what others want to run.
    Approver,
    /// Everything in a tenant, users and hosts included; in the tenant `default` the cluster too.
    Admin,
    /// Looks, and reads the audit.
    Auditor,
}

/// Why a text is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: viewer, operator, approver, admin and auditor are")]
pub struct InvalidRole(String);

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Approver, Self::Admin, Self::Auditor];

    /// Returns the word for people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| InvalidRole(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_back_and_others_named() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("`root`"));
    }
}
