//! The executor: turns grants into attempts, at most one at a time on one subject.
//!
//! A subject is what a step changes, for a file step its root. When a later grant for a subject comes, the attempt
//! before it is stopped and its tasks are joined before the later one begins, so that two attempts never write at once.
//! A grant that comes again changes nothing. Grants for different subjects run side by side.

use std::collections::BTreeMap;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};

use super::attempt::{Workplace, attempt};
use super::order::{Answer, Grant, Order, Report};
use super::settling::Settling;
use super::{Step, question, registry};
use crate::journal::OutboxRecord;
use crate::link::lease::{HeldLease, LeaseEnd};
use crate::link::outbox::end_of;

/// Orders that wait; the executor takes them as fast as they come.
pub const ORDERS_MAX: usize = 64;
/// Attempts at once, each with a handful of threads; more are refused and granted again later.
pub const ATTEMPTS_MAX: usize = 256;
/// Questions that are answered at once; each may hold a file or read a directory.
const QUESTIONS_MAX: usize = 8;

/// The executor.
#[derive(Debug)]
pub struct Executor {
    steps: &'static [&'static dyn Step],
    workplace: Workplace,
    orders: mpsc::Receiver<Order>,
    held: watch::Sender<Vec<HeldLease>>,
    released: watch::Sender<Vec<HeldLease>>,
    attempts: BTreeMap<FencingToken, Attempt>,
    ended: (mpsc::Sender<FencingToken>, mpsc::Receiver<FencingToken>),
    questions: std::sync::Arc<tokio::sync::Semaphore>,
    settling: Settling,
    shutdown: Shutdown,
}

/// The leases of an executor, as the session sees them.
#[derive(Clone, Debug)]
pub struct Leases {
    /// Those that it works under.
    pub held: watch::Receiver<Vec<HeldLease>>,
    /// Those whose work a shutdown has stopped, with nothing of it left.
    pub released: watch::Receiver<Vec<HeldLease>>,
}

/// An attempt that has not ended.
#[derive(Debug)]
struct Attempt {
    lease: HeldLease,
    subject: String,
    /// Whether it goes on until it is asked to come to its end.
    is_continuous: bool,
    /// Closed when all its tasks have ended.
    over: watch::Receiver<()>,
}

impl std::fmt::Debug for dyn Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.descriptor().kind.as_str())
    }
}

