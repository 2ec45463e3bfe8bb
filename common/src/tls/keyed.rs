//! The client half for a caller without a certificate, who shows an API key with each call.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;

use super::{TlsError, WallClock, provider, roots};

/// Returns the client half of a connection that shows no certificate, and believes the server by the authority as
/// everybody else does.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn client_config(authority: &CertificateDer<'static>, alpn: &[u8]) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(authority)?, Arc::clone(&provider)).build()?;
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
