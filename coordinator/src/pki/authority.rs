//! The certificate authority of the cluster.
//!
//! It certifies the public key of a request under names that the caller of [`Authority::issue`] chose; every name
//! inside the request is ignored. Its key also signs tickets (`common::ticket`).

use std::fmt;
use std::time::Duration;

use common::clock::WallMs;
use common::digest::Digest;
use common::limit::{CERTIFICATE_BACKDATED, CERTIFICATE_TTL, OPERATOR_CERTIFICATE_TTL};
use common::principal::Principal;
use common::secret::Secret;
use common::ticket::{TicketKey, TicketKeyError};
use common::tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long the authority's own certificate lives; replacing it means enrolling every host again.
const AUTHORITY_TTL: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// The largest certificate request; one of ours has about 300 bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Why the authority could not be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate is not what it should be.
    #[error("the authority's key and certificate cannot be used")]
    Key(#[source] rcgen::Error),
    /// The request cannot be read, is too large, or was not signed by its own key.
    #[error("the certificate request is not a valid PKCS#10 request in DER")]
    Request,
    /// A certificate could not be made.
    #[error("issuing a certificate")]
    Issue(#[source] rcgen::Error),
    /// Randomness failed.
    #[error("the system's random numbers")]
    Random(#[from] getrandom::Error),
    /// The key cannot sign tickets.
    #[error("making the key of tickets")]
    Ticket(#[from] TicketKeyError),
}

/// A public key out of a request that proved to hold the private half.
#[derive(Clone, Debug)]
pub struct RequestedKey(rcgen::PublicKey);

impl RequestedKey {
    /// Reads a PKCS#10 request.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or was not signed by its own key.
    pub fn of_request(request: &[u8]) -> Result<Self, AuthorityError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(AuthorityError::Request);
        }
        let request = CertificateSigningRequestDer::from(request);
        let parsed = CertificateSigningRequestParams::from_der(&request);
        parsed.map(|parsed| Self(parsed.public_key)).map_err(|_error| AuthorityError::Request)
    }

    /// Returns the key's bytes, by which a request is known again.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }
}

/// The authority, able to sign.
pub struct Authority {
    cluster: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority for a cluster; returns its certificate and its key in PKCS#8.
    ///
    /// # Errors
    /// When randomness or the making of the certificate fails.
    pub fn create(
        cluster: &str,
        now: WallMs,
    ) -> Result<(CertificateDer<'static>, Secret<Vec<u8>>), AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Key)?;
        let mut params = params(now, AUTHORITY_TTL, &format!("drover cluster {cluster}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Issue)?;
        Ok((certificate.der().clone(), Secret::new(key.serialize_der())))
    }

    /// Opens an authority from its certificate and its key in PKCS#8.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn open(cluster: &str, certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, AuthorityError> {
        let key = PrivatePkcs8KeyDer::from(key.expose().as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(AuthorityError::Key)?;
        let certificate = CertificateDer::from(certificate.to_vec());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Key)?;
        Ok(Self { cluster: cluster.to_owned(), certificate, issuer })
    }

    /// Returns the authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns what a joiner pins.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Returns a key for another use, which only who has the authority's key can derive.
    pub fn derive(&self, context: &str) -> Secret<[u8; 32]> {
        let key = Secret::new(self.issuer.key().serialize_der());
        Secret::new(blake3::derive_key(context, key.expose()))
    }

    /// Returns the key that signs tickets.
    ///
    /// # Errors
    /// When the key cannot be used for it.
    pub fn ticket_key(&self) -> Result<TicketKey, AuthorityError> {
        let key = PrivatePkcs8KeyDer::from(self.issuer.key().serialize_der());
        Ok(TicketKey::new(PrivateKeyDer::Pkcs8(key))?)
    }

    /// Certifies a requested key for a principal, from a little before `now` for as long as its role gets.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn issue(
        &self,
        principal: &Principal,
        generation: Option<u64>,
        key: &RequestedKey,
        now: WallMs,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.certify(principal, generation, &key.0, now)
    }

    /// Makes a key and its certificate for a principal; for the node itself and for the first operator.
    ///
    /// # Errors
    /// When either cannot be made.
    pub fn issue_with_key(
        &self,
        principal: &Principal,
        now: WallMs,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Key)?;
        let certificate = self.certify(principal, None, &key, now)?;
        Ok((certificate, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
    }

    fn certify(
        &self,
        principal: &Principal,
        generation: Option<u64>,
        key: &impl PublicKeyData,
        now: WallMs,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let (lifetime, is_server) = match principal {
            // A key is no certificate; whoever made one for it gets one that names nobody.
            Principal::Person { .. } | Principal::Key { .. } => (OPERATOR_CERTIFICATE_TTL, false),
            Principal::Agent { .. } | Principal::Node { .. } => (CERTIFICATE_TTL, true),
        };
        let mut params = params(now, lifetime, &principal.to_string())?;
        for uri in tls::uris_of(&self.cluster, principal, generation) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(AuthorityError::Issue)?));
        }
        if let Some(name) = tls::server_name_of(principal) {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(AuthorityError::Issue)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        if is_server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(AuthorityError::Issue)?;
        Ok(certificate.der().clone())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What all certificates have in common.
fn params(now: WallMs, lifetime: Duration, common_name: &str) -> Result<CertificateParams, AuthorityError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now.0);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(CERTIFICATE_BACKDATED);
    params.not_after = epoch + now.saturating_add(lifetime);
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    // A serial number is positive and its first byte not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use common::id::TenantId;

    use super::*;

    const NOW: WallMs = WallMs(1_800_000_000_000);

    fn authority() -> Authority {
        let (certificate, key) = Authority::create("c1", NOW).unwrap();
        Authority::open("c1", &certificate, &key).unwrap()
    }

    #[test]
    fn names_come_from_the_principal_and_not_from_the_request() {
        let key = KeyPair::generate().unwrap();
        let forged = CertificateParams::new(["coordinator.drover.internal".to_owned()]).unwrap();
        let request = forged.serialize_request(&key).unwrap();
        let principal =
            Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
        let requested = RequestedKey::of_request(request.der()).unwrap();
        let certificate = authority().issue(&principal, Some(3), &requested, NOW).unwrap();
        let peer = tls::peer_of(std::slice::from_ref(&certificate), NOW).unwrap();
        assert_eq!((peer.principal, peer.generation, peer.cluster.as_str()), (principal, Some(3), "c1"));
        assert_eq!(peer.not_after.since(NOW), 3_600_000);
        assert_eq!(NOW.since(peer.not_before), 300_000);
        let text = String::from_utf8_lossy(&certificate).into_owned();
        assert!(!text.contains("coordinator.drover.internal"));
        assert!(text.contains("web1.default.agent.drover.internal"));
    }

    #[test]
    fn a_request_must_be_signed_by_its_key() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let mut altered = request.der().to_vec();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(RequestedKey::of_request(&altered).is_err());
        assert!(RequestedKey::of_request(b"garbage").is_err());
        assert!(RequestedKey::of_request(&vec![0; REQUEST_BYTES_MAX + 1]).is_err());
    }
}
