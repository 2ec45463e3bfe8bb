//! The agent as a whole: builds every part in order, and ends them in order.
//!
//! Order of the end: no further grants and running steps stop at a safe point; their events go out while the session
//! still lives; the data port closes, telling its peers to resume later; the rest ends. A second signal waits for
//! nothing, which is the same as a kill: the next start raises the incarnation, and the coordinator grants again what
//! was running.

use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::host::HostFacts;
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Identity};
use proto::channel::Coordinators;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use transfer::{Endpoint, EndpointSettings, Patience, ResetKey, Secrets};

use crate::config::Settings;
use crate::journal::Journal;
use crate::link::membership::{Membership, MembershipError};
use crate::link::outbox::Outbox;
use crate::link::renewal::Renewal;
use crate::link::secrets::{Ask, SecretDesk};
use crate::link::session::Session;
use crate::state_dir::StateDir;
use crate::step::Step;
use crate::step::attempt::Workplace;
use crate::step::executor::{Executor, ORDERS_MAX};
use crate::step::registry::versions;
use crate::survey::{self, Given};

/// Reports that wait for the session. Progress beyond is dropped, and answers wait.
const REPORTS_MAX: usize = 64;
/// How long running steps may take to stop, together. Each shall notice within a second; a large file may be in the
/// middle of a sync.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Runs an agent of these step kinds until a signal ends it.
///
/// # Errors
/// When it cannot begin: not joined, the state directory or the data port taken.
pub async fn run(settings: Settings, steps: &'static [&'static dyn Step]) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let state_dir = StateDir::lock(&settings.state_dir)?;
    let daemon = Daemon::start(&settings, &state_dir, steps).await?;
    notify(&NotifyState::Ready);
    signals.next().await;
    notify(&NotifyState::Stopping);
    tracing::info!("stopping");
    tokio::select! {
        () = daemon.stop() => tracing::info!("stopped"),
        () = signals.next() => tracing::warn!("stopped at once by a second signal"),
    }
    Ok(())
}

/// Every part that runs, by the order in which it ends.
struct Daemon {
    executor: Shutdown,
    session: Shutdown,
    rest: Shutdown,
    endpoint: Endpoint,
    journal: Journal,
}

/// The channels between the parts.
struct Channels {
    certificate_end: watch::Sender<WallMs>,
    addresses: watch::Sender<Vec<String>>,
    clock_ahead_ms: watch::Sender<i64>,
    facts: watch::Sender<HostFacts>,
}

