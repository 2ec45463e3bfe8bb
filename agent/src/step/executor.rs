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
use super::{Step, question, registry};
use crate::journal::OutboxRecord;
use crate::link::lease::{HeldLease, LeaseEnd};
use crate::link::outbox::end_of;

/// Orders that wait; the executor takes them as fast as they come.
pub const ORDERS_MAX: usize = 64;
/// Attempts at once. The coordinator's limits per host are far below; this is against its mistakes.
const ATTEMPTS_MAX: usize = 256;
/// Questions that are answered at once; each may hold a file or read a directory.
const QUESTIONS_MAX: usize = 8;

/// The executor.
#[derive(Debug)]
pub struct Executor {
    steps: &'static [&'static dyn Step],
    workplace: Workplace,
    orders: mpsc::Receiver<Order>,
    held: watch::Sender<Vec<HeldLease>>,
    attempts: BTreeMap<FencingToken, Attempt>,
    ended: (mpsc::Sender<FencingToken>, mpsc::Receiver<FencingToken>),
    questions: std::sync::Arc<tokio::sync::Semaphore>,
    shutdown: Shutdown,
}

/// An attempt that has not ended.
#[derive(Debug)]
struct Attempt {
    lease: HeldLease,
    subject: String,
    /// Closed when all its tasks have ended.
    over: watch::Receiver<()>,
}

impl std::fmt::Debug for dyn Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.descriptor().kind.as_str())
    }
}

impl Executor {
    /// Makes an executor of these kinds; returns also the leases that it holds, for the session.
    pub fn new(
        steps: &'static [&'static dyn Step],
        workplace: Workplace,
        orders: mpsc::Receiver<Order>,
        shutdown: Shutdown,
    ) -> (Self, watch::Receiver<Vec<HeldLease>>) {
        let (held, leases) = watch::channel(Vec::new());
        let executor = Self {
            steps,
            workplace,
            orders,
            held,
            attempts: BTreeMap::new(),
            ended: mpsc::channel(ATTEMPTS_MAX),
            questions: std::sync::Arc::new(tokio::sync::Semaphore::new(QUESTIONS_MAX)),
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
        for attempt in self.attempts.values_mut() {
            wait_over(&mut attempt.over).await;
        }
        self.publish();
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Grant(grant) => self.begin(*grant).await,
            Order::Finish { token } => self.end(token, LeaseEnd::Cancelled, "it was cancelled"),
            Order::Revoke { token, reason } => self.end(token, LeaseEnd::Lost, &reason),
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
        let before = self.displace(&subject, token);
        let Some(before) = before else {
            tracing::info!(fence = %token, subject, "a grant came after a later one");
            return;
        };
        let (over_here, over) = watch::channel(());
        self.attempts.insert(token, Attempt { lease: grant.lease.clone(), subject, over });
        self.publish();
        let (workplace, ended) = (self.workplace.clone(), self.ended.0.clone());
        self.shutdown.spawn(async move {
            for mut over in before {
                wait_over(&mut over).await;
            }
            let tasks = Shutdown::new();
            attempt(workplace, tasks.clone(), step, grant).await;
            tasks.finish().await;
            drop(over_here);
            // The executor that is gone has no list to strike this from.
            ended.send(token).await.ok();
        });
    }

    /// Stops the earlier attempts on a subject and returns what to wait for; none when a later one is there.
    fn displace(&self, subject: &str, token: FencingToken) -> Option<Vec<watch::Receiver<()>>> {
        let on_subject = || self.attempts.values().filter(|attempt| attempt.subject == subject);
        if on_subject().any(|attempt| attempt.lease.token() > token) {
            return None;
        }
        for attempt in on_subject() {
            attempt.lease.end(LeaseEnd::Lost, "a later attempt took its place");
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
        let stop = self.shutdown.clone();
        self.shutdown.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = question::answer(&state_dir, session, number, question, reports) => {}
            }
            drop(permit);
        });
    }
}

/// Waits until the sender of this channel is gone.
async fn wait_over(over: &mut watch::Receiver<()>) {
    while over.changed().await.is_ok() {}
}
