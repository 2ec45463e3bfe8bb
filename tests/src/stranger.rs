//! Somebody outside of a cluster who knows its ports, and credentials that are not what they should be.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::clock::WallMs;
use common::context::{Context, Contexts};
use common::id::TenantId;
use common::principal::Principal;
use common::tls;
use coordinator::hub::{Seals, open_authority};
use coordinator::membership::NodeFiles;
use coordinator::vault::keyring::KeySources;
use coordinator::vault::ring::Keyring;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tls::Identity;

use crate::cluster::Cluster;

/// How long a port may take to drop somebody on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate and its key.
pub type Credentials = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// What is known of a cluster from outside, and the authority's key, to make what no outsider can.
#[derive(Debug)]
pub struct Stranger {
    /// Where agents and operators are listened to.
    pub api: SocketAddr,
    /// Where nodes are listened to.
    pub raft: SocketAddr,
    /// Where the first agent listens for data.
    pub data: SocketAddr,
    id: String,
    seals: Seals,
    contexts: PathBuf,
}

/// Returns the principals that somebody may want to be.
pub fn principals() -> [Principal; 3] {
    let tenant = TenantId::default_tenant();
    [
        Principal::Node { name: "coordinator-1".parse().expect("a name") },
        Principal::Person { tenant: tenant.clone(), name: "admin".to_owned() },
        Principal::Agent { tenant, host: "agent-1".parse().expect("a name") },
    ]
}

impl Stranger {
    /// Looks at a cluster.
    ///
    /// # Panics
    /// When it cannot be looked at.
    pub fn of(cluster: &Cluster) -> Self {
        let home = cluster.cluster_directory().join("coordinator-1");
        let files = NodeFiles::create(&home.join("state")).expect("the node's files are there");
        let sealed = files.authority().expect("the authority is there");
        let sources = KeySources { file: home.join("cluster.key"), ..KeySources::default() };
        let keyring = Keyring::open(sources).expect("the cluster key is there");
        let (_, status) = cluster.json(&["cluster", "status"]);
        let (_, host) = cluster.json(&["host", "show", "agent-1"]);
        let address = |value: &serde_json::Value| {
            value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address: {value}"))
        };
        Self {
            api: address(&status["members"][0]["api_address"]),
            raft: address(&status["members"][0]["raft_address"]),
            data: address(&host["facts"]["data_addresses"][0]),
            id: sealed.cluster.clone(),
            seals: open_authority(&keyring, &sealed).expect("the authority opens"),
            contexts: cluster.path("stranger.toml"),
        }
    }

    /// Issues a certificate of the cluster's own authority, as of some moment.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn issued(&self, principal: &Principal, then: WallMs) -> Credentials {
        self.seals.authority.issue_with_key(principal, then).expect("a certificate can be made")
    }

    /// Makes a certificate of the same words under an authority of its own, or under none.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn forged(&self, principal: &Principal, is_self_signed: bool) -> Credentials {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        for uri in tls::uris_of(&self.id, principal, Some(1)) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("it is ASCII")));
        }
        let made = if is_self_signed {
            params.self_signed(&key)
        } else {
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.signed_by(&key, &Issuer::new(authority, KeyPair::generate().expect("a key can be made")))
        };
        let der = made.expect("a certificate can be made").der().clone();
        (der, PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key"))
    }

    /// Returns what TLS needs to call, with a certificate or without; everything the ports show is believed.
    ///
    /// # Panics
    /// When the credentials do not fit together.
    pub fn calling(&self, credentials: Option<&Credentials>, alpn: &[u8]) -> ClientConfig {
        let authority = self.seals.authority.certificate().clone();
        let Some((certificate, key)) = credentials else {
            return tls::keyed::client_config(&authority, alpn).expect("the authority is one");
        };
        let identity = Identity::new(vec![certificate.clone()], key.clone_key()).expect("they fit together");
        tls::client_config(identity, &authority, alpn).expect("the authority is one")
    }

    /// Makes a TLS connection to a port of a coordinator, up to the first bytes of the other side.
    ///
    /// # Errors
    /// When the port refuses, in the handshake or by closing.
    pub fn greet(
        &self,
        address: SocketAddr,
        config: ClientConfig,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let stream = connect(address)?;
        let name = ServerName::try_from(tls::COORDINATOR_NAME).expect("it is a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("the settings fit");
        let mut stream = StreamOwned::new(connection, stream);
        // The preface of HTTP/2 and empty settings: whoever is let in is answered.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        stream.read_exact(&mut [0; 9])?;
        Ok(stream)
    }

    /// Writes a contexts file that shows these credentials at an address.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn context(&self, (certificate, key): &Credentials, address: SocketAddr) -> PathBuf {
        let context = Context {
            coordinators: vec![address.to_string()],
            ca_certificate: pem("CERTIFICATE", self.seals.authority.certificate()),
            certificate: pem("CERTIFICATE", certificate),
            key: pem("PRIVATE KEY", key.secret_der()),
            api_key: String::new(),
        };
        let mut contexts = Contexts { current: "x".to_owned(), ..Contexts::default() };
        contexts.contexts.insert("x".to_owned(), context);
        contexts.write(&self.contexts).expect("a file can be written");
        self.contexts.clone()
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects and says this, and nothing more.
///
/// # Panics
/// When the kernel refuses the connection.
pub fn half_open(address: SocketAddr, said: &[u8]) -> TcpStream {
    let mut stream = connect(address).expect("the port takes connections");
    // It may have been dropped already.
    drop(stream.write_all(said));
    stream
}

/// Says something on a TCP port and returns all that comes back until the port closes.
///
/// # Panics
/// When it does not close.
pub fn shout(address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut stream = half_open(address, said);
    drop(stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{address} does not close"),
        // A reset is a way to close.
        Ok(_) | Err(_) => answer,
    }
}

/// Sends datagrams to a port.
///
/// # Panics
/// When the kernel refuses.
pub fn pelt(address: SocketAddr, datagrams: impl Iterator<Item = Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    for datagram in datagrams {
        // A full buffer of the receiver is none of the sender's business.
        drop(socket.send_to(&datagram, address));
    }
}

/// A hello of TLS 1.2: no list of versions, and ciphers that 1.3 does not have.
pub fn hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    body.extend([0, 18]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).expect("it is short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}
