//! TLS among the parts of one cluster: both sides show a certificate of the cluster's own authority.
//!
//! The identity of a peer is the URI in its certificate (`drover://CLUSTER/TENANT/agent/HOST` and its like), never its
//! address. An [`Identity`] can be replaced while connections live: new handshakes show the newest certificate and
//! running connections go on. Sessions are never resumed, so that a certificate is looked at in every handshake.
//! What a principal may do is decided by whoever accepted the connection; here it is only proven who it is.

pub mod keyed;
mod pinned;
pub mod signature;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::{self, WallMs};
use crate::digest::Digest;
use crate::id::TenantId;
use crate::limit::{CERTIFICATE_BACKDATED, RENEWAL_GRACE};
use crate::principal::Principal;
use pinned::PinnedVerifier;

/// What gRPC connections agree on.
pub const ALPN_GRPC: &[u8] = b"h2";
/// What data connections agree on; one name for each version of their protocol.
pub const ALPN_DATA: &[u8] = b"drover-data/1";
/// What data connections over TCP agree on, of which each is one lane.
pub const ALPN_LANE: &[u8] = b"drover-lane/1";

/// The name that every coordinator's certificate holds for ordinary verification.
pub const COORDINATOR_NAME: &str = "coordinator.drover.internal";

/// Scheme of the second URI in a certificate: how many certificates this principal had before, plus one.
const GENERATION_SCHEME: &str = "drover-generation:";

/// Why TLS could not be set up, or a peer not be recognised.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or message holds no certificate or key.
    #[error("no usable {0} in PEM form")]
    Pem(&'static str),
    /// rustls refuses the key, the certificate or both together.
    #[error("setting up TLS")]
    Rustls(#[from] rustls::Error),
    /// The certificates cannot be checked against the authority's.
    #[error("setting up the verification of certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The certificate is not one that a cluster issues.
    #[error("the certificate names no principal of a cluster")]
    NoPrincipal,
}

/// The certificate and key that this process shows, replaceable while it runs.
pub struct Identity {
    current: ArcSwap<CertifiedKey>,
}

impl Identity {
    /// Makes an identity out of a chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// When the key cannot be used or is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(certified(chain, key)?) }))
    }

    /// Makes an identity out of PEM texts.
    ///
    /// # Errors
    /// When they hold no certificate or key, or the key is not the leaf's.
    pub fn from_pem(chain: &str, key: &str) -> Result<Arc<Self>, TlsError> {
        Self::new(certificates_of_pem(chain)?, key_of_pem(key)?)
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// When the key cannot be used or is not the leaf's; then the identity is as it was.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        self.current.store(Arc::new(certified(chain, key)?));
        Ok(())
    }

    /// Returns who this process is, by the certificate that it shows now.
    ///
    /// # Errors
    /// When the certificate was not issued by a cluster.
    pub fn peer(&self) -> Result<Peer, TlsError> {
        peer_of(&self.current.load().cert, clock::wall())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer().ok()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Which clients a server lets through its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Those with a valid certificate of the cluster.
    Certified,
    /// Also those without one, and those whose certificate expired less than [`RENEWAL_GRACE`] ago.
    ///
    /// For the coordinator's port of agents and operators only, which must look at every call: the first may only
    /// enroll, the second only renew.
    Joining,
}

/// Who is at the other end, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The cluster's id.
    pub cluster: String,
    /// Who it is.
    pub principal: Principal,
    /// Counts the certificates of this principal, from 1; none where it is not counted.
    pub generation: Option<u64>,
    /// The certificate's public key, as the bytes that a request for it holds too.
    pub public_key: Vec<u8>,
    /// When the certificate begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
    /// Whether it had ended when it was looked at; only a port that admits [`Clients::Joining`] ever sees that.
    pub is_expired: bool,
}

impl Peer {
    /// Returns when the certificate was made.
    pub fn issued(&self) -> WallMs {
        let backdated = u64::try_from(CERTIFICATE_BACKDATED.as_millis()).unwrap_or(0);
        WallMs(self.not_before.0.saturating_add(backdated))
    }
}

/// Decides in a handshake whether a client whose certificate is good was revoked since.
pub type IsRevoked = Arc<dyn Fn(&Peer) -> bool + Send + Sync>;

