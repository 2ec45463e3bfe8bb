//! Keeps this node's pages: every page of the state stands in a file here, sooner or later.
//!
//! Runs on every node by itself. A page whose lines are in the state is written from there; another one is fetched
//! from a node that has it, and believed by its hash only. A file that is there is left alone, whatever it holds.

use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::exchange::{self, DEADLINE, Question, blocking};
use super::pages::{PAGE_BYTES_MAX, claim, is_page, render};
use crate::hub::Hub;
use crate::state::audit::Page;
use crate::state::effect::Effect;

/// How often the directory is looked at when nothing woke the keeper.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps pages until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    let mut effects = hub.proposer.effects();
    let mut told = None;
    loop {
        let kept = keep(&hub).await.err();
        // A disk that stays full is told once, and again when something else stands against it.
        if let Some(failure) = kept.as_ref().filter(|failure| told.as_ref() != Some(&failure.message)) {
            tracing::warn!(%failure, "a page of the audit could not be stored here");
        }
        told = kept.map(|failure| failure.message);
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = woken(&mut effects) => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Waits until the pages may have changed.
async fn woken(effects: &mut Receiver<Effect>) {
    loop {
        match effects.recv().await {
            Ok(Effect::AuditChanged | Effect::NodesChanged) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Stores every page that is not here.
///
/// # Errors
/// With the last page that could not be stored; the others are.
async fn keep(hub: &Arc<Hub>) -> Result<(), Failure> {
    if hub.state().audit().pages_len() == 0 {
        return Ok(());
    }
    let files = hub.audit.files.clone();
    let held = blocking(move || files.list()).await?.map_err(|error| full(hub, &error))?;
    let missing: Vec<Page> =
        hub.state().audit().pages().filter(|page| !held.contains(&page.first)).cloned().collect();
    let mut kept = Ok(());
    for page in missing {
        if hub.shutdown.is_cancelled() {
            break;
        }
        if let Err(failure) = store(hub, &page).await {
            kept = Err(failure);
        }
    }
    kept
}

async fn store(hub: &Arc<Hub>, page: &Page) -> Result<(), Failure> {
    let state = hub.state();
    let content = if state.audit().holds(page) {
        render(&state, page).map_err(|error| Failure::of(FailureKind::Bug, &error))?.into_bytes()
    } else {
        fetch(hub, page).await?
    };
    let (files, first) = (hub.audit.files.clone(), page.first);
    blocking(move || files.write(first, &content)).await?.map_err(|error| full(hub, &error))?;
    tracing::debug!(first = page.first, last = page.last, "a page of the audit is stored");
    Ok(())
}

/// Gets a page from a node that has it.
async fn fetch(hub: &Hub, page: &Page) -> Result<Vec<u8>, Failure> {
    let claim = claim(&hub.state(), page);
    let mut last = Failure::new(FailureKind::NotFound, "no other coordinator has it");
    for peer in exchange::peers(hub) {
        let fetched = async {
            let mut content = Vec::new();
            loop {
                let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
                let question = Question::Piece { first: page.first, offset };
                let piece: Vec<u8> = exchange::ask(hub, &peer, DEADLINE, &question).await?;
                if piece.is_empty() || offset > PAGE_BYTES_MAX {
                    return Ok(content);
                }
                content.extend(piece);
            }
        };
        match fetched.await {
            Ok(content) if is_page(&claim, content.as_slice()) => return Ok(content),
            Ok(_) => {
                let message = format!("the page of line {} on `{}` is damaged", page.first, peer.name);
                last = Failure::new(FailureKind::Corrupt, message);
            }
            Err(failure) => last = failure,
        }
    }
    Err(last.hint("see `ctl audit verify`"))
}

fn full(hub: &Hub, error: &std::io::Error) -> Failure {
    let directory = hub.audit.files.path(0);
    let directory = directory.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    Failure::of(FailureKind::Exhausted, error).context("directory", directory).hint("make room there")
}
