//! Two agents on loopback, for tests: a source that serves and a destination that dials.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::clock::{self, WallMs};
use common::failure::Failure;
use common::fence::FencingToken;
use common::finding::Finding;
use common::id::{HostName, TenantId};
use common::phase::Scope;
use common::principal::Principal;
use common::progress::Progress;
use common::shutdown::Shutdown;
use common::spec::{MaxDelete, ValidationLevel};
use common::step::file::{FileOutput, FileParams, SettleQuestion, VERSION};
use common::ticket::{Direction, Ticket, TicketKey};
use common::tls::{self, Identity};
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::context::{LeaseKeeper, Peer, PeerNews, StepContext, hold_lease};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::findings::FindingSink;
use crate::reset_key::ResetKey;

const CLUSTER: &str = "c1";

/// Everything of a tree but change times and inodes, with groups of hard links: what a copy must bring and an undo
/// must bring back.
pub(crate) type Snapshot = BTreeMap<PathBuf, String>;

/// Takes a snapshot, by other means than the code under test.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut groups: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let body = if metadata.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else if metadata.is_file() {
            blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string()
        } else if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().starts_with(".drover-") {
                    stack.push(entry.path());
                }
            }
            String::new()
        } else {
            metadata.rdev().to_string()
        };
        if !metadata.is_dir() {
            groups.entry(metadata.ino()).or_default().push(path.clone());
        }
        let line = format!(
            "{:o} {}:{} {}.{:09} nlink {} {:?} {body}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_dir() { 0 } else { metadata.nlink() },
            attributes(&path),
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    for mut names in groups.into_values() {
        names.sort();
        let group: Vec<_> = names.iter().map(|name| name.strip_prefix(root).unwrap().to_owned()).collect();
        for name in &group {
            found.get_mut(name).unwrap().push_str(&format!(" {group:?}"));
        }
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let count = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        attributes.insert(name.to_vec(), value[..count].to_vec());
    }
    attributes
}

/// Panics at the first entry that is not the same.
pub(crate) fn assert_same(found: &Snapshot, expected: &Snapshot, what: &str) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{what}: {}", path.display());
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{what}: {} should not be there", path.display());
    }
}

/// A source and a destination, each with an endpoint and a root.
pub(crate) struct Pair {
    pub(crate) source_root: PathBuf,
    pub(crate) destination_root: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) endpoint: Endpoint,
    pub(crate) source_endpoint: Endpoint,
    pub(crate) source_address: SocketAddr,
    key: TicketKey,
    shutdown: Shutdown,
    pub(crate) token: u64,
    /// Which attempt the next context is of.
    pub(crate) attempt: u32,
    keeper: Option<LeaseKeeper>,
    pub(crate) params: FileParams,
    pub(crate) progress: watch::Receiver<Progress>,
    progress_sender: watch::Sender<Progress>,
    _clock: watch::Sender<i64>,
    _folder: tempfile::TempDir,
}

struct Authority {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    fn identity(&self, host: &str) -> Arc<Identity> {
        let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() };
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
}