impl Executor {
    /// Makes an executor of these kinds; returns also the leases that it works under and those that a shutdown has
    /// stopped, for the session.
    pub fn new(
        steps: &'static [&'static dyn Step],
        workplace: Workplace,
        orders: mpsc::Receiver<Order>,
        shutdown: Shutdown,
    ) -> (Self, Leases) {
        let (held, held_now) = watch::channel(Vec::new());
        let (released, released_now) = watch::channel(Vec::new());
        let leases = Leases { held: held_now, released: released_now };
        let executor = Self {
            steps,
            workplace,
            orders,
            held,
            released,
            attempts: BTreeMap::new(),
            ended: mpsc::channel(ATTEMPTS_MAX),
            questions: std::sync::Arc::new(tokio::sync::Semaphore::new(QUESTIONS_MAX)),
            settling: Settling::default(),
            shutdown,
        };
        (executor, leases)
    }

    /// Runs until the shutdown; then stops every attempt and waits for their tasks.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(token) = self.ended.1.recv() => self.forget(token),
                order = self.orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => break,
                },
            }
        }
        for attempt in self.attempts.values() {
            attempt.lease.end(LeaseEnd::Shutdown, "the agent is shutting down");
        }
        // Each is given back only once all its tasks have ended: another agent may take it from then on.
        while let Some((_, mut attempt)) = self.attempts.pop_first() {
            wait_over(&mut attempt.over).await;
            if attempt.lease.ended() == Some(LeaseEnd::Shutdown) {
                self.released.send_modify(|released| released.push(attempt.lease));
            }
            self.publish();
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Grant(grant) => self.begin(*grant).await,
            Order::Finish { token } => self.finish(token),
            Order::Revoke { token, reason } => self.end(token, LeaseEnd::Lost, &reason),
            Order::Serve(order) => self.workplace.endpoint.serve(order),
            Order::RevokedHosts { hosts } => {
                for (host, generation) in hosts {
                    self.workplace.endpoint.revoke(host, generation);
                }
            }
            Order::PeerSeen { token, news } => {
                if let Some(attempt) = self.attempts.get(&token) {
                    attempt.lease.hear_of_peer(news);
                }
            }
            Order::Paced { token, pace } => {
                if let Some(attempt) = self.attempts.get(&token) {
                    attempt.lease.paced(pace);
                }
            }
            Order::Question { session, number, question } => self.ask(session, number, question),
        }
    }

    fn end(&self, token: FencingToken, end: LeaseEnd, reason: &str) {
        if let Some(attempt) = self.attempts.get(&token) {
            tracing::info!(fence = %token, reason, "lease ended");
            attempt.lease.end(end, reason);
        }
        self.publish();
    }

    /// Asks a continuous step to come to its end; to any other it says that it was cancelled.
    fn finish(&self, token: FencingToken) {
        match self.attempts.get(&token) {
            Some(attempt) if attempt.is_continuous => attempt.lease.ask_to_finish(),
            Some(_) | None => self.end(token, LeaseEnd::Cancelled, "it was cancelled"),
        }
    }

    async fn begin(&mut self, grant: Grant) {
        let token = grant.lease.token();
        if self.attempts.contains_key(&token) {
            return;
        }
        let known = registry::find(self.steps, &grant.kind)
            .and_then(|step| Ok((step, step.subject(&grant.params)?)))
            .and_then(|known| self.has_room().map(|()| known));
        let (step, subject) = match known {
            Ok(known) => known,
            Err(failure) => return self.refuse(&grant, failure).await,
        };
        let before = self.displace(&subject, &grant);
        let Some(before) = before else {
            tracing::info!(fence = %token, subject, "a grant came after a later one");
            return;
        };
        let (over_here, over) = watch::channel(());
        let is_continuous = step.descriptor().is_continuous && !grant.is_undo;
        self.attempts.insert(token, Attempt { lease: grant.lease.clone(), subject, is_continuous, over });
        self.publish();
        let (workplace, ended) = (self.workplace.clone(), self.ended.0.clone());
        self.shutdown.spawn(async move {
            for mut over in before {
                wait_over(&mut over).await;
            }
            let tasks = Shutdown::new();
            let ran = tasks.spawn(attempt(workplace, tasks.clone(), step, grant)).await;
            if let Err(error) = ran {
                // The lease goes with the attempt and runs out, so the coordinator grants the step again.
                tracing::error!(%error, fence = %token, "an attempt was dropped");
            }
            tasks.finish().await;
            drop(over_here);
            // The executor that is gone has no list to strike this from.
            ended.send(token).await.ok();
        });
    }

    /// Stops the earlier attempts on a subject and returns what to wait for; none when a later one is there.
    ///
    /// A continuous step is followed by a later one of its migration, which is what asks it to come to its end.
    fn displace(&self, subject: &str, later: &Grant) -> Option<Vec<watch::Receiver<()>>> {
        let on_subject = || self.attempts.values().filter(|attempt| attempt.subject == subject);
        if on_subject().any(|attempt| attempt.lease.token() > later.lease.token()) {
            return None;
        }
        for attempt in on_subject() {
            let is_followed = attempt.is_continuous
                && !later.is_undo
                && attempt.lease.migration() == later.lease.migration()
                && attempt.lease.step() != later.lease.step();
            match is_followed {
                true => attempt.lease.ask_to_finish(),
                false => attempt.lease.end(LeaseEnd::Lost, "a later attempt took its place"),
            }
        }
        Some(on_subject().map(|attempt| attempt.over.clone()).collect())
    }

    fn has_room(&self) -> Result<(), Failure> {
        if self.attempts.len() < ATTEMPTS_MAX {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Throttled, format!("this agent runs {ATTEMPTS_MAX} steps already")))
    }

    /// Answers a grant that cannot be begun. A disk that refuses leaves the lease to run out.
    async fn refuse(&self, grant: &Grant, failure: Failure) {
        tracing::warn!(%failure, step = %grant.lease.step(), "grant refused");
        let record = OutboxRecord {
            migration: grant.lease.migration().clone(),
            step: grant.lease.step().clone(),
            token: grant.lease.token(),
            event: end_of(&Err(failure)),
        };
        if let Err(error) = self.workplace.outbox.append(record).await {
            tracing::error!(error = %common::failure::chain(&error), "a refusal was not kept");
        }
    }

    fn forget(&mut self, token: FencingToken) {
        self.attempts.remove(&token);
        self.publish();
    }

    /// Tells the session under which leases work is done.
    fn publish(&self) {
        self.held.send_replace(self.attempts.values().map(|attempt| attempt.lease.clone()).collect());
    }

    fn ask(&self, session: u64, number: u64, question: super::order::Question) {
        let Ok(permit) = std::sync::Arc::clone(&self.questions).try_acquire_owned() else {
            let failure = Failure::new(FailureKind::Throttled, "this agent answers enough questions already");
            let answer = Answer::Failure(failure.hint("try again in a moment"));
            // A session that takes no reports has no use for this one.
            self.workplace.reports.try_send(Report::Answer { session, number, answer }).ok();
            return;
        };
        let (state_dir, reports) = (self.workplace.state_dir.clone(), self.workplace.reports.clone());
        let (stop, settling) = (self.shutdown.clone(), self.settling.clone());
        self.shutdown.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = question::answer(&state_dir, &settling, session, number, question, reports) => {}
            }
            drop(permit);
        });
    }
}

