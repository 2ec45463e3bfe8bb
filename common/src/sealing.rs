//! Sealing a value to one agent on its way: HPKE (RFC 9180) over X25519 and ChaCha20-Poly1305.
//!
//! An agent makes a key pair at each start and shows the public half in its hello, signed by the key of its
//! certificate. What is sealed to it is bound to a text that says what it is for, so that no sealed value can stand
//! in for another. The private half never leaves the process.

use std::fmt;

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};

use crate::fence::FencingToken;
use crate::id::{HostName, MigrationId, StepId, TenantId};
use crate::principal::Principal;
use crate::reference::Reference;
use crate::secret::Secret;

/// What every value is sealed for.
const INFO: &[u8] = b"drover sealed value 1";
/// What is signed begins with this, before the agent's name.
const SIGNED_PREFIX: &str = "drover sealing key 1";
/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The key is not one.
    #[error("the key to seal to is not one")]
    Key,
    /// It was altered, sealed to another, or is for something else.
    #[error("what was sealed cannot be opened here")]
    Open,
    /// The system gave no key pair.
    #[error("making a key pair")]
    Make(#[source] rustls::Error),
}

/// A key pair that lives as long as the process.
pub struct SealingKey {
    public: Vec<u8>,
    private: HpkePrivateKey,
}

/// A sealed value.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// From which both sides derive the key.
    pub encapsulated: Vec<u8>,
    /// The value.
    pub ciphertext: Vec<u8>,
}

impl SealingKey {
    /// Makes a key pair.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, SealingError> {
        let (HpkePublicKey(public), private) = SUITE.generate_key_pair().map_err(SealingError::Make)?;
        Ok(Self { public, private })
    }

    /// Returns the half that others seal to.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Opens what was sealed to this key for this purpose.
    ///
    /// # Errors
    /// When it was not.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Secret<Vec<u8>>, SealingError> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.clone());
        let opened = SUITE.open(&encapsulated, INFO, purpose.as_bytes(), &sealed.ciphertext, &self.private);
        opened.map(Secret::new).map_err(|_error| SealingError::Open)
    }
}

/// Seals a value to a public key for one purpose.
///
/// # Errors
/// When the key is not one.
pub fn seal(public: &[u8], purpose: &str, value: &[u8]) -> Result<Sealed, SealingError> {
    if public.len() != PUBLIC_KEY_BYTES {
        return Err(SealingError::Key);
    }
    let sealed = SUITE.seal(INFO, purpose.as_bytes(), value, &HpkePublicKey(public.to_vec()));
    let (EncapsulatedSecret(encapsulated), ciphertext) = sealed.map_err(|_error| SealingError::Key)?;
    Ok(Sealed { encapsulated, ciphertext })
}

/// Returns what a secret is sealed for on its way to a host.
pub fn purpose(
    tenant: &TenantId,
    host: &HostName,
    (migration, step, token): (&MigrationId, &StepId, FencingToken),
    reference: &Reference,
) -> String {
    format!("{tenant}\0{host}\0{migration}\0{step}\0{token}\0{reference}")
}

/// Returns what an agent signs to show that a public key is its own.
pub fn signed_text(cluster: &str, principal: &Principal, public: &[u8]) -> Vec<u8> {
    let mut text = format!("{SIGNED_PREFIX}\0{cluster}\0{principal}\0").into_bytes();
    text.extend_from_slice(public);
    text
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(…)")
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_opens_and_only_for_the_same_purpose() {
        let (own, other) = (SealingKey::generate().unwrap(), SealingKey::generate().unwrap());
        let sealed = seal(own.public(), "a", b"canary").unwrap();
        assert_eq!(own.open("a", &sealed).unwrap().expose(), b"canary");
        assert!(own.open("b", &sealed).is_err());
        assert!(other.open("a", &sealed).is_err());
        assert!(!sealed.ciphertext.windows(6).any(|window| window == b"canary"));
        for at in 0..sealed.ciphertext.len() {
            let mut altered = sealed.clone();
            altered.ciphertext[at] ^= 1;
            assert!(own.open("a", &altered).is_err(), "byte {at}");
        }
        assert!(matches!(seal(b"short", "a", b"x"), Err(SealingError::Key)));
        assert!(
            seal(own.public(), "a", &vec![7; 1024 * 1024]).is_ok_and(|sealed| own.open("a", &sealed).is_ok())
        );
    }
}
