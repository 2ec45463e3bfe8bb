//! The key by which a restarted endpoint tells peers that it knows their connections no more.
//!
//! A packet for an unknown connection is answered with a token that only the holder of the key can make and that the
//! peer got when the connection was made. So a peer learns with its next packet that the process at the other end is
//! gone, where it would otherwise wait. Whoever has the key can end connections of this agent, and nothing else.

use std::fmt;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

/// The token's length as it is made; the protocol takes the beginning.
const TOKEN_BYTES: usize = blake3::OUT_LEN;
/// The length of a connection id: no two connections of one agent draw the same.
const ID_BYTES: usize = 8;

/// The key, the same over all starts of one agent.
#[derive(Clone)]
pub struct ResetKey([u8; 32]);

impl ResetKey {
    /// Takes 32 random bytes that were kept.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Draws connection ids that any start of the agent knows for ids of its own, so that it answers for those it does not
/// remember; quinn's own hold a key of the process.
#[derive(Debug, Default)]
pub(crate) struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        // A machine without randomness has no TLS either; an id that is taken is drawn again.
        getrandom::fill(&mut id).ok();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(..)")
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        TOKEN_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature: [u8; TOKEN_BYTES] = signature.try_into().or(Err(CryptoError))?;
        // Comparing hashes of this type takes the same time wherever they differ.
        if blake3::keyed_hash(&self.0, data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}
