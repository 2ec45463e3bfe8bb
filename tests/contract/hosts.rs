//! Two agents' data ports on loopback, with certificates of one cluster: what any step between two hosts needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use common::clock::{self, WallMs};
use common::fence::FencingToken;
use common::finding::Finding;
use common::id::{HostName, TenantId};
use common::progress::Progress;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::step::file::FileParams;
use common::ticket::{Direction, Ticket, TicketKey};
use common::transport::TransportChoice;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use transfer::{
    Course, Endpoint, EndpointSettings, FindingSink, KillPoint, LeaseKeeper, Patience, Peer, PeerNews,
    ResetKey, Secrets, Sparing, StepContext, hold_lease,
};

use crate::authority::{Authority, CLUSTER};

pub(crate) const SOURCE: &str = "web1";
pub(crate) const DESTINATION: &str = "web2";

/// A source and a destination.
pub(crate) struct Hosts {
    _source: Endpoint,
    pub(crate) destination: Endpoint,
    /// Where the destination finds the source.
    pub(crate) source_address: SocketAddr,
    pub(crate) authority: Authority,
    key: TicketKey,
    _clock: watch::Sender<i64>,
    _folder: tempfile::TempDir,
}

/// One attempt as a step gets it, and the other ends of all that it was given.
pub(crate) struct Attempt {
    pub(crate) context: StepContext,
    pub(crate) keeper: LeaseKeeper,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) findings: mpsc::Receiver<Finding>,
    /// What must not be said to anybody.
    pub(crate) ticket: Vec<u8>,
}

/// What identifies an attempt.
pub(crate) struct Which<'a> {
    pub(crate) step: &'a str,
    pub(crate) number: u32,
    pub(crate) state_dir: PathBuf,
    pub(crate) params: &'a FileParams,
    pub(crate) kill: KillPoint,
}

impl Hosts {
    /// Opens both ports.
    pub(crate) fn open() -> Self {
        Self::open_with(Patience::default())
    }

    /// Opens both ports, of hosts that wait for each other so long.
    pub(crate) fn open_with(patience: Patience) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let (authority, shutdown) = (Authority::new(), Shutdown::new());
        let (clock, clock_ahead_ms) = watch::channel(0);
        let open = |host: &str| {
            let state_dir = folder.path().join(host);
            std::fs::create_dir(&state_dir).unwrap();
            let settings = EndpointSettings {
                listen: "127.0.0.1:0".parse().unwrap(),
                identity: authority.identity(host),
                authority: authority.certificate.clone(),
                state_dir,
                clock_ahead_ms: clock_ahead_ms.clone(),
                incarnation: 1,
                reset_key: ResetKey::new([7; 32]),
                secrets: Secrets::none(),
                segmentation_offload: true,
                patience,
            };
            Endpoint::open(settings, &shutdown).unwrap()
        };
        let (source, destination) = (open(SOURCE), open(DESTINATION));
        Self {
            source_address: source.local_address().unwrap(),
            _source: source,
            destination,
            key: authority.tickets(),
            authority,
            _clock: clock,
            _folder: folder,
        }
    }

    /// Makes an attempt with a lease that holds as long as its keeper.
    pub(crate) fn attempt(&self, which: Which<'_>) -> Attempt {
        let Which { step, number, state_dir, params, kill } = which;
        let token = FencingToken { epoch: 1, index: u64::from(number) };
        let (keeper, lease) = hold_lease(token, clock::boot(), &CancellationToken::new());
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let ticket = Ticket {
            cluster: CLUSTER.to_owned(),
            tenant: TenantId::default_tenant(),
            migration: "m1".parse().unwrap(),
            step: step.parse().unwrap(),
            source: host(SOURCE),
            destination: host(DESTINATION),
            source_root: params.source_root.clone(),
            destination_root: params.destination_root.clone(),
            direction: Direction::Pull,
            token,
            expires: WallMs(clock::wall().0 + 600_000),
            sanitize: None,
        };
        let ticket = self.key.sign(&ticket).unwrap();
        let (_renewals, shown) = watch::channel(ticket.clone());
        let (_limit, bandwidth) = watch::channel(None);
        let (sink, findings) = FindingSink::new();
        let peer = Peer {
            tenant: TenantId::default_tenant(),
            host: host(SOURCE),
            addresses: vec![self.source_address],
            token,
            ticket: shown,
            news: watch::channel(PeerNews::default()).1,
            sparing: watch::channel(Sparing::default()).1,
            was_reached: false,
            compression: Compression::Auto,
            transport: TransportChoice::Auto,
            relay: None,
        };
        // A continuous step makes one pass and is asked to end.
        let course = Course { finish: CancellationToken::new(), so_far: watch::Sender::new(None) };
        course.finish.cancel();
        let (progress, progress_seen) = watch::channel(Progress::default());
        let context = StepContext {
            migration: "m1".parse().unwrap(),
            step: step.parse().unwrap(),
            token,
            attempt: number,
            lease: lease.with_kill_point(kill),
            progress,
            findings: sink,
            peer: Some(peer),
            bandwidth,
            state_dir,
            course,
        };
        Attempt { context, keeper, progress: progress_seen, findings, ticket }
    }
}

/// Returns a path as parameters carry it.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
