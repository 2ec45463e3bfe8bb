//! Anchors: the signed head, kept where the coordinators cannot change it any more.
//!
//! The leader writes one every few minutes if lines were written since: it appends to a file on its machine, posts to
//! a webhook, or both. A target that fails is tried again with growing pauses, always with the newest head.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::audit::head::Head;
use common::backoff::Backoff;
use common::failure::{Failure, FailureKind};

use super::exchange::blocking;
use super::verify::signed_head;
use super::webhook;
use crate::hub::Hub;

/// How often a node looks whether it leads.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The first pause after a target failed.
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest pause after a target failed.
const RETRY_MAX: Duration = Duration::from_secs(120);

/// Where anchors go.
#[derive(Clone, Copy, Debug)]
enum Target {
    File,
    Webhook,
}

/// Anchors until the shutdown, each target by itself.
pub async fn run(hub: Arc<Hub>) {
    let settings = &hub.audit.settings;
    tokio::join!(
        anchor(&hub, Target::File, settings.anchor_file.is_some()),
        anchor(&hub, Target::Webhook, settings.anchor_webhook.is_some())
    );
}

async fn anchor(hub: &Arc<Hub>, target: Target, is_wanted: bool) {
    if !is_wanted {
        return;
    }
    let interval = Duration::from_secs(u64::from(hub.audit.settings.anchor_minutes) * 60);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut anchored = 0;
    loop {
        let pause = match due(hub, anchored) {
            None => LOOK_INTERVAL,
            Some((sequence, head)) => match put(hub, target, sequence, head).await {
                Ok(()) => {
                    anchored = sequence;
                    backoff.reset();
                    interval
                }
                Err(failure) => {
                    tracing::warn!(%failure, ?target, "the audit could not be anchored");
                    backoff.next_delay(jitter())
                }
            },
        };
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns what to anchor; none when this node does not lead or nothing was written since.
fn due(hub: &Hub, anchored: u64) -> Option<(u64, common::digest::Digest)> {
    let state = hub.state();
    let audit = state.audit();
    (hub.is_leader() && audit.count() > anchored).then(|| (audit.count(), audit.head()))
}

async fn put(
    hub: &Arc<Hub>,
    target: Target,
    sequence: u64,
    head: common::digest::Digest,
) -> Result<(), Failure> {
    let head: Head = signed_head(hub, None, (sequence, head))?;
    let text = serde_json::to_string(&head).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let settings = &hub.audit.settings;
    match target {
        Target::File => {
            let Some(path) = settings.anchor_file.clone() else { return Ok(()) };
            let shown = path.display().to_string();
            let appended = blocking(move || append(&path, &text)).await?;
            appended.map_err(|error| Failure::of(FailureKind::Exhausted, &error).context("file", shown))
        }
        Target::Webhook => {
            let Some(url) = settings.anchor_webhook.clone() else { return Ok(()) };
            webhook::post(&url, settings.anchor_webhook_ca.as_deref(), text).await
        }
    }
}

/// Appends a line and syncs it.
fn append(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.sync_all()
}

/// Draws the jitter of a pause; without randomness the pause is as long as it can be.
fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0)
}
