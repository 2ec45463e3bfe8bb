//! The cluster that is measured, and ways into it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::account::NewKeyView;
use common::context::Contexts;
use common::secret::Secret;
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Identity};
use common::view::JoinView;
use proto::channel::{Coordinators, access_client, agent_client, control_client};
use proto::shown::Shown;
use proto::v1;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long a call may take while everything else is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster.
pub(crate) struct Site {
    /// Where its coordinator is.
    pub(crate) address: String,
    /// The first admin's way.
    pub(crate) operator: Coordinators,
    /// What runs beside the measuring.
    pub(crate) tasks: Shutdown,
    authority: CertificateDer<'static>,
}

impl Site {
    /// Opens the cluster of the first context.
    pub(crate) fn open(path: &Path) -> Self {
        let contexts = Contexts::open(path).unwrap();
        let context = contexts.find(path, None).unwrap();
        let identity = Identity::from_pem(&context.certificate, &context.key).unwrap();
        let authority = tls::certificates_of_pem(&context.ca_certificate).unwrap().remove(0);
        let tls = tls::client_config(identity, &authority, ALPN_GRPC).unwrap();
        let address = context.coordinators[0].clone();
        let operator = Coordinators::new(vec![address.clone()], Arc::new(tls));
        Self { address, operator, tasks: Shutdown::new(), authority }
    }

    /// Returns a way of somebody without a certificate to an address that leads to the coordinator.
    pub(crate) fn stranger(&self, address: &str) -> Coordinators {
        let tls = tls::keyed::client_config(&self.authority, ALPN_GRPC).unwrap();
        Coordinators::new(vec![address.to_owned()], Arc::new(tls))
    }

    /// Returns a way with a new API key.
    pub(crate) async fn keyed(&self, role: &str) -> Coordinators {
        let call = |way| {
            let grant = Some(v1::RoleGrant { role: role.to_owned(), scope: Vec::new() });
            let request = v1::CreateKeyRequest { name: "bench".to_owned(), grant, lifetime_ms: 3_600_000 };
            async move { access_client(way).create_key(request).await }
        };
        let made = self.operator.call(PATIENCE, call).await.unwrap();
        let made: NewKeyView = serde_json::from_str(&made.document).unwrap();
        let shown = Shown::new(Some(&Secret::new(made.key)), None).unwrap();
        self.stranger(&self.address).showing(shown)
    }

    /// Lets a host join; returns its way and who it is.
    pub(crate) async fn join(&self, name: &str) -> (Coordinators, Arc<Identity>) {
        let invite = |way| {
            let request = v1::HostRequest { host: name.to_owned() };
            async move { control_client(way).enroll_host(request).await }
        };
        let invited = self.operator.call(PATIENCE, invite).await.unwrap();
        let invited: JoinView = serde_json::from_str(&invited.document).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate_request =
            CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = v1::EnrollRequest {
            token: invited.token,
            name: name.to_owned(),
            certificate_request,
            protocol: proto::PROTOCOL,
        };
        let enroll = |way| {
            let request = request.clone();
            async move { agent_client(way).enroll(request).await }
        };
        let joined = self.stranger(&self.address).call(PATIENCE, enroll).await.unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(vec![CertificateDer::from(joined.certificate)], key).unwrap();
        let tls = tls::client_config(Arc::clone(&identity), &self.authority, ALPN_GRPC).unwrap();
        (Coordinators::new(vec![self.address.clone()], Arc::new(tls)), identity)
    }
}
