//! The session: one stream to the leader, made again whenever it breaks.
//!
//! ```text
//!   leader ──grants, revocations, questions──▶ session ──orders──▶ executor
//!   leader ◀──hello, heartbeats, events────── session ◀──reports── executor
//!                                                └── reads ── outbox
//! ```
//!
//! Everything that is sent may be sent again. After a cut the agent says hello with the leases that it holds and sends
//! what was not acknowledged; what the leader wanted meanwhile it sends itself. Agents with something to tell come back
//! at once, idle ones spread over a time that the leader names, so that a new leader is not flooded.
//! The session takes nothing away from a running step: leases run out by themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::HostFacts;
use common::sealing::SealingKey;
use common::shutdown::Shutdown;
use common::tls::Identity;
use proto::channel::{Coordinators, agent_client};
use proto::status::to_failure;
use proto::v1;
use proto::v1::coordinator_message::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::heartbeat::{Heartbeats, LOOK_INTERVAL, ahead_ms};
use super::lease::HeldLease;
use super::outbox::Outbox;
use super::secrets::{self, Ask, Asked};
use super::{intake, wire};
use crate::step::order::{Order, Report};

/// Messages that wait for the network; a leader that does not read them within [`SEND_DEADLINE`] is gone.
const OUTGOING_MAX: usize = 64;
/// How long one message may wait for room.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// How long coordinators are tried before the failure is told and the agent pauses.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the leader may take to answer the hello.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// How long the last events may take to be acknowledged when the agent ends.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// First and longest pause between attempts of an agent that has something to tell.
const URGENT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// First and longest pause between attempts of an idle agent.
const IDLE_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Failures that are no news: after the loss of a leader the next one is there within about a second.
const UNTOLD_FAILURES: u32 = 3;
/// The longest spread that a leader may ask for.
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// The agent's session with the leader.
#[derive(Debug)]
pub struct Session {
    /// The way to the coordinators.
    pub coordinators: Arc<Coordinators>,
    /// The number of this start of the agent.
    pub incarnation: u64,
    /// What has to arrive.
    pub outbox: Outbox,
    /// What is told of the host.
    pub facts: watch::Receiver<HostFacts>,
    /// Where grants and questions go.
    pub orders: mpsc::Sender<Order>,
    /// What the executor has to say; droppable.
    pub reports: mpsc::Receiver<Report>,
    /// Secrets that steps and served connections ask for.
    pub secrets: mpsc::Receiver<Ask>,
    /// What they are sealed to.
    pub sealing_key: Arc<SealingKey>,
    /// The certificate, which shows whose that key is.
    pub identity: Arc<Identity>,
    /// The leases that the executor works under.
    pub held: watch::Receiver<Vec<HeldLease>>,
    /// When the certificate ends; an expired one is shown to nobody.
    pub certificate_end: watch::Receiver<WallMs>,
    /// Where the addresses that the leader names go.
    pub addresses: watch::Sender<Vec<String>>,
    /// How many milliseconds the leader's clock is ahead.
    pub clock_ahead_ms: watch::Sender<i64>,
    /// The leases that the executor has stopped for good, to be given back.
    pub released: watch::Receiver<Vec<HeldLease>>,
    /// Fires when the executor begins to stop: no grant is of use any more.
    pub stopping: CancellationToken,
    /// Ends the session.
    pub shutdown: Shutdown,
}

/// Why a conversation ended.
#[derive(Debug)]
enum Ended {
    /// The agent ends.
    Shutdown,
    /// It broke; with what the leader or the network said.
    Broken(Failure),
}

/// What wakes the session.
enum Event {
    Shutdown,
    Stopping,
    Message(Result<Option<v1::CoordinatorMessage>, Status>),
    Report(Report),
    Outbox,
    Held,
    Facts,
    Beat,
    Secret(Ask),
}

