//! A cluster of two agents in one process: an authority, certificates, tickets and endpoints on loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::clock::{self, WallMs};
use common::fence::FencingToken;
use common::id::TenantId;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::ticket::{Direction, Ticket, TicketKey};
use common::tls::{self, Identity};
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::watch;

use crate::context::{Peer, PeerNews};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::peer::Source;
use crate::reset_key::ResetKey;

pub(crate) struct Cluster {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) authority: CertificateDer<'static>,
    tickets: TicketKey,
    pub(crate) state: tempfile::TempDir,
    pub(crate) shutdown: Shutdown,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        // A second one in this process is refused, which is fine.
        quinn::rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().der().clone();
        let tickets = TicketKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, authority, tickets, state: tempfile::tempdir().unwrap(), shutdown: Shutdown::new() }
    }

    pub(crate) fn identity(&self, host: &str) -> Arc<Identity> {
        let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new([tls::server_name_of(&principal).unwrap()]).unwrap();
        for uri in tls::uris_of("c1", &principal, None) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity::new(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
    }

    pub(crate) fn endpoint(&self, host: &str) -> Endpoint {
        Endpoint::open(self.settings(host), &self.shutdown).unwrap()
    }

    pub(crate) fn settings(&self, host: &str) -> EndpointSettings {
        EndpointSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: self.identity(host),
            authority: self.authority.clone(),
            state_dir: PathBuf::from(self.state.path()),
            clock_ahead_ms: watch::channel(0).1,
            incarnation: 1,
            reset_key: ResetKey::new([7; 32]),
            secrets: crate::secrets::Secrets::none(),
            segmentation_offload: true,
        }
    }

    pub(crate) fn ticket(&self, root: &Path) -> Ticket {
        Ticket {
            cluster: "c1".to_owned(),
            tenant: TenantId::default_tenant(),
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            source: "web1".parse().unwrap(),
            destination: "web2".parse().unwrap(),
            source_root: root.to_str().unwrap().to_owned(),
            destination_root: "/nowhere".to_owned(),
            direction: Direction::Pull,
            token: FencingToken { epoch: 1, index: 9 },
            expires: WallMs(clock::wall().0 + 60_000),
            sanitize: None,
        }
    }

    pub(crate) fn sign(&self, ticket: &Ticket) -> Vec<u8> {
        self.tickets.sign(ticket).unwrap()
    }
}

/// Says where `web1` is reached, and the way to hand it fresh tickets.
pub(crate) fn peer(endpoint: &Endpoint, ticket: Vec<u8>) -> (Peer, watch::Sender<Vec<u8>>) {
    let (sender, ticket) = watch::channel(ticket);
    let peer = Peer {
        tenant: TenantId::default_tenant(),
        host: "web1".parse().unwrap(),
        addresses: vec![endpoint.local_address().unwrap()],
        token: FencingToken { epoch: 1, index: 9 },
        ticket,
        news: watch::channel(PeerNews::default()).1,
        was_reached: false,
    };
    (peer, sender)
}

/// Two agents, and the second connected to the first with a good ticket for `root`.
pub(crate) async fn connected(cluster: &Cluster, root: &Path) -> (Endpoint, Endpoint, Source) {
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(root)));
    let open = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    (source, destination, open)
}