impl Pair {
    /// Opens both endpoints; the source's root exists and is empty.
    pub(crate) fn new() -> Self {
        quinn::rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["source", "source-state", "state"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let (authority, shutdown) = (Authority::new(), Shutdown::new());
        let (clock, clock_ahead_ms) = watch::channel(0);
        let open = |host: &str, state: &str| {
            let settings = EndpointSettings {
                listen: "127.0.0.1:0".parse().unwrap(),
                identity: authority.identity(host),
                authority: authority.certificate.clone(),
                state_dir: at(state),
                clock_ahead_ms: clock_ahead_ms.clone(),
                incarnation: 1,
                reset_key: ResetKey::new([7; 32]),
                secrets: crate::secrets::Secrets::none(),
                segmentation_offload: true,
            };
            Endpoint::open(settings, &shutdown).unwrap()
        };
        let (source, destination) = (open("web1", "source-state"), open("web2", "state"));
        let key = PrivateKeyDer::try_from(authority.key.clone()).unwrap();
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (source_root, destination_root) = (at("source"), at("destination"));
        let params = FileParams {
            version: VERSION,
            source_root: source_root.to_str().unwrap().to_owned(),
            destination_root: destination_root.to_str().unwrap().to_owned(),
            exclude: Vec::new(),
            include: Vec::new(),
            delete: false,
            max_delete: MaxDelete::default(),
            checksum: false,
            numeric_ids: true,
            bandwidth_limit: None,
            dry_run: false,
            validation_level: ValidationLevel::Basic,
            keep_way_back: true,
            scope: Scope::Whole,
            sanitize: None,
        };
        Self {
            source_root,
            destination_root,
            state_dir: at("state"),
            endpoint: destination,
            source_address: source.local_address().unwrap(),
            source_endpoint: source,
            key: TicketKey::new(key).unwrap(),
            shutdown,
            token: 1,
            attempt: 1,
            keeper: None,
            params,
            progress,
            progress_sender,
            _clock: clock,
            _folder: folder,
        }
    }

    /// Makes the context of a fresh attempt, whose lease holds until the next one.
    pub(crate) fn context(&mut self) -> (StepContext, mpsc::Receiver<Finding>) {
        self.token += 1;
        let token = FencingToken { epoch: 1, index: self.token };
        let (keeper, lease) = hold_lease(token, clock::boot(), &CancellationToken::new());
        self.keeper = Some(keeper);
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let ticket = Ticket {
            cluster: CLUSTER.to_owned(),
            tenant: TenantId::default_tenant(),
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            source: host("web1"),
            destination: host("web2"),
            source_root: self.params.source_root.clone(),
            destination_root: self.params.destination_root.clone(),
            direction: Direction::Pull,
            token,
            expires: WallMs(clock::wall().0 + 60_000),
            sanitize: None,
        };
        let (_renewals, ticket) = watch::channel(self.key.sign(&ticket).unwrap());
        let (_limit, bandwidth) = watch::channel(self.params.bandwidth_limit);
        let (findings, receiver) = FindingSink::new();
        let peer = Peer {
            tenant: TenantId::default_tenant(),
            host: host("web1"),
            addresses: vec![self.source_address],
            token,
            ticket,
            news: watch::channel(PeerNews::default()).1,
            was_reached: false,
        };
        let context = StepContext {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token,
            attempt: self.attempt,
            lease,
            progress: self.progress_sender.clone(),
            findings,
            peer: Some(peer),
            bandwidth,
            state_dir: self.state_dir.clone(),
        };
        (context, receiver)
    }

    /// Returns the keeper of the present lease.
    pub(crate) fn keeper(&self) -> &LeaseKeeper {
        self.keeper.as_ref().unwrap()
    }

    /// Runs a copy.
    pub(crate) async fn copy(&mut self) -> (Result<FileOutput, Failure>, Vec<Finding>) {
        let (context, mut receiver) = self.context();
        let output = crate::copy::run_copy(context, &self.endpoint, self.params.clone()).await;
        (output, drain(&mut receiver))
    }

    /// Runs a verification.
    pub(crate) async fn verify(&mut self) -> (Result<FileOutput, Failure>, Vec<Finding>) {
        let (context, mut receiver) = self.context();
        let output = crate::verify::run_verify(context, &self.endpoint, self.params.clone()).await;
        (output, drain(&mut receiver))
    }

    /// Runs an undo.
    pub(crate) async fn undo(&mut self) -> (Result<u64, Failure>, Vec<Finding>) {
        let (context, mut receiver) = self.context();
        let undone = crate::way_back::undo(context, self.params.clone()).await;
        (undone.map(|preview| preview.kept_aside), drain(&mut receiver))
    }

    /// Ends the way back.
    pub(crate) fn settle(&mut self) {
        let (context, _findings) = self.context();
        let question = SettleQuestion {
            migration: context.migration.clone(),
            destination_root: self.params.destination_root.clone(),
            token: context.token,
        };
        crate::way_back::settle(&self.state_dir, &question).unwrap();
    }

    /// Ends both endpoints.
    pub(crate) async fn close(self) {
        self.endpoint.shutdown().await;
        self.shutdown.finish().await;
    }
}

fn drain(receiver: &mut mpsc::Receiver<Finding>) -> Vec<Finding> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}