/// Waits until the sender of this channel is gone.
async fn wait_over(over: &mut watch::Receiver<()>) {
    while over.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use common::clock;
    use common::step::StepDescriptor;
    use common::step::file;
    use transfer::{Endpoint, EndpointSettings, StepContext};

    use super::*;
    use crate::journal::{Journal, OutboxEvent};
    use crate::link::fixture::{Authority, FakeCoordinator, Joined, joined};
    use crate::link::outbox::Outbox;
    use crate::step::StepFuture;

    /// A step that does what its parameters say, and writes down when it began and ended.
    #[derive(Default)]
    struct Obedient {
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Step for Obedient {
        fn descriptor(&self) -> &'static StepDescriptor {
            &file::COPY
        }

        fn subject(&self, params: &str) -> Result<String, Failure> {
            Ok(params.split(' ').nth(1).unwrap_or_default().to_owned())
        }

        fn run(&self, context: StepContext, _endpoint: Endpoint, params: String) -> StepFuture {
            let log = Arc::clone(&self.log);
            let write = move |what: &str| log.lock().unwrap().push(format!("{what} {}", context.token.index));
            Box::pin(async move {
                write("began");
                match params.split(' ').next() {
                    Some("panic") => panic!("as asked"),
                    Some("wait") => context.lease.stop().cancelled().await,
                    Some(_) | None => {}
                }
                write("ended");
                context.lease.check().map(|()| "\"done\"".to_owned())
            })
        }

        fn undo(&self, _context: StepContext, _params: String) -> StepFuture {
            Box::pin(async { Ok("\"undone\"".to_owned()) })
        }
    }

    struct Bench {
        orders: mpsc::Sender<Order>,
        held: watch::Receiver<Vec<HeldLease>>,
        released: watch::Receiver<Vec<HeldLease>>,
        outbox: Outbox,
        journal: Journal,
        step: &'static Obedient,
        shutdown: Shutdown,
        before: u64,
        _host: Joined,
    }

    async fn bench() -> Bench {
        let authority = Authority::new();
        let host = joined(&authority, &FakeCoordinator::start(&authority).await);
        let journal = Journal::open(host.directory.path()).unwrap();
        let outbox = Outbox::open(journal.clone()).unwrap();
        let shutdown = Shutdown::new();
        let settings = EndpointSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            identity: Arc::clone(&host.identity),
            authority: authority.certificate(),
            state_dir: host.directory.path().to_owned(),
            clock_ahead_ms: watch::channel(0).1,
            incarnation: 1,
            reset_key: transfer::ResetKey::new([7; 32]),
            secrets: transfer::Secrets::none(),
            segmentation_offload: true,
            patience: transfer::Patience::default(),
        };
        let workplace = Workplace {
            journal: journal.clone(),
            outbox: outbox.clone(),
            reports: mpsc::channel(8).0,
            endpoint: Endpoint::open(settings, &shutdown).unwrap(),
            state_dir: host.directory.path().to_owned(),
        };
        let step: &'static Obedient = Box::leak(Box::default());
        let steps: &'static [&'static dyn Step] = Box::leak(Box::new([step as &dyn Step]));
        let (orders, orders_taken) = mpsc::channel(8);
        let (executor, Leases { held, released }) =
            Executor::new(steps, workplace, orders_taken, shutdown.clone());
        shutdown.spawn(executor.run());
        let before = outbox.acknowledged();
        Bench { orders, held, released, outbox, journal, step, shutdown, before, _host: host }
    }

    impl Bench {
        /// Gives a grant whose lease is alive, and returns the lease.
        async fn grant(&self, index: u64, params: &str) -> HeldLease {
            let grant = grant(index, params);
            let lease = grant.lease.clone();
            self.give(grant).await;
            lease
        }

        async fn give(&self, grant: Grant) {
            grant.lease.renewed(clock::boot(), Vec::new(), crate::link::lease::Pace::default());
            self.orders.send(Order::Grant(Box::new(grant))).await.unwrap();
        }

        /// Waits for the event of this number, counted from one, and returns it.
        async fn event(&self, number: u64) -> OutboxRecord {
            let wanted = self.before + number;
            self.outbox.durable().wait_for(|durable| *durable >= wanted).await.unwrap();
            self.outbox.after(wanted - 1).unwrap().remove(0).1
        }

        /// Waits until no lease is held.
        async fn idle(&mut self) {
            self.held.wait_for(Vec::is_empty).await.unwrap();
        }

        fn log(&self) -> Vec<String> {
            self.step.log.lock().unwrap().clone()
        }

        async fn logged(&self, line: &str) {
            while !self.log().iter().any(|logged| logged == line) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn grant(index: u64, params: &str) -> Grant {
        let token = FencingToken { epoch: 1, index };
        let (migration, step) = ("m1".parse().unwrap(), "file.copy-1".parse().unwrap());
        Grant {
            lease: HeldLease::new(migration, step, token, Vec::new(), clock::boot()),
            kind: "file.copy@1".to_owned(),
            attempt: 1,
            is_undo: false,
            params: params.to_owned(),
            inputs: BTreeMap::new(),
            peer: None,
        }
    }

    fn failure(record: &OutboxRecord) -> Failure {
        match &record.event {
            OutboxEvent::Failed(document) => serde_json::from_str(document).unwrap(),
            other => panic!("{other:?} is no failure"),
        }
    }

    #[tokio::test]
    async fn a_grant_runs_once_and_its_output_is_told() {
        let mut bench = bench().await;
        let first = grant(7, "go /a");
        bench.give(first.clone()).await;
        bench.give(first).await;
        assert_eq!(bench.event(1).await.event, OutboxEvent::Succeeded("\"done\"".to_owned()));
        bench.idle().await;
        assert_eq!(bench.log(), ["began 7", "ended 7"]);
        assert_eq!(bench.journal.take_interrupted().unwrap(), []);
        bench.give(Grant { is_undo: true, ..grant(8, "go /a") }).await;
        assert_eq!(bench.event(2).await.event, OutboxEvent::Succeeded("\"undone\"".to_owned()));
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn a_panic_fails_the_step_and_nothing_else() {
        let bench = bench().await;
        bench.grant(7, "panic /a").await;
        let failed = failure(&bench.event(1).await);
        assert_eq!(failed.kind, FailureKind::Bug);
        assert!(failed.message.contains("as asked"), "{}", failed.message);
        bench.grant(8, "go /a").await;
        assert!(bench.event(2).await.event.is_end());
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn a_later_attempt_begins_when_the_one_before_has_ended() {
        let bench = bench().await;
        bench.grant(7, "wait /a").await;
        bench.logged("began 7").await;
        bench.grant(6, "go /a").await;
        bench.grant(9, "go /a").await;
        let told = bench.event(1).await;
        assert_eq!(told.token.index, 9);
        assert_eq!(bench.log(), ["began 7", "ended 7", "began 9", "ended 9"]);
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn different_subjects_run_side_by_side() {
        let bench = bench().await;
        bench.grant(7, "wait /a").await;
        bench.grant(8, "go /b").await;
        assert_eq!(bench.event(1).await.token.index, 8);
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn a_revoked_step_stops_without_a_word_and_a_cancelled_one_says_so() {
        let mut bench = bench().await;
        let lease = bench.grant(7, "wait /a").await;
        bench.logged("began 7").await;
        bench
            .orders
            .send(Order::Revoke { token: lease.token(), reason: "expired".to_owned() })
            .await
            .unwrap();
        bench.logged("ended 7").await;
        bench.idle().await;
        let lease = bench.grant(8, "wait /a").await;
        bench.logged("began 8").await;
        bench.orders.send(Order::Finish { token: lease.token() }).await.unwrap();
        let told = bench.event(1).await;
        assert_eq!((told.token.index, failure(&told).kind), (8, FailureKind::Cancelled));
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn an_unknown_kind_is_refused() {
        let bench = bench().await;
        bench.give(Grant { kind: "file.copy@9".to_owned(), ..grant(7, "go /a") }).await;
        assert_eq!(failure(&bench.event(1).await).kind, FailureKind::Unsupported);
        bench.shutdown.finish().await;
    }

    #[tokio::test]
    async fn the_shutdown_stops_steps_and_leaves_them_for_the_next_start() {
        let mut bench = bench().await;
        bench.grant(7, "wait /a").await;
        bench.logged("began 7").await;
        bench.shutdown.finish().await;
        assert!(bench.held.borrow_and_update().is_empty());
        assert_eq!(bench.log(), ["began 7", "ended 7"]);
        assert!(bench.outbox.is_empty());
        let released: Vec<u64> = bench.released.borrow().iter().map(|lease| lease.token().index).collect();
        assert_eq!(released, [7]);
    }

    #[tokio::test]
    async fn what_the_coordinator_took_or_the_step_ended_is_not_given_back() {
        let bench = bench().await;
        let lost = bench.grant(7, "wait /a").await;
        bench.grant(8, "go /b").await;
        bench.event(1).await;
        lost.end(LeaseEnd::Lost, "revoked");
        bench.shutdown.finish().await;
        assert!(bench.released.borrow().is_empty());
    }
}
