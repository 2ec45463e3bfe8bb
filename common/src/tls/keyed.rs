//! The client half for a caller without a certificate, who shows an API key with each call.

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use super::{TlsError, speaking, verifying};

/// Returns the client half of a connection that shows no certificate, and believes the server by the authority as
/// everybody else does.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn client_config(authority: &CertificateDer<'static>, alpn: &[u8]) -> Result<ClientConfig, TlsError> {
    Ok(speaking(alpn, verifying(authority)?.with_no_client_auth()))
}
