//! Signing with the key of the own certificate, and checking what the holder of one signed.

use rustls::SignatureScheme;

use super::{Identity, Peer};

/// The one scheme of all certificates of a cluster.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

impl Identity {
    /// Signs a text with the key of the certificate that is shown now; none when that key is of another kind.
    pub fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let current = self.current.load();
        current.key.choose_scheme(&[SCHEME])?.sign(text).ok()
    }
}

impl Peer {
    /// Whether the holder of the certificate's key signed this text.
    pub fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let found = algorithms.mapping.iter().find(|(scheme, _)| *scheme == SCHEME);
        found
            .and_then(|(_, algorithms)| algorithms.first())
            .is_some_and(|algorithm| algorithm.verify_signature(&self.public_key, text, signature).is_ok())
    }
}
