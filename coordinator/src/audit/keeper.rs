//! Keeps this node's pages: every page that was ever closed stands in a file here, sooner or later.
//!
//! Runs on every node by itself. A page whose lines are in the state is written from there; another one is fetched
//! from a node that has it, and believed by its hash only: that of the state, or for an older one that which the page
//! behind it follows. A file that is there is left alone, whatever it holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::audit::file::{PageClaim, header_of, page_name};
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::view::MemberView;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::exchange::{self, DEADLINE, Question, blocking};
use super::pages::{Missing, PAGE_BYTES_MAX, claim, is_page, render};
use crate::hub::Hub;
use crate::state::audit::Page;
use crate::state::effect::Effect;

/// How often the directory is looked at when nothing woke the keeper.
const INTERVAL: Duration = Duration::from_secs(5);

/// The older pages of which none was missing: those that were here, and where they end.
type Whole = (BTreeSet<u64>, (u64, Digest));

/// Keeps pages until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    let mut effects = hub.proposer.effects();
    let (mut told, mut whole) = (None, None);
    loop {
        let kept = keep(&hub, &mut whole).await.err();
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
async fn keep(hub: &Arc<Hub>, whole: &mut Option<Whole>) -> Result<(), Failure> {
    if hub.state().audit().pages_len() == 0 {
        return Ok(());
    }
    let held = list(hub).await?;
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
    let now = (list(hub).await?, hub.state().audit().edge());
    if whole.as_ref() != Some(&now) {
        keep_older(hub, now.1).await?;
        *whole = Some((list(hub).await?, now.1));
    }
    kept
}

async fn list(hub: &Hub) -> Result<BTreeSet<u64>, Failure> {
    let files = hub.audit.files.clone();
    blocking(move || files.list()).await?.map_err(|error| full(hub, &error))
}

/// Stores every older page that is not here, from the newest on: each tells in which hash the one before it ends.
async fn keep_older(hub: &Arc<Hub>, mut end: (u64, Digest)) -> Result<(), Failure> {
    while !hub.shutdown.is_cancelled() {
        let (files, cluster) = (hub.audit.files.clone(), hub.state().cluster().id.clone());
        let found = blocking(move || Ok(files.older(&cluster, end)?.find_map(Result::err))).await?;
        let Some(missing) = found.map_err(|error| full(hub, &error))? else { return Ok(()) };
        let page = fetch_older(hub, missing).await?;
        end = (page.header.first - 1, page.header.previous);
    }
    Ok(())
}

async fn store(hub: &Arc<Hub>, page: &Page) -> Result<(), Failure> {
    let state = hub.state();
    let content = if state.audit().holds(page) {
        render(&state, page).map_err(|error| Failure::of(FailureKind::Bug, &error))?.into_bytes()
    } else {
        fetch(hub, page).await?
    };
    write(hub, page.first, content).await
}

async fn write(hub: &Arc<Hub>, first: u64, content: Vec<u8>) -> Result<(), Failure> {
    let files = hub.audit.files.clone();
    blocking(move || files.write(first, &content)).await?.map_err(|error| full(hub, &error))?;
    tracing::debug!(first, "a page of the audit is stored");
    Ok(())
}

/// Gets a page from a node that has it.
async fn fetch(hub: &Hub, page: &Page) -> Result<Vec<u8>, Failure> {
    let claim = claim(&hub.state(), page);
    let mut last = Failure::new(FailureKind::NotFound, "no other coordinator has it");
    for peer in exchange::peers(hub) {
        match content_of(hub, &peer, page.first).await {
            Ok(content) if is_page(&claim, content.as_slice()) => return Ok(content),
            Ok(_) => last = damaged(page.first, &peer),
            Err(failure) => last = failure,
        }
    }
    Err(last.hint("see `ctl audit verify`"))
}

/// Gets an older page from a node that has it, and stores it.
async fn fetch_older(hub: &Arc<Hub>, Missing(ends, head): Missing) -> Result<PageClaim, Failure> {
    let mut last = Failure::new(
        FailureKind::NotFound,
        format!("no other coordinator has the page of the audit that ends with line {ends}"),
    );
    for peer in exchange::peers(hub) {
        let fetched = async {
            let first: Option<u64> = exchange::ask(hub, &peer, DEADLINE, &Question::Ending(ends)).await?;
            let absent = || Failure::new(FailureKind::NotFound, format!("`{}` lacks it too", peer.name));
            let first = first.ok_or_else(absent)?;
            Ok((first, content_of(hub, &peer, first).await?))
        };
        let (first, content) = match fetched.await {
            Ok(fetched) => fetched,
            Err(failure) => {
                last = failure;
                continue;
            }
        };
        let header = header_of(&mut content.as_slice()).ok().flatten();
        let is_named = |claim: &PageClaim| claim.header.first == first && first > 0 && ends >= first;
        let claim = header.map(|header| PageClaim { header, last: ends, head }).filter(is_named);
        let Some(claim) = claim.filter(|claim| is_page(claim, content.as_slice())) else {
            last = damaged(first, &peer);
            continue;
        };
        write(hub, first, content).await?;
        return Ok(claim);
    }
    Err(last.hint("see `ctl audit verify`"))
}

fn damaged(first: u64, peer: &MemberView) -> Failure {
    Failure::new(FailureKind::Corrupt, format!("{} on `{}` is damaged", page_name(first), peer.name))
}

/// Gets what stands in another node's file of a page.
async fn content_of(hub: &Hub, peer: &MemberView, first: u64) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    loop {
        let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let question = Question::Piece { first, offset };
        let piece: Vec<u8> = exchange::ask(hub, peer, DEADLINE, &question).await?;
        if piece.is_empty() || offset > PAGE_BYTES_MAX {
            return Ok(content);
        }
        content.extend(piece);
    }
}

fn full(hub: &Hub, error: &std::io::Error) -> Failure {
    let directory = hub.audit.files.path(0);
    let directory = directory.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    Failure::of(FailureKind::Exhausted, error).context("directory", directory).hint("make room there")
}