impl Daemon {
    async fn start(
        settings: &Settings,
        state_dir: &StateDir,
        steps: &'static [&'static dyn Step],
    ) -> Result<Self, Failure> {
        let membership = Membership::load(state_dir.path())?;
        membership.check()?;
        let (identity, coordinators) = ways(&membership)?;
        let journal = open_journal(state_dir).await?;
        let outbox = Outbox::open(journal.clone())?;
        let (clock_ahead_ms, ahead) = watch::channel(0);
        let (desk, asks) = SecretDesk::new(membership.tenant.clone(), membership.name.clone())?;
        let secrets = Secrets::new(desk.clone());
        let daemon = Self {
            executor: Shutdown::new(),
            session: Shutdown::new(),
            rest: Shutdown::new(),
            endpoint: open_endpoint(state_dir, settings, &membership, &identity, &journal, (ahead, secrets))?,
            journal: journal.clone(),
        };
        let given = Given {
            listening: daemon.endpoint.local_address()?,
            advertised: settings.advertise_data.clone(),
            steps: versions(steps),
        };
        tracing::info!(host = %membership.name, tenant = %membership.tenant, incarnation = journal.incarnation(),
            data = %given.listening, "serving");
        let channels = Channels {
            certificate_end: watch::Sender::new(membership.peer()?.not_after),
            addresses: watch::Sender::new(membership.coordinators.clone()),
            clock_ahead_ms,
            facts: watch::Sender::new(first_survey(&given).await),
        };
        let link = (coordinators, Arc::clone(&identity));
        daemon.keep_membership(&channels, state_dir, membership, identity, &link.0);
        daemon.take_orders(&channels, steps, state_dir, outbox, link, (desk, asks));
        let rest = daemon.rest.clone();
        daemon.rest.spawn(survey::keep_looking(given, channels.facts, rest));
        Ok(daemon)
    }

    /// Starts the renewal of the certificate.
    fn keep_membership(
        &self,
        channels: &Channels,
        state_dir: &StateDir,
        membership: Membership,
        identity: Arc<Identity>,
        coordinators: &Arc<Coordinators>,
    ) {
        let renewal = Renewal {
            membership,
            state_dir: state_dir.path().to_owned(),
            identity,
            coordinators: Arc::clone(coordinators),
            addresses: channels.addresses.subscribe(),
            certificate_end: channels.certificate_end.clone(),
            shutdown: self.rest.clone(),
        };
        self.rest.spawn(renewal.run());
    }

    /// Starts the executor, and the session that brings it orders.
    fn take_orders(
        &self,
        channels: &Channels,
        steps: &'static [&'static dyn Step],
        state_dir: &StateDir,
        outbox: Outbox,
        (coordinators, identity): (Arc<Coordinators>, Arc<Identity>),
        (desk, secrets): (SecretDesk, mpsc::Receiver<Ask>),
    ) {
        let (orders, orders_taken) = mpsc::channel(ORDERS_MAX);
        let (reports, reports_heard) = mpsc::channel(REPORTS_MAX);
        let workplace = Workplace {
            journal: self.journal.clone(),
            outbox: outbox.clone(),
            reports,
            endpoint: self.endpoint.clone(),
            state_dir: state_dir.path().to_owned(),
        };
        let (executor, leases) = Executor::new(steps, workplace, orders_taken, self.executor.clone());
        self.executor.spawn(executor.run());
        let session = Session {
            coordinators,
            incarnation: self.journal.incarnation(),
            outbox,
            facts: channels.facts.subscribe(),
            orders,
            reports: reports_heard,
            held: leases.held,
            released: leases.released,
            stopping: self.executor.token().clone(),
            secrets,
            sealing_key: desk.key(),
            identity,
            certificate_end: channels.certificate_end.subscribe(),
            addresses: channels.addresses.clone(),
            clock_ahead_ms: channels.clock_ahead_ms.clone(),
            shutdown: self.session.clone(),
        };
        self.session.spawn(session.run());
    }

    async fn stop(self) {
        if tokio::time::timeout(STOP_GRACE, self.executor.finish()).await.is_err() {
            tracing::warn!("some steps did not stop in time; they go on after the next start");
        }
        self.session.finish().await;
        self.endpoint.shutdown().await;
        self.rest.finish().await;
        if let Err(error) = self.journal.flush().await {
            tracing::warn!(error = %common::failure::chain(&error), "the journal was not flushed");
        }
    }
}

/// Returns what the agent shows, and the way to the coordinators.
fn ways(membership: &Membership) -> Result<(Arc<Identity>, Arc<Coordinators>), Failure> {
    let identity = membership.identity()?;
    let peer = membership.peer()?;
    if clock::wall() < peer.not_before {
        tracing::warn!("this host's clock is before the beginning of its certificate; look at the clock");
    }
    let config = tls::client_config(Arc::clone(&identity), &membership.authority()?, ALPN_GRPC);
    let config = config.map_err(MembershipError::from)?;
    Ok((identity, Arc::new(Coordinators::new(membership.coordinators.clone(), Arc::new(config)))))
}

/// Opens the journal, and says what the process before this one was doing.
async fn open_journal(state_dir: &StateDir) -> Result<Journal, Failure> {
    let path = state_dir.path().to_owned();
    // Opening reads the whole store and syncs it.
    let opened = tokio::task::spawn_blocking(move || Journal::open(&path)).await;
    let journal = opened.map_err(|error| Failure::of(FailureKind::Bug, &error))??;
    for step in journal.take_interrupted()? {
        tracing::warn!(migration = %step.migration, step = %step.step, kind = step.kind, attempt = step.attempt,
            undo = step.is_undo, fence = %step.token, "was running when the agent ended; the coordinator grants it again");
    }
    Ok(journal)
}

fn open_endpoint(
    state_dir: &StateDir,
    settings: &Settings,
    membership: &Membership,
    identity: &Arc<Identity>,
    journal: &Journal,
    (clock_ahead_ms, secrets): (watch::Receiver<i64>, Secrets),
) -> Result<Endpoint, Failure> {
    let endpoint = EndpointSettings {
        listen: settings.listen_data,
        identity: Arc::clone(identity),
        authority: membership.authority()?,
        state_dir: settings.state_dir.clone(),
        clock_ahead_ms,
        incarnation: journal.incarnation(),
        reset_key: ResetKey::new(state_dir.data_port_key()?),
        secrets,
        segmentation_offload: true,
        patience: Patience { stall: settings.stall_limit, ..Patience::default() },
    };
    Endpoint::open(endpoint, &Shutdown::new())
}

async fn first_survey(given: &Given) -> HostFacts {
    let given = given.clone();
    tokio::task::spawn_blocking(move || survey::look(&given)).await.unwrap_or_default()
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::of(FailureKind::Bug, &error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells the service manager, where there is one.
fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
