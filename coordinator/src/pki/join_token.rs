//! One-time tokens for enrolment.
//!
//! A token is 128 random bits, shown once. The state holds its digest over what it is for (role, tenant and name), so a
//! token that is used under another name, tenant or role is simply unknown, and whoever reads the state can use none.
//! The digest is under a key that is derived from the authority's own, so that a token outlives a rotation of the
//! cluster key. When it ends and that it is used once is the state's business.

use std::fmt;

use common::digest::Digest;
use common::id::{HostName, NodeName, TenantId};
use common::principal::Principal;
use common::secret::Secret;

use super::authority::Authority;

/// Separates this use of the authority's key from every other one.
const KEY_CONTEXT: &str = "drover 2026-11 digest of join tokens";
/// Random bytes of a token.
const SECRET_BYTES: usize = 16;

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token")]
pub struct InvalidJoinToken;

/// As what a token lets its holder join.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Agent(TenantId),
    Node,
}

/// A token: `agent.TENANT.SECRET` or `node.SECRET`, the secret in hex.
#[derive(Clone)]
pub struct JoinToken {
    role: Role,
    secret: Secret<[u8; SECRET_BYTES]>,
}

impl JoinToken {
    /// Makes a token for a host of a tenant.
    pub fn for_host(tenant: TenantId, random: [u8; SECRET_BYTES]) -> Self {
        Self { role: Role::Agent(tenant), secret: Secret::new(random) }
    }

    /// Makes a token for a coordinator node.
    pub fn for_node(random: [u8; SECRET_BYTES]) -> Self {
        Self { role: Role::Node, secret: Secret::new(random) }
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When the text has not the form of one; never says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidJoinToken> {
        let (role, secret) = text.trim().rsplit_once('.').ok_or(InvalidJoinToken)?;
        let role = match role.split_once('.') {
            Some(("agent", tenant)) => Role::Agent(tenant.parse().map_err(|_invalid| InvalidJoinToken)?),
            None if role == "node" => Role::Node,
            Some(_) | None => return Err(InvalidJoinToken),
        };
        let secret = secret_of_hex(secret).ok_or(InvalidJoinToken)?;
        Ok(Self { role, secret: Secret::new(secret) })
    }

    /// Returns the text to show, once.
    pub fn reveal(&self) -> String {
        let hex: String = self.secret.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        match &self.role {
            Role::Agent(tenant) => format!("agent.{tenant}.{hex}"),
            Role::Node => format!("node.{hex}"),
        }
    }

    /// Returns as whom the holder joins under this name.
    ///
    /// # Errors
    /// When the name is not one of a host or node.
    pub fn principal(&self, name: &str) -> Result<Principal, common::id::InvalidId> {
        Ok(match &self.role {
            Role::Agent(tenant) => {
                Principal::Agent { tenant: tenant.clone(), host: name.parse::<HostName>()? }
            }
            Role::Node => Principal::Node { name: name.parse::<NodeName>()? },
        })
    }

    /// Returns the digest that the state holds, for this principal.
    pub fn digest(&self, authority: &Authority, principal: &Principal) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(authority.derive(KEY_CONTEXT).expose());
        // The principal's text names role, tenant and name, and ends before a byte that no name holds.
        hasher.update(principal.to_string().as_bytes()).update(b"\0").update(self.secret.expose());
        hasher.finalize().into()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("role", &self.role).finish_non_exhaustive()
    }
}

fn secret_of_hex(text: &str) -> Option<[u8; SECRET_BYTES]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut secret = [0; SECRET_BYTES];
    if text.len() != SECRET_BYTES * 2 {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use common::clock::WallMs;

    use super::*;

    #[test]
    fn is_read_back_and_never_shown_by_accident() {
        let token = JoinToken::for_host("a.b-c".parse().unwrap(), [0xab; 16]);
        let text = token.reveal();
        assert_eq!(text, format!("agent.a.b-c.{}", "ab".repeat(16)));
        assert_eq!(JoinToken::parse(&text).unwrap().reveal(), text);
        assert!(!format!("{token:?}").contains("abab"));
        let node = JoinToken::for_node([1; 16]).reveal();
        assert_eq!(JoinToken::parse(&node).unwrap().reveal(), node);
        for bad in ["", "agent.default.", "king.default.00", "node.default.x", &"0".repeat(32)] {
            assert!(JoinToken::parse(bad).is_err(), "{bad:?} was taken for a token");
        }
    }

    #[test]
    fn the_digest_is_bound_to_cluster_role_tenant_and_name() {
        let authority = |cluster| {
            let (certificate, key) = Authority::create(cluster, WallMs(1_800_000_000_000)).unwrap();
            Authority::open(cluster, &certificate, &key).unwrap()
        };
        let (ours, theirs) = (authority("c1"), authority("c2"));
        let (default, other) = (TenantId::default_tenant(), "other".parse::<TenantId>().unwrap());
        let host = JoinToken::for_host(default, [7; 16]);
        let foreign = JoinToken::for_host(other, [7; 16]);
        let node = JoinToken::for_node([7; 16]);
        let digests = [
            host.digest(&ours, &host.principal("web1").unwrap()),
            host.digest(&theirs, &host.principal("web1").unwrap()),
            host.digest(&ours, &host.principal("web2").unwrap()),
            foreign.digest(&ours, &foreign.principal("web1").unwrap()),
            node.digest(&ours, &node.principal("web1").unwrap()),
        ];
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[at + 1..].contains(digest), "digest {at} is not bound to its scope");
        }
    }
}