/// Returns the server half of a connection.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn server_config(
    identity: Arc<Identity>,
    authority: &CertificateDer<'static>,
    clients: Clients,
    alpn: &[u8],
) -> Result<ServerConfig, TlsError> {
    server_config_revoking(identity, authority, clients, alpn, Arc::new(|_| false))
}

/// Returns the server half of a connection that tells revoked clients so in the handshake.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn server_config_revoking(
    identity: Arc<Identity>,
    authority: &CertificateDer<'static>,
    clients: Clients,
    alpn: &[u8],
    is_revoked: IsRevoked,
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let strict =
        WebPkiClientVerifier::builder_with_provider(roots(authority)?, Arc::clone(&provider)).build()?;
    let verifier: Arc<dyn ClientCertVerifier> = Arc::new(PeerVerifier { strict, clients, is_revoked });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Returns the client half of a connection that shows `identity`.
///
/// # Errors
/// When the authority's certificate cannot be used.
pub fn client_config(
    identity: Arc<Identity>,
    authority: &CertificateDer<'static>,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    Ok(speaking(alpn, verifying(authority)?.with_client_cert_resolver(identity)))
}

/// Begins a client half that believes a server by the authority.
fn verifying(
    authority: &CertificateDer<'static>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(authority)?, Arc::clone(&provider)).build()?;
    Ok(ClientConfig::builder_with_details(provider, Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier))
}

/// Ends a client half: one protocol, and no session that outlives its connection.
fn speaking(alpn: &[u8], mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Returns the client half of the one connection that is made before there is a certificate: it shows none, and
/// believes a server whose chain ends in the authority with this digest.
///
/// # Errors
/// When TLS cannot be set up at all.
pub fn enrolling_client_config(authority: Digest, alpn: &[u8]) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = Arc::new(PinnedVerifier { authority, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_details(provider, Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(speaking(alpn, config))
}

/// Returns who showed this chain, leaf first. The chain itself was verified by the handshake, not here.
///
/// # Errors
/// When there is no certificate, or it names no principal of a cluster.
pub fn peer_of(chain: &[CertificateDer<'_>], now: WallMs) -> Result<Peer, TlsError> {
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_error| TlsError::NoPrincipal)?;
    let names = certificate.subject_alternative_name().ok().flatten().ok_or(TlsError::NoPrincipal)?;
    let uris = || {
        names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
    };
    let (cluster, principal) = uris().find_map(principal_of).ok_or(TlsError::NoPrincipal)?;
    let generation = uris().find_map(|uri| uri.strip_prefix(GENERATION_SCHEME)?.parse().ok());
    let to_wall = |seconds: i64| WallMs(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let not_before = to_wall(certificate.validity().not_before.timestamp());
    let not_after = to_wall(certificate.validity().not_after.timestamp());
    let public_key = certificate.public_key().subject_public_key.data.to_vec();
    Ok(Peer {
        cluster,
        principal,
        generation,
        public_key,
        not_before,
        not_after,
        is_expired: now > not_after,
    })
}

/// Returns the URIs that a certificate of this principal holds.
///
/// An API key has no certificate; its form here is never read as a principal.
pub fn uris_of(cluster: &str, principal: &Principal, generation: Option<u64>) -> Vec<String> {
    let identity = match principal {
        Principal::Person { tenant, name } => format!("drover://{cluster}/{tenant}/user/{name}"),
        Principal::Key { tenant, id } => format!("drover://{cluster}/{tenant}/key/{id}"),
        Principal::Agent { tenant, host } => format!("drover://{cluster}/{tenant}/agent/{host}"),
        Principal::Node { name } => format!("drover://{cluster}/node/{name}"),
    };
    let generation = generation.map(|generation| format!("{GENERATION_SCHEME}{generation}"));
    std::iter::once(identity).chain(generation).collect()
}

/// Returns the DNS name by which a client verifies that it reached this principal; none for those who serve nothing.
///
/// A host's name may be one that DNS does not allow; then its digest stands for it.
pub fn server_name_of(principal: &Principal) -> Option<String> {
    match principal {
        Principal::Person { .. } | Principal::Key { .. } => None,
        Principal::Node { .. } => Some(COORDINATOR_NAME.to_owned()),
        Principal::Agent { tenant, host } => {
            let plain = format!("{host}.{tenant}.agent.drover.internal");
            if ServerName::try_from(plain.as_str()).is_ok() {
                return Some(plain);
            }
            let digest = Digest::of(format!("{tenant}/{host}").as_bytes()).to_string();
            Some(format!("h-{}.agent.drover.internal", &digest[..32]))
        }
    }
}

/// Returns the certificates of a PEM text, in their order.
///
/// # Errors
/// When there are none.
pub fn certificates_of_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsError::Pem("certificate"))
}

/// Returns the private key of a PEM text.
///
/// # Errors
/// When there is none.
pub fn key_of_pem(text: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_error| TlsError::Pem("private key"))
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(Arc::new(roots))
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// Parses an identity URI; none when it is something else.
fn principal_of(uri: &str) -> Option<(String, Principal)> {
    let mut parts = uri.strip_prefix("drover://")?.split('/');
    let cluster = parts.next().filter(|cluster| !cluster.is_empty())?.to_owned();
    let parts: Vec<&str> = parts.collect();
    let tenant = |text: &str| text.parse::<TenantId>().ok();
    let principal = match parts.as_slice() {
        ["node", name] => Principal::Node { name: name.parse().ok()? },
        [in_tenant, "agent", host] => {
            Principal::Agent { tenant: tenant(in_tenant)?, host: host.parse().ok()? }
        }
        // `operator` is what certificates of people said before there were roles.
        [in_tenant, "user" | "operator", name] if !name.is_empty() => {
            Principal::Person { tenant: tenant(in_tenant)?, name: (*name).to_owned() }
        }
        _ => return None,
    };
    Some((cluster, principal))
}

/// The clock of the process as rustls asks for it.
#[derive(Debug)]
struct WallClock;

impl rustls::time_provider::TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(clock::wall().0)))
    }
}