impl Session {
    /// Keeps a session until the shutdown, through every failure.
    pub async fn run(mut self) {
        let (mut urgent, mut idle) = (backoff(URGENT_PAUSE), backoff(IDLE_PAUSE));
        let (mut told, mut failures, mut pause) = (None, 0, Duration::ZERO);
        for number in 1.. {
            if !self.rest(pause).await {
                return;
            }
            pause = match self.converse(number).await {
                (_, Ended::Shutdown) => return,
                (Some(spread), Ended::Broken(failure)) => {
                    tracing::info!(%failure, "session ended");
                    (urgent, idle) = (backoff(URGENT_PAUSE), backoff(IDLE_PAUSE));
                    (told, failures) = (None, 0);
                    if self.is_urgent() { Duration::ZERO } else { spread.mul_f64(fraction()) }
                }
                (None, Ended::Broken(failure)) => {
                    failures += 1;
                    // The same refusal every few seconds is told once.
                    if is_worth_telling(&failure, failures) && told.as_ref() != Some(&failure.message) {
                        let hint = failure.hint.as_deref().unwrap_or_default();
                        tracing::warn!(%failure, hint, "no session with a coordinator");
                        told = Some(failure.message);
                    }
                    let pauses = if self.is_urgent() { &mut urgent } else { &mut idle };
                    pauses.next_delay(jitter())
                }
            };
        }
    }

    /// Whether a step or an event waits for the leader.
    fn is_urgent(&self) -> bool {
        !self.held.borrow().is_empty() || !self.outbox.is_empty()
    }

    /// Pauses; false when the agent ends. What the executor reports meanwhile has nobody to hear it.
    async fn rest(&mut self, pause: Duration) -> bool {
        let end = tokio::time::sleep(pause);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return false,
                () = &mut end => break,
                Some(_unheard) = self.reports.recv() => {}
            }
        }
        // An expired certificate opens no session; renewing it is under way elsewhere.
        let is_valid = |end: &WallMs| clock::wall() < *end;
        if !is_valid(&self.certificate_end.borrow_and_update()) {
            tokio::select! {
                () = self.shutdown.cancelled() => return false,
                _renewed = self.certificate_end.wait_for(is_valid) => {}
            }
        }
        true
    }

    /// Opens a conversation and holds it; returns also over what time idle agents come back, if there was one.
    async fn converse(&mut self, number: u64) -> (Option<Duration>, Ended) {
        let stop = self.shutdown.clone();
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return (None, Ended::Shutdown),
            opened = open(self) => opened,
        };
        match opened {
            Ok((conversation, welcome)) => {
                let spread = Duration::from_millis(welcome.reconnect_spread_ms).min(SPREAD_MAX);
                (Some(spread), conversation.hold(self, number, welcome).await)
            }
            Err(failure) => (None, Ended::Broken(failure)),
        }
    }
}

/// Dials the leader, says hello and waits for its welcome.
async fn open(session: &mut Session) -> Result<(Conversation, v1::Welcome), Failure> {
    let ends = session.outbox.ends()?;
    let facts = session.facts.borrow_and_update().clone();
    let (held, incarnation, is_urgent) = (session.held.clone(), session.incarnation, session.is_urgent());
    let sealing = secrets::shown(&session.sealing_key, &session.identity);
    let dial = |channel| {
        let hello = wire::hello(incarnation, &facts, &held.borrow(), &ends, sealing.clone());
        async move {
            let (outgoing, stream) = mpsc::channel(OUTGOING_MAX);
            // The channel is empty and its other end is in our hands, so there is room.
            outgoing.try_send(hello).ok();
            let answer = agent_client(channel).session(ReceiverStream::new(stream)).await?;
            Ok(answer.map(|incoming| (outgoing, incoming)))
        }
    };
    let (outgoing, mut incoming) = if is_urgent {
        session.coordinators.call(CONNECT_DEADLINE, dial).await?
    } else {
        session.coordinators.call_once(CONNECT_DEADLINE, dial).await?
    };
    let first = timeout(WELCOME_DEADLINE, incoming.message()).await;
    let first = first
        .map_err(|_elapsed| Failure::new(FailureKind::Timeout, "the leader did not answer the hello"))?;
    match first.map_err(|status| to_failure(&status))?.and_then(|first| first.message) {
        Some(Message::Welcome(welcome)) => {
            let conversation = Conversation {
                outgoing,
                incoming,
                heartbeats: Heartbeats::default(),
                asked: Asked::default(),
                sent_to: 0,
                number: 0,
                returning: BTreeSet::new(),
            };
            Ok((conversation, welcome))
        }
        Some(_) => Err(Failure::new(FailureKind::Invalid, "the leader's first message is not a welcome")),
        None => Err(Failure::new(FailureKind::Unreachable, "the leader closed the session at once")),
    }
}

