//! A cluster's authority, for tests: it issues the certificates of hosts and signs tickets. The contract suite uses it
//! too.

use std::sync::Arc;

use common::id::TenantId;
use common::principal::Principal;
use common::ticket::TicketKey;
use common::tls::{self, Identity};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name of the cluster.
pub(crate) const CLUSTER: &str = "c1";

/// A certificate authority of one test.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    /// Issues what a host shows.
    pub(crate) fn identity(&self, host: &str) -> Arc<Identity> {
        self.identity_of(TenantId::default_tenant(), host)
    }

    /// Issues what a host of a tenant shows.
    pub(crate) fn identity_of(&self, tenant: TenantId, host: &str) -> Arc<Identity> {
        let principal = Principal::Agent { tenant, host: host.parse().unwrap() };
        let key = PrivatePkcs8KeyDer::from(self.key.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let issuer = Issuer::from_ca_cert_der(&self.certificate, key).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        for uri in tls::uris_of(CLUSTER, &principal, None) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let name = tls::server_name_of(&principal).unwrap();
        params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        Identity::new(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
    }

    /// Returns the key that signs tickets.
    pub(crate) fn tickets(&self) -> TicketKey {
        TicketKey::new(PrivateKeyDer::try_from(self.key.clone()).unwrap()).unwrap()
    }
}
