//! Two agents on loopback, for tests: a source that serves and a destination that dials.

use std::net::SocketAddr;
use std::path::PathBuf;

use common::clock::{self, WallMs};
use common::failure::Failure;
use common::fence::FencingToken;
use common::finding::Finding;
use common::id::{HostName, MigrationId, TenantId};
use common::progress::Progress;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::step::file::{FileOutput, FileParams, SettleQuestion};
use common::ticket::{Direction, Ticket, TicketKey};
use common::transport::{Transport, TransportChoice};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, CLUSTER};
use crate::context::{Course, LeaseKeeper, Peer, PeerNews, StepContext, hold_lease};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::findings::FindingSink;
use crate::kill_point::KillPoint;
use crate::reset_key::ResetKey;
use crate::snapshot::Snapshot;
use sync::wire::control::Sparing;

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
    pub(crate) authority: Authority,
    key: TicketKey,
    pub(crate) shutdown: Shutdown,
    pub(crate) token: u64,
    /// Which attempt the next context is of, and of which migration.
    pub(crate) attempt: u32,
    pub(crate) migration: MigrationId,
    tenant: TenantId,
    keeper: Option<LeaseKeeper>,
    pub(crate) params: FileParams,
    pub(crate) progress: watch::Receiver<Progress>,
    /// What a continuous step is asked, and says.
    pub(crate) course: Course,
    progress_sender: watch::Sender<Progress>,
    _clock: watch::Sender<i64>,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// Opens both endpoints; the source's root exists and is empty.
    pub(crate) fn new() -> Self {
        Self::of(TenantId::default_tenant())
    }

    /// Opens both endpoints, of hosts of this tenant.
    pub(crate) fn of(tenant: TenantId) -> Self {
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
                identity: authority.identity_of(tenant.clone(), host),
                authority: authority.certificate.clone(),
                state_dir: at(state),
                clock_ahead_ms: clock_ahead_ms.clone(),
                incarnation: 1,
                reset_key: ResetKey::new([7; 32]),
                secrets: crate::secrets::Secrets::none(),
                segmentation_offload: true,
                patience: crate::patience::Patience::default(),
            };
            Endpoint::open(settings, &shutdown).unwrap()
        };
        let (source, destination) = (open("web1", "source-state"), open("web2", "state"));
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (source_root, destination_root) = (at("source"), at("destination"));
        let roots = [&source_root, &destination_root].map(|root| root.to_str().unwrap());
        let params = FileParams { numeric_ids: true, ..FileParams::between(roots[0], roots[1]) };
        Self {
            source_root,
            destination_root,
            state_dir: at("state"),
            endpoint: destination,
            source_address: source.local_address().unwrap(),
            source_endpoint: source,
            key: authority.tickets(),
            authority,
            shutdown,
            token: 1,
            attempt: 1,
            migration: "m1".parse().unwrap(),
            tenant,
            keeper: None,
            params,
            progress,
            course: Course { finish: CancellationToken::new(), so_far: watch::Sender::new(None) },
            progress_sender,
            _clock: clock,
            _folder: folder,
        }
    }

    /// The same, with copies over this transport only.
    pub(crate) fn over(transport: Transport) -> Self {
        let mut pair = Self::new();
        pair.params.transport = match transport {
            Transport::Quic => TransportChoice::Quic,
            Transport::Tcp => TransportChoice::Tcp,
        };
        pair
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
            tenant: self.tenant.clone(),
            migration: self.migration.clone(),
            step: "file.copy-1".parse().unwrap(),
            source: host("web1"),
            destination: host("web2"),
            source_root: self.params.source_root.clone(),
            destination_root: self.params.destination_root.clone(),
            direction: Direction::Pull,
            token,
            expires: WallMs(clock::wall().0 + 3_600_000),
            sanitize: self.params.sanitize.clone(),
        };
        let (_renewals, ticket) = watch::channel(self.key.sign(&ticket).unwrap());
        let (_limit, bandwidth) = watch::channel(self.params.bandwidth_limit);
        let (findings, receiver) = FindingSink::new();
        let peer = Peer {
            tenant: self.tenant.clone(),
            host: host("web1"),
            addresses: vec![self.source_address],
            token,
            ticket,
            news: watch::channel(PeerNews::default()).1,
            sparing: watch::channel(Sparing::default()).1,
            was_reached: false,
            compression: Compression::Auto,
            transport: TransportChoice::Auto,
            relay: None,
        };
        let context = StepContext {
            migration: self.migration.clone(),
            step: "file.copy-1".parse().unwrap(),
            token,
            attempt: self.attempt,
            lease,
            progress: self.progress_sender.clone(),
            findings,
            peer: Some(peer),
            bandwidth,
            state_dir: self.state_dir.clone(),
            course: self.course.clone(),
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

    /// Runs a copy that is held once it has seen both trees, until `act` was done; nothing is committed before.
    pub(crate) async fn copy_meanwhile<T>(
        &mut self,
        act: impl FnOnce() -> T,
    ) -> (Result<FileOutput, Failure>, Vec<Finding>, T) {
        let (mut context, mut receiver) = self.context();
        let kill = KillPoint::held();
        context.lease = context.lease.with_kill_point(kill.clone());
        let running = crate::copy::run_copy(context, &self.endpoint, self.params.clone());
        tokio::pin!(running);
        let (output, acted) = tokio::select! {
            output = &mut running => panic!("it ended before it was let go: {output:?}"),
            () = kill.compared() => {
                let acted = act();
                kill.let_go();
                (running.await, acted)
            }
        };
        (output, drain(&mut receiver), acted)
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

    /// Runs an undo that is killed before the effect of this number, if it has so many; says whether it was.
    pub(crate) async fn undo_killed_at(&mut self, number: i64) -> bool {
        let (mut context, _receiver) = self.context();
        let kill = KillPoint::at(number);
        context.lease = context.lease.with_kill_point(kill.clone());
        let undone = crate::way_back::undo(context, self.params.clone()).await;
        assert_eq!(undone.is_err(), kill.was_hit(), "{undone:?}");
        kill.was_hit()
    }

    /// Ends the way back.
    pub(crate) fn settle(&mut self) {
        self.try_settle().unwrap();
    }

    /// The same, where it may go wrong.
    pub(crate) fn try_settle(&mut self) -> Result<(), Failure> {
        let (context, _findings) = self.context();
        let question = SettleQuestion {
            migration: context.migration.clone(),
            destination_root: self.params.destination_root.clone(),
            token: context.token,
            backup_dir: self.params.rules.backup_dir.clone(),
        };
        crate::way_back::settle(&self.state_dir, &question)
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