/// One stream, while it lasts.
struct Conversation {
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
    heartbeats: Heartbeats,
    asked: Asked,
    /// The last event that was sent in this conversation, or was acknowledged before it.
    sent_to: u64,
    /// Counts the sessions of this process, so that an answer never goes to another one than its question came from.
    number: u64,
    /// Leases that were given back and are not known to be over yet.
    returning: BTreeSet<FencingToken>,
}

impl Conversation {
    async fn hold(mut self, session: &mut Session, number: u64, welcome: v1::Welcome) -> Ended {
        self.number = number;
        match self.exchange(session, welcome).await {
            Ok(()) => {
                self.drain(session).await;
                Ended::Shutdown
            }
            Err(failure) => Ended::Broken(failure),
        }
    }

    /// Exchanges messages until the shutdown, or until it breaks.
    async fn exchange(&mut self, session: &mut Session, welcome: v1::Welcome) -> Result<(), Failure> {
        self.welcomed(session, welcome)?;
        let mut durable = session.outbox.durable();
        let mut beat = tokio::time::interval(LOOK_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.send_events(session).await?;
        let mut is_leaving = false;
        loop {
            let event = tokio::select! {
                biased;
                () = session.shutdown.cancelled() => Event::Shutdown,
                () = session.stopping.cancelled(), if !is_leaving => Event::Stopping,
                message = self.incoming.message() => Event::Message(message),
                Ok(()) = session.held.changed() => Event::Held,
                _ = beat.tick() => Event::Beat,
                Ok(()) = durable.changed() => Event::Outbox,
                Some(report) = session.reports.recv() => Event::Report(report),
                Ok(()) = session.facts.changed() => Event::Facts,
                Some(ask) = session.secrets.recv() => Event::Secret(ask),
            };
            match event {
                Event::Shutdown => return Ok(()),
                Event::Stopping => {
                    is_leaving = true;
                    self.send(wire::leaving(&[])).await?;
                }
                Event::Message(message) => self.take(session, message).await?,
                Event::Held => self.beat(session, false).await?,
                Event::Beat => self.beat(session, true).await?,
                Event::Outbox => self.send_events(session).await?,
                Event::Report(report) => self.report(report).await?,
                Event::Secret(ask) => {
                    let ask = self.asked.enter(ask);
                    self.send(ask).await?;
                }
                Event::Facts => {
                    let facts = wire::facts(&session.facts.borrow_and_update());
                    self.send(facts).await?;
                }
            }
        }
    }

    fn welcomed(&mut self, session: &Session, welcome: v1::Welcome) -> Result<(), Failure> {
        let v1::Welcome { protocol: _, wall_ms, coordinators, acknowledged, reconnect_spread_ms: _ } =
            welcome;
        session.clock_ahead_ms.send_replace(ahead_ms(WallMs(wall_ms), clock::wall()));
        session.coordinators.learn(coordinators.clone());
        session.addresses.send_if_modified(|known| {
            let is_new = !coordinators.is_empty() && *known != coordinators;
            if is_new {
                *known = coordinators;
            }
            is_new
        });
        session.outbox.agree(acknowledged)?;
        self.sent_to = session.outbox.acknowledged();
        let leader = session.coordinators.leader().unwrap_or_default();
        tracing::info!(leader, leases = session.held.borrow().len(), "session opened");
        Ok(())
    }

    async fn take(
        &mut self,
        session: &Session,
        message: Result<Option<v1::CoordinatorMessage>, Status>,
    ) -> Result<(), Failure> {
        let message = message.map_err(|status| to_failure(&status))?;
        let Some(message) = message else {
            return Err(Failure::new(FailureKind::Unreachable, "the leader closed the session"));
        };
        match message.message {
            Some(Message::Grant(grant)) => intake::granted(session, grant).await,
            Some(Message::Renewed(renewed)) => {
                self.renewed(session, renewed);
                Ok(())
            }
            Some(Message::Revoke(revoke)) => {
                if let Some(token) = intake::revoked(session, revoke).await? {
                    self.returning.remove(&token);
                }
                Ok(())
            }
            Some(Message::Acknowledge(acknowledge)) => Ok(session.outbox.acknowledge(acknowledge.number)?),
            Some(Message::Question(question)) => intake::asked(session, self.number, question).await,
            Some(Message::Serve(serve)) => intake::serve(session, serve).await,
            Some(Message::PeerSeen(seen)) => intake::peer_seen(session, seen).await,
            Some(Message::Paced(paced)) => intake::paced(session, paced).await,
            Some(Message::RevokedHosts(revoked)) => intake::revoked_hosts(session, revoked).await,
            Some(Message::OpenedSecret(opened)) => {
                self.asked.answered(opened);
                Ok(())
            }
            // A second welcome changes nothing, and a newer leader may say what this agent does not know.
            Some(Message::Welcome(_)) | None => Ok(()),
        }
    }

    fn renewed(&mut self, session: &Session, renewed: v1::Renewed) {
        let v1::Renewed { number, leases } = renewed;
        let Some(sent) = self.heartbeats.answered(number) else { return };
        let held = session.held.borrow();
        for v1::RenewedLease { token, ticket, bandwidth_limit, max_load, idle_io } in leases {
            let Ok(token) = wire::from_token(token) else { continue };
            if let Some(lease) = held.iter().find(|lease| lease.token() == token) {
                lease.renewed(sent, ticket, wire::pace(bandwidth_limit, max_load, idle_io));
            }
        }
    }

    /// Says that the agent is there and asks to renew what is due. Out of turn, only for new leases.
    async fn beat(&mut self, session: &mut Session, is_turn: bool) -> Result<(), Failure> {
        let now = clock::boot();
        if self.heartbeats.is_silent(now) {
            return Err(Failure::new(FailureKind::Timeout, "the leader does not answer"));
        }
        let (renew, holds_leases) = {
            let held = session.held.borrow_and_update();
            (Heartbeats::due(&held, now).map(wire::held).collect::<Vec<_>>(), !held.is_empty())
        };
        if renew.is_empty() && !(is_turn && self.heartbeats.is_time(holds_leases, now)) {
            return Ok(());
        }
        let number = self.heartbeats.sent(now);
        self.send(wire::heartbeat(number, renew)).await
    }

    async fn send_events(&mut self, session: &Session) -> Result<(), Failure> {
        loop {
            let events = session.outbox.after(self.sent_to)?;
            if events.is_empty() {
                return Ok(());
            }
            for (number, record) in events {
                self.send(wire::event(number, record)).await?;
                self.sent_to = number;
            }
        }
    }

    async fn report(&self, report: Report) -> Result<(), Failure> {
        match report {
            Report::Progress { lease, progress } => {
                // The newest of the next half second does as well.
                self.outgoing.try_send(wire::progress(&lease, &progress)).ok();
                Ok(())
            }
            Report::Answer { session, number, answer } if session == self.number => {
                self.send(wire::answer(number, answer)).await
            }
            Report::Answer { .. } => Ok(()),
        }
    }

    async fn send(&self, message: v1::AgentMessage) -> Result<(), Failure> {
        match timeout(SEND_DEADLINE, self.outgoing.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_closed)) => Err(Failure::new(FailureKind::Unreachable, "the leader closed the session")),
            Err(_elapsed) => Err(Failure::new(FailureKind::Timeout, "the leader takes no messages")),
        }
    }

    /// Sends what the last steps had to say, gives back what they worked under, and waits a little for the answers.
    async fn drain(&mut self, session: &mut Session) {
        let drained = timeout(DRAIN_DEADLINE, async {
            self.send_events(session).await?;
            let released = session.released.borrow().clone();
            self.returning = released.iter().map(HeldLease::token).collect();
            self.send(wire::leaving(&released)).await?;
            while !session.outbox.is_empty() || !self.returning.is_empty() {
                let message = self.incoming.message().await;
                self.take(session, message).await?;
            }
            Ok::<_, Failure>(())
        });
        match drained.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::info!("some last words wait for the next start"),
        }
    }
}

