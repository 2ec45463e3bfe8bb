//! A secret's envelope: bound to tenant, name and version, so that none can stand in another's place.

use common::failure::{Failure, FailureKind};
use common::id::{SecretName, TenantId};
use common::secret::Secret;

use super::envelope::{self, EnvelopeError, Parts};
use super::keyring::ClusterKey;
use super::ring::Keyring;
use crate::state::secret::Version;

/// Which version of which secret.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Which.
    pub name: &'a SecretName,
    /// Which version.
    pub version: u32,
}

impl Place<'_> {
    /// Returns what the envelope is bound to. Neither name can hold a slash.
    fn context(&self) -> String {
        format!("drover secret {}/{}/{}", self.tenant, self.name, self.version)
    }

    /// Seals a value; returns head and body.
    ///
    /// # Errors
    /// When randomness fails.
    pub fn seal(&self, key: &ClusterKey, value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        envelope::seal_parts(key, &self.context(), value).map_err(|error| self.unusable(&error))
    }

    /// Opens a version.
    ///
    /// # Errors
    /// When this node lacks the key, or the envelope is damaged or belongs elsewhere.
    pub fn open(&self, keyring: &Keyring, version: &Version) -> Result<Secret<Vec<u8>>, Failure> {
        let parts = Parts { head: &version.head, body: &version.body };
        let id = parts.key_id().map_err(|error| self.unusable(&error))?;
        parts.open(&keyring.key(id)?, &self.context()).map_err(|error| self.unusable(&error))
    }

    /// Returns the head under another cluster key; none when it is under that key already.
    ///
    /// # Errors
    /// When this node lacks the key that it is under, or the head is damaged.
    pub fn rewrap(
        &self,
        keyring: &Keyring,
        to: &ClusterKey,
        version: &Version,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let parts = Parts { head: &version.head, body: &version.body };
        let id = parts.key_id().map_err(|error| self.unusable(&error))?;
        if id == to.id() {
            return Ok(None);
        }
        let from = keyring.key(id)?;
        parts.rewrap(&from, to, &self.context()).map(Some).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &EnvelopeError) -> Failure {
        let Self { tenant: _, name, version } = self;
        let failure = Failure::of(FailureKind::Corrupt, error);
        let message =
            format!("the secret `{name}` (version {version}) cannot be opened: {}", failure.message);
        Failure { message, ..failure }.hint(format!("set it again with `ctl secret set {name}`"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::clock::{self, WallMs};

    use super::*;
    use crate::vault::keyring::KeySources;

    fn version(number: u32, (head, body): (Vec<u8>, Vec<u8>)) -> Version {
        let (principal, request_id) = (String::new(), String::new());
        Version { number, set: WallMs(0), principal, request_id, head, body: Arc::new(body) }
    }

    fn keyring() -> (Keyring, ClusterKey) {
        let key = ClusterKey::new([1; 32]);
        let variable = Some(Secret::new(key.reveal().expose().clone()));
        (Keyring::open(KeySources { variable, ..KeySources::default() }).unwrap(), key)
    }

    #[test]
    fn opens_in_its_own_place_only() {
        let (keyring, key) = keyring();
        let (ours, theirs) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let place = Place { tenant: &ours, name: &a, version: 3 };
        let sealed = version(3, place.seal(&key, b"\xff\0canary").unwrap());
        assert_eq!(place.open(&keyring, &sealed).unwrap().expose(), b"\xff\0canary");
        for place in
            [Place { tenant: &theirs, ..place }, Place { name: &b, ..place }, Place { version: 2, ..place }]
        {
            let failure = place.open(&keyring, &sealed).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt);
            assert!(!failure.to_string().contains("canary"));
        }
    }

    /// `cargo test -p coordinator --release reaches_its_agent -- --nocapture` prints what it costs.
    #[test]
    fn what_is_opened_and_sealed_again_reaches_its_agent() {
        const ROUNDS: u32 = 200;
        let (keyring, key) = keyring();
        let (tenant, name) = (TenantId::default_tenant(), "a".parse().unwrap());
        let place = Place { tenant: &tenant, name: &name, version: 1 };
        let sealed = version(1, place.seal(&key, &[7; 100]).unwrap());
        let agent = common::sealing::SealingKey::generate().unwrap();
        let begin = clock::boot();
        let mut answers = Vec::new();
        for _ in 0..ROUNDS {
            let value = place.open(&keyring, &sealed).unwrap();
            answers.push(common::sealing::seal(agent.public(), "purpose", value.expose()).unwrap());
        }
        let each = clock::boot().since(begin) / ROUNDS;
        for answer in &answers {
            assert_eq!(agent.open("purpose", answer).unwrap().expose(), &[7; 100]);
        }
        println!("opening a secret and sealing it to its agent: {each:?}");
    }
}
