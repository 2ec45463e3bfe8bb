//! API keys: what is shown once, and what the state holds of it.
//!
//! A key is 256 random bits behind the tenant and the id under which its record is found. The state holds its digest
//! under a key that is derived from the authority's own, and so sealed under the cluster key: who reads the state can
//! neither use a key nor try guesses, and a new cluster key leaves the keys as they are.

use std::fmt;

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::{KeyId, TenantId};
use common::principal::Principal;
use common::secret::Secret;

use super::authority::Authority;

/// Separates this use of the authority's key from every other one.
const KEY_CONTEXT: &str = "drover 2026-11 digest of API keys";
/// And this one: keys that are drawn from the call that asks for them.
const REQUEST_CONTEXT: &str = "drover 2026-11 API keys by request";
/// Random bytes of a key.
const SECRET_BYTES: usize = 32;
/// What every key begins with, so that scanners of leaked secrets know it.
const PREFIX: &str = "drover-key";
/// Longest text that is read as a key: two names and the secret in hex.
const TEXT_BYTES_MAX: usize = 256;

/// A key: `drover-key.TENANT.ID.SECRET`, the secret in hex.
#[derive(Clone)]
pub struct ApiKey {
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// Its public part.
    pub id: KeyId,
    secret: Secret<[u8; SECRET_BYTES]>,
}

impl ApiKey {
    /// Makes a key.
    pub fn new(tenant: TenantId, id: KeyId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { tenant, id, secret: Secret::new(secret) }
    }

    /// Draws a key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn draw(tenant: TenantId) -> Result<Self, Failure> {
        let (mut id, mut secret) = ([0; 10], [0; SECRET_BYTES]);
        let drawn = getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret));
        drawn.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        Ok(Self::new(tenant, KeyId::from_random(id), secret))
    }

    /// Makes the key that a call stands for, the same one for each try of it: nobody can who has not the authority's
    /// key, and another caller or another content gives another one.
    pub fn of_request(authority: &Authority, principal: &Principal, tenant: TenantId, request: &str) -> Self {
        let (mut id, mut secret) = ([0; 10], [0; SECRET_BYTES]);
        let mut hasher = blake3::Hasher::new_keyed(authority.derive(REQUEST_CONTEXT).expose());
        // No name holds a zero byte, and what is left to the end is the request.
        hasher.update(principal.to_string().as_bytes()).update(b"\0");
        hasher.update(tenant.as_str().as_bytes()).update(b"\0").update(request.as_bytes());
        let mut drawn = hasher.finalize_xof();
        drawn.fill(&mut id);
        drawn.fill(&mut secret);
        Self::new(tenant, KeyId::from_random(id), secret)
    }

    /// Reads a key; nothing when the text has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (rest, secret) = text.strip_prefix(PREFIX)?.strip_prefix('.')?.rsplit_once('.')?;
        let (tenant, id) = rest.rsplit_once('.')?;
        let secret = blake3::Hash::from_hex(secret).ok()?;
        Some(Self::new(tenant.parse().ok()?, id.parse().ok()?, *secret.as_bytes()))
    }

    /// Returns the text to show, once.
    pub fn reveal(&self) -> String {
        let hex: String = self.secret.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}.{}.{}.{hex}", self.tenant, self.id)
    }

    /// Returns the digest that the state holds.
    pub fn digest(&self, authority: &Authority) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(authority.derive(KEY_CONTEXT).expose());
        // Neither name holds a zero byte, so no two keys have one text.
        hasher.update(self.tenant.as_str().as_bytes()).update(b"\0");
        hasher.update(self.id.as_str().as_bytes()).update(b"\0").update(self.secret.expose());
        hasher.finalize().into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("tenant", &self.tenant).field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use common::clock::WallMs;

    use super::*;

    #[test]
    fn is_read_back_and_bound_to_its_name_and_cluster() {
        let key = ApiKey::new("a.b".parse().unwrap(), "k1".parse().unwrap(), [0xab; 32]);
        let text = key.reveal();
        assert_eq!(text, format!("drover-key.a.b.k1.{}", "ab".repeat(32)));
        assert_eq!(ApiKey::parse(&format!("{text}\n")).unwrap().reveal(), text);
        assert!(!format!("{key:?}").contains("abab"));
        for bad in ["", "drover-key.a.k1.", "key.a.k1.00", &"a".repeat(10_000), &text[..text.len() - 1]] {
            assert!(ApiKey::parse(bad).is_none(), "{bad:?} was taken for a key");
        }
        let authority = |cluster| {
            let (certificate, key) = Authority::create(cluster, WallMs(1_800_000_000_000)).unwrap();
            Authority::open(cluster, &certificate, &key).unwrap()
        };
        let (ours, theirs) = (authority("c1"), authority("c2"));
        let renamed = ApiKey::new("a.c".parse().unwrap(), "k1".parse().unwrap(), [0xab; 32]);
        assert_eq!(key.digest(&ours), ApiKey::parse(&text).unwrap().digest(&ours));
        assert_ne!(key.digest(&ours), key.digest(&theirs));
        assert_ne!(key.digest(&ours), renamed.digest(&ours));
    }
}