/// Whether people should hear of the latest of so many failures.
fn is_worth_telling(failure: &Failure, failures: u32) -> bool {
    failures > UNTOLD_FAILURES || !matches!(failure.kind, FailureKind::Unreachable | FailureKind::Timeout)
}

fn backoff((first, max): (Duration, Duration)) -> Backoff {
    Backoff::new(first, max)
}

/// Draws a number for a delay. A machine without randomness gets none, and no spread.
fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0)
}

fn fraction() -> f64 {
    f64::from(jitter()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use common::failure::FailureKind;
    use proto::v1::agent_message::Message as Said;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::journal::{Journal, OutboxEvent, OutboxRecord};
    use crate::link::fixture::{Authority, FakeCoordinator, Joined, SessionSeen, joined};
    use crate::step::order::{Answer, AskedFor};

    const TOKEN: FencingToken = FencingToken { epoch: 1, index: 7 };

    /// A session that runs against a coordinator, with the test in the executor's place.
    struct Bench {
        coordinator: FakeCoordinator,
        host: Joined,
        outbox: Outbox,
        held: watch::Sender<Vec<HeldLease>>,
        orders: mpsc::Receiver<Order>,
        reports: mpsc::Sender<Report>,
        clock_ahead_ms: watch::Receiver<i64>,
        addresses: watch::Receiver<Vec<String>>,
        certificate_end: watch::Sender<WallMs>,
        released: watch::Sender<Vec<HeldLease>>,
        stopping: CancellationToken,
        shutdown: Shutdown,
        running: JoinHandle<()>,
    }

    async fn bench() -> Bench {
        bench_with(WallMs(u64::MAX)).await
    }

    async fn bench_with(end: WallMs) -> Bench {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let host = joined(&authority, &coordinator);
        let outbox = Outbox::open(Journal::open(host.directory.path()).unwrap()).unwrap();
        let (orders_to, orders) = mpsc::channel(8);
        let (reports, reports_from) = mpsc::channel(8);
        let (held, held_seen) = watch::channel(Vec::new());
        let (clock_to, clock_ahead_ms) = watch::channel(0);
        let (addresses_to, addresses) = watch::channel(Vec::new());
        let (shutdown, certificate_end) = (Shutdown::new(), watch::Sender::new(end));
        let (released, released_seen) = watch::channel(Vec::new());
        let stopping = CancellationToken::new();
        let session = Session {
            coordinators: Arc::clone(&host.coordinators),
            incarnation: 5,
            outbox: outbox.clone(),
            facts: watch::channel(HostFacts { cpus: 3, ..HostFacts::default() }).1,
            orders: orders_to,
            reports: reports_from,
            secrets: mpsc::channel(1).1,
            sealing_key: Arc::new(SealingKey::generate().unwrap()),
            identity: Arc::clone(&host.identity),
            held: held_seen,
            certificate_end: certificate_end.subscribe(),
            addresses: addresses_to,
            clock_ahead_ms: clock_to,
            released: released_seen,
            stopping: stopping.clone(),
            shutdown: shutdown.clone(),
        };
        let running = shutdown.spawn(session.run());
        Bench {
            coordinator,
            host,
            outbox,
            held,
            orders,
            reports,
            clock_ahead_ms,
            addresses,
            certificate_end,
            released,
            stopping,
            shutdown,
            running,
        }
    }

    impl Bench {
        async fn welcome(&self) -> SessionSeen {
            let seen = self.coordinator.session().await;
            let welcome = v1::Welcome {
                protocol: 1,
                wall_ms: clock::wall().0 + 60_000,
                coordinators: vec![self.coordinator.address.to_string()],
                acknowledged: 0,
                reconnect_spread_ms: 0,
            };
            seen.say(Message::Welcome(welcome)).await;
            seen
        }

        fn lease(&self) -> HeldLease {
            let (migration, step) = ("m1".parse().unwrap(), "file.copy-1".parse().unwrap());
            HeldLease::new(migration, step, TOKEN, Vec::new(), clock::boot())
        }

        async fn succeed(&self) -> u64 {
            let record = OutboxRecord {
                migration: "m1".parse().unwrap(),
                step: "file.copy-1".parse().unwrap(),
                token: TOKEN,
                event: OutboxEvent::Succeeded("{}".to_owned()),
            };
            self.outbox.append(record).await.unwrap()
        }
    }

    fn grant() -> v1::Grant {
        v1::Grant {
            migration: "m1".to_owned(),
            step: "file.copy-1".to_owned(),
            token: Some(v1::Token { epoch: 1, index: 7 }),
            kind: "file.copy@1".to_owned(),
            tenant: "default".to_owned(),
            ..v1::Grant::default()
        }
    }

    fn event(said: Said) -> Option<v1::StepEvent> {
        match said {
            Said::Event(event) => Some(event),
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_was_not_acknowledged_is_sent_again_in_the_next_session() {
        let bench = bench().await;
        let mut first = bench.welcome().await;
        assert_eq!((first.hello.incarnation, first.hello.held.len()), (5, 0));
        assert!(first.hello.facts.contains("\"cpus\":3"));
        let number = bench.succeed().await;
        assert_eq!(first.hear_until(event).await.number, number);
        drop(first);

        // The lease of the event that is on its way is still held.
        let mut second = bench.welcome().await;
        assert_eq!(second.hello.held.len(), 1);
        let again = second.hear_until(event).await;
        assert_eq!((again.number, again.token), (number, Some(v1::Token { epoch: 1, index: 7 })));
        second.say(Message::Acknowledge(v1::Acknowledge { number })).await;
        drop(second);
        assert_eq!(bench.welcome().await.hello.held.len(), 0);
        assert!(bench.outbox.is_empty());
    }

    #[tokio::test]
    async fn a_grant_comes_to_life_by_a_renewal_and_survives_a_cut() {
        let mut bench = bench().await;
        let mut seen = bench.welcome().await;
        seen.say(Message::Grant(grant())).await;
        let Some(Order::Grant(granted)) = bench.orders.recv().await else { panic!("no grant arrived") };
        bench.held.send_replace(vec![granted.lease.clone()]);
        let renewing = seen.hear_until(|said| match said {
            Said::Heartbeat(heartbeat) if !heartbeat.renew.is_empty() => Some(heartbeat),
            _ => None,
        });
        let renewing = renewing.await;
        let lease = v1::RenewedLease {
            token: renewing.renew[0].token,
            ticket: b"t".to_vec(),
            bandwidth_limit: 9,
            max_load: None,
            idle_io: false,
        };
        seen.say(Message::Renewed(v1::Renewed { number: renewing.number, leases: vec![lease] })).await;
        assert!(granted.lease.came_to_life().await);
        assert_eq!(*granted.lease.bandwidth().borrow(), Some(9));
        drop(seen);
        let again = bench.welcome().await;
        assert_eq!(again.hello.held.len(), 1);
        assert_eq!(granted.lease.ended(), None);
    }

    #[tokio::test]
    async fn orders_reach_the_executor_and_answers_their_own_session() {
        let mut bench = bench().await;
        let mut seen = bench.welcome().await;
        let token = Some(v1::Token { epoch: 1, index: 7 });
        seen.say(Message::Grant(v1::Grant { finish: true, ..grant() })).await;
        assert!(matches!(bench.orders.recv().await, Some(Order::Finish { token: TOKEN })));
        let revoke = v1::Revoke { token, reason: "expired".to_owned(), ..v1::Revoke::default() };
        seen.say(Message::Revoke(revoke)).await;
        assert!(matches!(bench.orders.recv().await, Some(Order::Revoke { token: TOKEN, .. })));
        let asked = v1::Question { number: 3, question: Some(v1::question::Question::Root("{}".to_owned())) };
        seen.say(Message::Question(asked)).await;
        let Some(Order::Question { session, number, question }) = bench.orders.recv().await else {
            panic!("no question arrived")
        };
        assert_eq!(question.asked_for, AskedFor::Root);
        let stale =
            Report::Answer { session: session + 1, number, answer: Answer::Document("stale".to_owned()) };
        bench.reports.send(stale).await.unwrap();
        let fresh = Report::Answer { session, number, answer: Answer::Document("fresh".to_owned()) };
        bench.reports.send(fresh).await.unwrap();
        let answer = seen.hear_until(|said| match said {
            Said::Answer(answer) => Some(answer),
            _ => None,
        });
        let answer = answer.await;
        assert_eq!(answer.answer, Some(v1::answer::Answer::Document("fresh".to_owned())));
    }

    #[tokio::test]
    async fn a_grant_that_cannot_be_understood_fails_its_step() {
        let bench = bench().await;
        let mut seen = bench.welcome().await;
        let odd =
            v1::Grant { peer: "web2".to_owned(), peer_addresses: vec!["nowhere".to_owned()], ..grant() };
        seen.say(Message::Grant(odd)).await;
        let event = seen.hear_until(event).await.event;
        let Some(v1::step_event::Event::Failed(failure)) = event else { panic!("{event:?} is no failure") };
        let failure: Failure = serde_json::from_str(&failure.document).unwrap();
        assert_eq!(failure.kind, FailureKind::Invalid);
    }

    #[tokio::test]
    async fn what_the_leader_tells_is_learnt() {
        let mut bench = bench().await;
        let _seen = bench.welcome().await;
        let ahead = *bench.clock_ahead_ms.wait_for(|ahead| *ahead != 0).await.unwrap();
        assert!((50_000..=60_000).contains(&ahead), "{ahead}");
        let expected = [bench.coordinator.address.to_string()];
        bench.addresses.wait_for(|addresses| *addresses == expected).await.unwrap();
    }

    #[tokio::test]
    async fn an_expired_certificate_is_shown_to_nobody() {
        let expired = bench_with(WallMs(1)).await;
        expired.certificate_end.send_replace(WallMs(2));
        let other = bench().await;
        let _seen = other.welcome().await;
        assert!(expired.coordinator.has_no_session());
        expired.certificate_end.send_replace(WallMs(u64::MAX));
        let _seen = expired.welcome().await;
    }

    #[tokio::test]
    async fn the_last_events_go_out_before_the_end() {
        let bench = bench().await;
        let mut seen = bench.welcome().await;
        let first = bench.succeed().await;
        assert_eq!(seen.hear_until(event).await.number, first);
        bench.held.send_replace(vec![bench.lease()]);
        bench.shutdown.cancel();
        seen.say(Message::Acknowledge(v1::Acknowledge { number: first })).await;
        bench.running.await.unwrap();
        assert!(bench.outbox.is_empty());
        drop(bench.host);
    }

    #[tokio::test]
    async fn an_orderly_end_takes_no_grants_and_gives_leases_back() {
        let bench = bench().await;
        let mut seen = bench.welcome().await;
        let leaving = |said: Said| match said {
            Said::Leaving(v1::Leaving { released }) => Some(released),
            _ => None,
        };
        bench.stopping.cancel();
        assert_eq!(seen.hear_until(leaving).await, []);
        bench.released.send_replace(vec![bench.lease()]);
        bench.shutdown.cancel();
        let released = seen.hear_until(leaving).await;
        let [v1::HeldLease { migration, step, token }] = released.as_slice() else { panic!("{released:?}") };
        let (migration, step, token, reason) = (migration.clone(), step.clone(), *token, String::new());
        assert!(!bench.running.is_finished(), "the answer is waited for");
        seen.say(Message::Revoke(v1::Revoke { migration, step, token, reason })).await;
        bench.running.await.unwrap();
    }
}