/// Verifies clients as [`Clients`] says.
struct PeerVerifier {
    strict: Arc<dyn ClientCertVerifier>,
    clients: Clients,
    is_revoked: IsRevoked,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl PeerVerifier {
    /// Verifies the chain; for [`Clients::Joining`] also one that expired within the grace.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: &Peer,
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = match self.strict.verify_client_cert(leaf, intermediates, now) {
            Err(refused) if self.clients == Clients::Joining && is_expiry(&refused) => refused,
            other => return other,
        };
        let grace_ms = u64::try_from(RENEWAL_GRACE.as_millis()).unwrap_or(u64::MAX);
        if wall_of(now).since(peer.not_after) > grace_ms {
            return Err(refused);
        }
        // Everything but the time must hold, so the check is made again for the certificate's last moment.
        let last = UnixTime::since_unix_epoch(std::time::Duration::from_millis(peer.not_after.0));
        self.strict.verify_client_cert(leaf, intermediates, last)
    }
}

fn wall_of(time: UnixTime) -> WallMs {
    WallMs(time.as_secs().saturating_mul(1000))
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Certified
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let peer = peer_of(std::slice::from_ref(leaf), wall_of(now))
            .map_err(|_error| CertificateError::ApplicationVerificationFailure)?;
        let verified = self.verify_chain(leaf, intermediates, &peer, now)?;
        // Only now is it known that the certificate says the truth.
        if (self.is_revoked)(&peer) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

/// Whether a certificate was refused for its age only.
fn is_expiry(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(host: &str) -> Principal {
        Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() }
    }

    #[test]
    fn identity_uris_are_read_back() {
        let operator = Principal::Person { tenant: TenantId::default_tenant(), name: "root".to_owned() };
        for principal in [agent("web1"), operator, Principal::Node { name: "n1".parse().unwrap() }] {
            let uris = uris_of("c1", &principal, Some(7));
            assert_eq!(principal_of(&uris[0]), Some(("c1".to_owned(), principal)));
            assert_eq!(uris[1], "drover-generation:7");
        }
        let older = "drover://c1/default/operator/root";
        assert_eq!(principal_of(older).unwrap().1.to_string(), "user:default/root");
        for other in [
            "drover://c1/node",
            "drover:///node/n1",
            "https://c1/node/n1",
            "drover://c1/default/king/x",
            "drover://c1/default/key/x",
        ] {
            assert_eq!(principal_of(other), None, "{other} was read as a principal");
        }
    }

    #[test]
    fn every_host_name_has_a_server_name() {
        assert_eq!(server_name_of(&agent("web1")).as_deref(), Some("web1.default.agent.drover.internal"));
        for odd in ["web1-", "a..b", "a."] {
            let name = server_name_of(&agent(odd)).unwrap();
            assert!(ServerName::try_from(name.clone()).is_ok(), "{name} is not a server name");
        }
    }
}
