//! The end of ways back: when their window is over, and the removal of the stage at the destination.
//!
//! Removing a stage of a million entries takes a while, so each migration has a task of its own for it, and at most one.

use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::limit::{SETTLE_DEADLINE, SETTLE_MARGIN};
use common::step::file::SettleQuestion;
use proto::v1::question::Question;

use crate::hub::Hub;
use crate::live::grant;
use crate::state::Command;
use crate::state::migration::{Act, Command as MigrationCommand, Migration, WayBack};

/// How long an agent that is away is asked again before those who wait for the end hear of it.
const AWAY_DEADLINE: Duration = Duration::from_secs(120);
/// The pause before an agent that is away is asked again.
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// Stages that are removed beside each other; each is one question to one agent.
const SETTLING_MAX: usize = 32;

/// What a way back needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Its window is over.
    End,
    /// The destination's agent is to remove it, under this token.
    Removal(FencingToken),
}

/// Returns what the way back of a migration needs now.
pub fn need(migration: &Migration, now: WallMs) -> Option<Need> {
    match migration.way_back {
        WayBack::Open(Some(until)) if migration.status.is_end() && now >= until => Some(Need::End),
        WayBack::Settling(token) => Some(Need::Removal(token)),
        WayBack::Open(_) | WayBack::Ended => None,
    }
}

/// Ends the ways back whose window is over, and has those that are ending removed.
pub fn reconcile(hub: &Arc<Hub>) {
    let now = clock::wall();
    let state = hub.state();
    for migration in state.migrations().holding() {
        let Some(need) = need(migration, now) else { continue };
        let key = (migration.tenant.clone(), migration.id.clone());
        let is_free = |count| count < SETTLING_MAX;
        if !hub.settling.enter(key.clone(), is_free) {
            continue;
        }
        let (hub, migration) = (Arc::clone(hub), Arc::clone(migration));
        let tasks = hub.shutdown.clone();
        tasks.spawn(async move {
            let done = match need {
                Need::End => act(&hub, &migration, Act::Settle).await,
                Need::Removal(token) => settle(&hub, &migration, token).await,
            };
            if let Err(failure) = done {
                tracing::debug!(migration = %migration.id, %failure, "settling goes on later");
            }
            hub.settling.leave(&key);
        });
    }
}

/// Asks the destination's agent to remove the stage, and tells the state how that went.
async fn settle(hub: &Hub, migration: &Migration, token: FencingToken) -> Result<(), Failure> {
    let Some(planned) = migration.plan.steps.iter().find(|planned| planned.peer.is_some()) else {
        return act(hub, migration, Act::Settled { token }).await;
    };
    let params = grant::params(planned)?;
    let question = SettleQuestion {
        migration: migration.id.clone(),
        destination_root: params.destination_root,
        token,
        backup_dir: params.rules.backup_dir,
    };
    let question = serde_json::to_string(&question).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let deadline = clock::boot().after(AWAY_DEADLINE);
    let asked = loop {
        let question = Question::Settle(question.clone());
        let patience = SETTLE_DEADLINE + SETTLE_MARGIN;
        let asked = hub.sessions.ask(&migration.tenant, &planned.host, question, patience).await;
        // An agent that is away for a moment comes back, and who waits for the end wants a clean tree.
        let is_away = asked.as_ref().is_err_and(|failure| failure.kind == FailureKind::Unreachable);
        if !is_away || migration.status.is_end() || !hub.is_leader() || clock::boot() >= deadline {
            break asked;
        }
        tokio::select! {
            () = hub.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(AWAY_PAUSE) => {}
        }
    };
    match asked {
        Ok(_) => act(hub, migration, Act::Settled { token }).await,
        // Nobody waits for it any more; it is asked for again with the next look.
        Err(failure) if migration.status.is_end() => Err(failure),
        Err(failure) => act(hub, migration, Act::SettleFailed { token, failure }).await,
    }
}

async fn act(hub: &Hub, migration: &Migration, act: Act) -> Result<(), Failure> {
    let (tenant, id) = (migration.tenant.clone(), migration.id.clone());
    let command = MigrationCommand::Act { tenant, migration: id, act };
    hub.propose(hub.principal(), Command::Migration(command)).await.map(|_| ())
}
