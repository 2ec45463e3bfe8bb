//! The envelope: one secret under a key of its own, which is wrapped by the cluster key.
//!
//! ```text
//! version (1) | id of the cluster key (8) | nonce (24) | wrapped data key (48) | nonce (24) | sealed secret
//! ```
//!
//! Both layers are XChaCha20-Poly1305 and bound to a context, such as `ca-key` of one cluster, so that an envelope
//! cannot be put in another's place. The id only serves to say "wrong key" instead of "damaged".

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use common::secret::Secret;

use super::keyring::ClusterKey;

/// The version of the layout.
const VERSION: u8 = 1;
/// Bytes of an XChaCha20 nonce.
const NONCE_BYTES: usize = 24;
/// Bytes of a data key.
const KEY_BYTES: usize = 32;
/// Bytes of a wrapped data key.
const WRAPPED_BYTES: usize = KEY_BYTES + 16;
/// Bytes of the cluster key's id.
const ID_BYTES: usize = 8;

/// Why an envelope could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is too short, or of a version that this program does not know.
    #[error("this is not an envelope that this version can read")]
    Form,
    /// It was sealed under another cluster key.
    #[error("it was sealed under another cluster key (id {sealed}, ours is {ours})")]
    WrongKey {
        /// The id in the envelope.
        sealed: String,
        /// The id of the key at hand.
        ours: String,
    },
    /// It was altered, or belongs elsewhere.
    #[error("it is damaged or belongs elsewhere")]
    Damaged,
    /// Randomness failed.
    #[error("the system's random numbers")]
    Random(#[from] getrandom::Error),
}

/// Bytes of the head: everything before the sealed secret itself. Only this changes with the cluster key.
pub const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_BYTES + WRAPPED_BYTES;

/// An envelope in the two parts that it is kept in.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Which key wraps the data key, and the wrapped data key.
    pub head: &'a [u8],
    /// The sealed secret.
    pub body: &'a [u8],
}

/// The id of the key, the nonce and the wrapped data key.
type Split<'a> = ([u8; ID_BYTES], &'a [u8], &'a [u8]);

impl<'a> Parts<'a> {
    /// Splits a whole envelope.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn of(envelope: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (head, body) = envelope.split_at_checked(HEAD_BYTES).ok_or(EnvelopeError::Form)?;
        Ok(Self { head, body })
    }

    /// Returns the id of the cluster key that wraps it.
    ///
    /// # Errors
    /// When this is no envelope.
    pub fn key_id(&self) -> Result<[u8; ID_BYTES], EnvelopeError> {
        self.split().map(|(id, _, _)| id)
    }

    /// Returns the id of the key, the nonce and the wrapped data key.
    fn split(&self) -> Result<Split<'a>, EnvelopeError> {
        let (version, rest) = self.head.split_first().ok_or(EnvelopeError::Form)?;
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(EnvelopeError::Form)?;
        let (nonce, wrapped) = rest.split_at_checked(NONCE_BYTES).ok_or(EnvelopeError::Form)?;
        if *version != VERSION || wrapped.len() != WRAPPED_BYTES {
            return Err(EnvelopeError::Form);
        }
        Ok((*id, nonce, wrapped))
    }

    fn data_key(&self, key: &ClusterKey, context: &str) -> Result<Secret<Vec<u8>>, EnvelopeError> {
        let (id, nonce, wrapped) = self.split()?;
        if id != key.id() {
            return Err(EnvelopeError::WrongKey { sealed: hex(&id), ours: hex(&key.id()) });
        }
        decrypt(key.expose(), nonce, context, wrapped).map(Secret::new)
    }

    /// Opens what was sealed for the same context.
    ///
    /// # Errors
    /// When the key is another, the envelope was altered, or the context is another.
    pub fn open(&self, key: &ClusterKey, context: &str) -> Result<Secret<Vec<u8>>, EnvelopeError> {
        let data_key = self.data_key(key, context)?;
        let (nonce, sealed) = self.body.split_at_checked(NONCE_BYTES).ok_or(EnvelopeError::Form)?;
        let data_key = data_key.expose().as_slice().try_into().map_err(|_length| EnvelopeError::Damaged)?;
        Ok(Secret::new(decrypt(data_key, nonce, context, sealed)?))
    }

    /// Returns the head that wraps the same data key by another cluster key.
    ///
    /// # Errors
    /// When it cannot be opened, or randomness fails.
    pub fn rewrap(
        &self,
        from: &ClusterKey,
        to: &ClusterKey,
        context: &str,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let data_key = self.data_key(from, context)?;
        wrap(to, context, data_key.expose())
    }
}

