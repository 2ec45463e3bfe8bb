//! Turns pages over: what the leader does so that the audit in the state stays small.
//!
//! A page is closed as soon as it is full. The oldest one leaves once more lines are in the state than are kept, and a
//! quorum, this node included or not, has reported its file by hash.

use std::sync::Arc;
use std::time::Duration;

use common::failure::Failure;
use common::id::NodeName;

use super::exchange::{self, DEADLINE, Question};
use crate::hub::Hub;
use crate::state::Command;
use crate::state::audit::{Command as AuditCommand, Page};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pages that are closed in one look, so that a burst is worked off and nothing else waits long.
const PAGES_PER_LOOK: usize = 32;

/// Turns pages over while this node leads, until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if hub.is_leader()
            && let Err(failure) = turn(&hub).await
        {
            tracing::debug!(%failure, "pages of the audit are turned over later");
        }
    }
}

/// Closes what is full, and lets leave what a quorum has.
async fn turn(hub: &Hub) -> Result<(), Failure> {
    let settings = &hub.audit.settings;
    for _ in 0..PAGES_PER_LOOK {
        let state = hub.state();
        let last = state.audit().first_open() + settings.page_lines - 1;
        if last > state.audit().count() {
            break;
        }
        propose(hub, AuditCommand::Close { last }).await?;
    }
    for _ in 0..PAGES_PER_LOOK {
        let state = hub.state();
        let audit = state.audit();
        let Some(page) = audit.pages().find(|page| audit.holds(page)).cloned() else { break };
        let length = usize::try_from(page.last + 1 - page.first).unwrap_or(usize::MAX);
        if audit.lines_len().saturating_sub(length) < settings.lines_kept {
            break;
        }
        let Some(nodes) = quorum_with(hub, &page).await else { break };
        propose(hub, AuditCommand::Leave { first: page.first, head: page.head, nodes }).await?;
    }
    Ok(())
}

async fn propose(hub: &Hub, command: AuditCommand) -> Result<(), Failure> {
    hub.propose(hub.principal(), Command::AuditLog(command)).await.map(|_| ())
}

/// Returns a quorum of voters whose files hold a page; none when there is none.
async fn quorum_with(hub: &Hub, page: &Page) -> Option<Vec<NodeName>> {
    let members = hub.raft.member_views();
    let voters: Vec<_> = members.iter().filter(|member| member.role != "learner").collect();
    let asked = vec![(page.first, page.head)];
    let mut holders = Vec::new();
    for voter in &voters {
        let held: Result<Vec<u64>, Failure> = if voter.name == hub.name {
            exchange::held(hub, asked.clone()).await
        } else {
            exchange::ask(hub, voter, DEADLINE, &Question::Held(asked.clone())).await
        };
        if held.is_ok_and(|held| held.contains(&page.first)) {
            holders.push(voter.name.clone());
        }
        if holders.len() > voters.len() / 2 {
            return Some(holders);
        }
    }
    tracing::debug!(first = page.first, holders = holders.len(), "too few have stored a page of the audit");
    None
}
