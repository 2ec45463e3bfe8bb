//! People: what is granted to them, and by what they prove who they are.

use std::fmt;

use common::clock::WallMs;
use common::failure::FailureKind;
use common::grant::{GRANTS_MAX, Grant};
use common::id::{OperatorName, TenantId};
use common::principal::Principal;
use serde::{Deserialize, Serialize};

use crate::state::refusal::Refusal;

/// People of one tenant; the largest customer has a hundredth of it.
pub const USERS_MAX: usize = 10_000;
/// Longest hash of a password; ours have a hundred bytes.
const HASH_BYTES_MAX: usize = 256;

/// One person. Records are never removed: a name that was one person's never becomes another's certificate's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who made the record.
    pub principal: Principal,
    /// When.
    pub created: WallMs,
    /// Whether nothing of the person is accepted any more.
    pub is_disabled: bool,
    /// Certificates that were issued before this are void.
    pub certificates_from: WallMs,
    /// What was granted, in the own tenant and in others.
    pub grants: Vec<Grant>,
    /// What the password is compared with; none for a person who has none.
    pub password: Option<PasswordHash>,
}

/// An argon2 hash with its parameters and salt. Not a secret in the strict sense, and still never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes a hash in the PHC form.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the hash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.0.len() <= HASH_BYTES_MAX {
            return Ok(());
        }
        Err(Refusal::new(
            FailureKind::Invalid,
            "the hash of the password is too long",
            "this is a fault of the caller",
        ))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl User {
    /// Whether a certificate that was issued at this time still counts.
    pub fn accepts(&self, issued: WallMs) -> bool {
        !self.is_disabled && issued >= self.certificates_from
    }

    /// Returns when the first certificate begins that counts. Certificates tell whole seconds, so it is the next one: what
    /// was issued in the second of a change, and before it, is void.
    pub fn certificates_begin(&self) -> WallMs {
        WallMs(self.certificates_from.0.div_ceil(1_000).saturating_mul(1_000))
    }

    /// Whether something is granted to the person outside of its own tenant.
    pub fn reaches_beyond(&self, own: &TenantId) -> bool {
        self.grants.iter().any(|grant| grant.tenant != *own)
    }

    /// Adds a grant; a repeated one changes nothing.
    pub(super) fn grant(&mut self, name: &OperatorName, grant: Grant) -> Result<(), Refusal> {
        grant.scope.check().map_err(|error| {
            Refusal::new(FailureKind::Invalid, error.to_string(), "label the hosts and name the label")
        })?;
        if self.grants.contains(&grant) {
            return Ok(());
        }
        if self.grants.len() >= GRANTS_MAX {
            let message = format!("the user `{name}` holds {GRANTS_MAX} grants already");
            return Err(Refusal::new(
                FailureKind::Exhausted,
                message,
                "take some away first with `ctl user ungrant`",
            ));
        }
        self.grants.push(grant);
        Ok(())
    }

    /// Takes away all that was granted in a tenant.
    pub(super) fn ungrant(&mut self, tenant: &TenantId) {
        self.grants.retain(|grant| grant.tenant != *tenant);
    }
}