/// Seals a secret for one context; returns head and body.
///
/// # Errors
/// When randomness fails.
pub fn seal_parts(
    key: &ClusterKey,
    context: &str,
    secret: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), EnvelopeError> {
    let mut data_key = [0; KEY_BYTES];
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut data_key)?;
    getrandom::fill(&mut nonce)?;
    let data_key = Secret::new(data_key);
    let head = wrap(key, context, data_key.expose())?;
    let sealed = encrypt(data_key.expose(), &nonce, context, secret)?;
    Ok((head, [nonce.as_slice(), &sealed].concat()))
}

/// Seals a secret for one context, as one run of bytes.
///
/// # Errors
/// When randomness fails.
pub fn seal(key: &ClusterKey, context: &str, secret: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let (head, body) = seal_parts(key, context, secret)?;
    Ok([head, body].concat())
}

/// Opens what was sealed for the same context.
///
/// # Errors
/// When the key is another, the envelope was altered, or the context is another.
pub fn open(key: &ClusterKey, context: &str, envelope: &[u8]) -> Result<Secret<Vec<u8>>, EnvelopeError> {
    Parts::of(envelope)?.open(key, context)
}

fn wrap(key: &ClusterKey, context: &str, data_key: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    let wrapped = encrypt(key.expose(), &nonce, context, data_key)?;
    Ok([&[VERSION], key.id().as_slice(), &nonce, &wrapped].concat())
}

fn encrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8],
    context: &str,
    text: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let nonce = XNonce::try_from(nonce).map_err(|_length| EnvelopeError::Form)?;
    let payload = Payload { msg: text, aad: context.as_bytes() };
    XChaCha20Poly1305::new(key.into()).encrypt(&nonce, payload).map_err(|_error| EnvelopeError::Damaged)
}

fn decrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8],
    context: &str,
    text: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let nonce = XNonce::try_from(nonce).map_err(|_length| EnvelopeError::Form)?;
    let payload = Payload { msg: text, aad: context.as_bytes() };
    XChaCha20Poly1305::new(key.into()).decrypt(&nonce, payload).map_err(|_error| EnvelopeError::Damaged)
}

/// Returns an id as people read it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new([byte; 32])
    }

    #[test]
    fn opens_under_the_same_key_and_context_only() {
        let envelope = seal(&key(1), "ca-key c1", b"secret").unwrap();
        assert_eq!(open(&key(1), "ca-key c1", &envelope).unwrap().expose(), b"secret");
        assert!(matches!(open(&key(2), "ca-key c1", &envelope), Err(EnvelopeError::WrongKey { .. })));
        assert!(matches!(open(&key(1), "ca-key c2", &envelope), Err(EnvelopeError::Damaged)));
        assert!(!envelope.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn every_altered_bit_and_every_cut_is_noticed() {
        let envelope = seal(&key(1), "x", b"secret").unwrap();
        for at in 0..envelope.len() {
            for bit in 0..8 {
                let mut altered = envelope.clone();
                altered[at] ^= 1 << bit;
                assert!(
                    open(&key(1), "x", &altered).is_err(),
                    "bit {bit} of byte {at} was altered unnoticed"
                );
            }
            assert!(open(&key(1), "x", &envelope[..at]).is_err(), "a cut at {at} went unnoticed");
        }
    }

    #[test]
    fn another_key_takes_over_without_touching_the_body() {
        let (head, body) = seal_parts(&key(1), "x", b"secret").unwrap();
        assert_eq!(head.len(), HEAD_BYTES);
        let head = Parts { head: &head, body: &body }.rewrap(&key(1), &key(2), "x").unwrap();
        let parts = Parts { head: &head, body: &body };
        assert_eq!(parts.open(&key(2), "x").unwrap().expose(), b"secret");
        assert!(matches!(parts.open(&key(1), "x"), Err(EnvelopeError::WrongKey { .. })));
        assert_eq!(parts.key_id().unwrap(), key(2).id());
        assert!(parts.rewrap(&key(2), &key(3), "y").is_err());
    }

    #[test]
    fn equal_secrets_look_different() {
        assert_ne!(seal(&key(1), "x", b"secret").unwrap(), seal(&key(1), "x", b"secret").unwrap());
    }
}
