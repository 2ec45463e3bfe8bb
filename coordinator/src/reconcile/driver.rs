//! Runs the reconcilers while this node leads, one activation at a time.
//!
//! Each leadership begins with nothing in memory: every lease counts as renewed at that moment. When it ends, sessions
//! are cut, so that agents look for the new leader.

use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::failure::Failure;
use tokio::sync::broadcast::error::RecvError;

use super::{dispatch, expiry, introduce, pace, revocation, settle, timeout};
use crate::hub::Hub;
use crate::raft::proposer::Leadership;
use crate::state::effect::Effect;

/// The timer that finds what no effect told.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often live progress is made durable.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    let mut leadership = hub.proposer.leadership();
    loop {
        let is_leader = leadership.borrow_and_update().is_leader;
        if is_leader {
            hub.lease_clock.begin(clock::boot());
            tracing::info!("this coordinator leads");
            lead(&hub).await;
            end(&hub);
            tracing::info!("this coordinator leads no more");
        }
        if hub.shutdown.is_cancelled() {
            return;
        }
        if hub.is_leader() {
            continue;
        }
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// Forgets what only a leader knows.
fn end(hub: &Hub) {
    hub.sessions.cut_all();
    hub.lease_clock.end();
    hub.progress.clear();
    hub.introductions.clear();
    hub.paces.clear();
}

/// What the driver woke for.
enum Event {
    Effect(Effect),
    Wake,
    Tick,
    Checkpoint,
    End,
}

/// Reconciles until this node leads no more.
async fn lead(hub: &Arc<Hub>) {
    let mut leadership = hub.proposer.leadership();
    let term = leadership.borrow_and_update().term;
    let mut effects = hub.proposer.effects();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut checkpoints = tokio::time::interval(CHECKPOINT_INTERVAL);
    checkpoints.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => Event::End,
            changed = leadership.changed() => match changed {
                // A new term is a new leadership, even if nobody else led in between.
                Ok(()) if is_still(&leadership.borrow_and_update(), term) => continue,
                Ok(()) | Err(_) => Event::End,
            },
            effect = effects.recv() => match effect {
                Ok(effect) => Event::Effect(effect),
                // Missed effects are found by looking at the state.
                Err(RecvError::Lagged(_)) => {
                    revocation::tell_all(hub);
                    Event::Wake
                }
                Err(RecvError::Closed) => Event::End,
            },
            () = hub.wake.notified() => Event::Wake,
            _ = ticks.tick() => Event::Tick,
            _ = checkpoints.tick() => Event::Checkpoint,
        };
        match event {
            Event::End => return,
            Event::Effect(effect) => {
                act(hub, &effect);
                // Those that came with it are taken together, so that a burst is reconciled once.
                while let Ok(effect) = effects.try_recv() {
                    act(hub, &effect);
                }
                dispatch(hub).await;
            }
            Event::Wake => dispatch(hub).await,
            Event::Tick => {
                dispatch(hub).await;
                note(expiry::reconcile(hub).await);
                note(timeout::reconcile(hub).await);
                settle::reconcile(hub);
            }
            Event::Checkpoint => note(expiry::checkpoint(hub).await),
        }
    }
}

/// Grants what is ready, tells how fast it may go, and introduces the agents of what was granted to each other.
async fn dispatch(hub: &Hub) {
    note(dispatch::reconcile(hub).await);
    pace::reconcile(hub);
    note(introduce::reconcile(hub).await);
}

fn is_still(leadership: &Leadership, term: u64) -> bool {
    leadership.is_leader && leadership.term == term
}

/// Does at once what an effect asks for and no look at the state would hurry.
fn act(hub: &Arc<Hub>, effect: &Effect) {
    match effect {
        Effect::LeaseEnded { .. } => dispatch::tell_ended(hub, effect),
        Effect::HostRevoked { tenant, host } => {
            hub.sessions.cut(tenant, host);
            revocation::tell(hub, tenant, host);
        }
        Effect::Settle { .. } => settle::reconcile(hub),
        Effect::MigrationChanged { .. }
        | Effect::HostChanged { .. }
        | Effect::NodesChanged
        | Effect::AuditChanged => {}
    }
}

/// A reconciler that could not propose comes again; that is worth a line for who looks.
fn note(result: Result<(), Failure>) {
    if let Err(failure) = result {
        tracing::debug!(%failure, "a reconciler could not finish");
    }
}
