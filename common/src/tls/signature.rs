//! Signing with the key of the own certificate, and checking what the holder of one signed.

use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

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
        is_signed(&self.public_key, text, signature)
    }
}

/// Whether the key of an authority's certificate signed this one, whatever the time is.
pub fn is_issued_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let read = |certificate| X509Certificate::from_der(certificate).map(|(_, read)| read);
    let (Ok(certificate), Ok(authority)) = (read(certificate), read(authority)) else { return false };
    let key = &authority.public_key().subject_public_key.data;
    is_signed(key, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
}

fn is_signed(key: &[u8], text: &[u8], signature: &[u8]) -> bool {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let found = algorithms.mapping.iter().find(|(scheme, _)| *scheme == SCHEME);
    found
        .and_then(|(_, algorithms)| algorithms.first())
        .is_some_and(|algorithm| algorithm.verify_signature(key, text, signature).is_ok())
}
