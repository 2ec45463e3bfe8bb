//! Moving everything that is sealed under another cluster key, while the cluster serves.
//!
//! ```text
//! next key told (sealed under the present one) ─▶ every node keeps it ─▶ asked: has each one? ─▶ used for what is new
//!    ─▶ old heads re-wrapped ─▶ later, on request: old key dropped
//! ```
//!
//! A node keeps the next key in its own file before anything is sealed under it, so any node can be killed or take
//! over the leadership at any moment. Each arrow may be repeated; a rotation that was cut goes on with the next call.
//! Where the keys come from the environment, from systemd or from a keeper, an operator puts the next one there, behind
//! the present one; then it does not travel at all.

use std::sync::Arc;
use std::time::Duration;

use crate::access::actor::Actor;
use crate::audit::exchange::blocking;
use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use common::view::KeyRotationView;

use crate::hub::{AUTHORITY_CONTEXT, Hub};
use crate::membership::SealedAuthority;
use crate::raft::wire::Method;
use crate::state::Command;
use crate::state::secret::{Command as SecretCommand, NextKey, REWRAPS_MAX, Rewrapped};
use crate::vault::envelope::{self, Parts, hex};
use crate::vault::keyring::ClusterKey;
use crate::vault::ring::Keyring;
use crate::vault::sealed_secret::Place;

/// What the next key is sealed for on its way.
const NEXT_KEY_CONTEXT: &str = "drover next cluster key of cluster ";
/// How long all nodes may take to keep the next key.
const NODES_DEADLINE: Duration = Duration::from_secs(8);
/// The pause before they are asked again.
const NODES_PAUSE: Duration = Duration::from_millis(200);
/// Rounds of re-wrapping: what was sealed under the old key while one ran is found by the next.
const ROUNDS_MAX: u32 = 20;

/// Rotates the cluster key, or drops the keys before the present one.
///
/// # Errors
/// When a node lacks the next key, or this one does not lead any more; what was done so far stays.
pub async fn rotate(hub: &Arc<Hub>, principal: Actor, drop_old: bool) -> Result<KeyRotationView, Failure> {
    let Ok(_turn) = hub.rotation.try_lock() else {
        let message = "a rotation of the cluster key is under way on this coordinator";
        return Err(Failure::new(FailureKind::Conflict, message).hint("wait for its end, then ask again"));
    };
    let present = hub.cluster_key()?;
    if drop_old {
        return drop_before(hub, principal, &present).await;
    }
    let next = next_key(hub, &present).await?;
    await_nodes(hub, next.id()).await?;
    use_key(hub, principal, &present, &next).await?;
    let rewrapped = rewrap_all(hub, &next).await?;
    tracing::info!(key = hex(&next.id()), rewrapped, "the cluster key was rotated");
    Ok(KeyRotationView {
        key: hex(&next.id()),
        previous: Some(hex(&present.id())),
        rewrapped,
        is_old_dropped: false,
    })
}

/// Has every node drop the keys before the present one.
async fn drop_before(
    hub: &Arc<Hub>,
    principal: Actor,
    present: &ClusterKey,
) -> Result<KeyRotationView, Failure> {
    let id = present.id();
    let rewrapped = rewrap_all(hub, present).await?;
    await_nodes(hub, id).await?;
    hub.propose(principal, Command::Secret(SecretCommand::DropOldKeys { present: id })).await?;
    // Every node does it by itself; this one does it before it says so.
    ask_sources(hub, move |keyring| keyring.forget_before(id)).await?;
    Ok(KeyRotationView { key: hex(&id), previous: None, rewrapped, is_old_dropped: true })
}

/// Asks the sources of the keys on a thread that may wait: a keeper may take seconds, and a file is written durably.
async fn ask_sources<T: Send + 'static>(
    hub: &Arc<Hub>,
    ask: impl FnOnce(&Keyring) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let hub = Arc::clone(hub);
    blocking(move || ask(&hub.keyring)).await?
}

/// Whether this node has a key by itself.
///
/// # Errors
/// When its source cannot be read.
pub async fn holds(hub: &Arc<Hub>, id: [u8; 8]) -> Result<bool, Failure> {
    ask_sources(hub, move |keyring| keyring.holds(id)).await
}

/// Returns the key to move to: the one under way, the one that an operator prepared, or a new one that is told.
async fn next_key(hub: &Arc<Hub>, present: &ClusterKey) -> Result<ClusterKey, Failure> {
    if let Some(next) = told_key(hub)?.filter(|next| next.id() != present.id()) {
        return Ok(next);
    }
    let id = present.id();
    if let Some(prepared) = ask_sources(hub, move |keyring| keyring.prepared(id)).await? {
        return Ok(prepared);
    }
    // Told before it is kept here: a key that only this node knew would be taken for an operator's by the next call.
    ask_sources(hub, Keyring::check_own).await?;
    let next = ClusterKey::generate()?;
    let context = format!("{NEXT_KEY_CONTEXT}{}", hub.state().cluster().id);
    let envelope = envelope::seal(present, &context, next.expose());
    let envelope = envelope.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let command = SecretCommand::NextKey(NextKey { id: next.id(), envelope });
    hub.propose(hub.principal(), Command::Secret(command)).await?;
    let own = next.clone();
    ask_sources(hub, move |keyring| keyring.add(&own)).await?;
    Ok(next)
}

/// Opens the next key that the state tells of.
fn told_key(hub: &Hub) -> Result<Option<ClusterKey>, Failure> {
    let state = hub.state();
    let Some(told) = state.secrets().next_key() else { return Ok(None) };
    if let Ok(known) = hub.keyring.key(told.id) {
        return Ok(Some(known));
    }
    let invalid = |error: envelope::EnvelopeError| Failure::of(FailureKind::Invalid, &error);
    let parts = Parts::of(&told.envelope).map_err(invalid)?;
    let sealed_under = hub.keyring.key(parts.key_id().map_err(invalid)?)?;
    let context = format!("{NEXT_KEY_CONTEXT}{}", state.cluster().id);
    let opened = parts.open(&sealed_under, &context).map_err(invalid)?;
    let bytes = opened.expose().as_slice().try_into();
    Ok(Some(ClusterKey::new(bytes.map_err(|error| Failure::of(FailureKind::Invalid, &error))?)))
}

/// Waits until every other node says that it has the key by itself.
async fn await_nodes(hub: &Arc<Hub>, id: [u8; 8]) -> Result<(), Failure> {
    let deadline = clock::boot().after(NODES_DEADLINE);
    let is_told = hub.state().secrets().next_key().is_some_and(|told| told.id == id);
    let lacking = |name: &NodeName| lacking(name, is_told);
    if !holds(hub, id).await? {
        return Err(lacking(&hub.name));
    }
    let others: Vec<_> =
        hub.raft.member_views().into_iter().filter(|member| member.name != hub.name).collect();
    for member in others {
        loop {
            let asked = hub.peers.0.call(&member.raft_address, Method::HoldsKey, id.to_vec()).await;
            match asked {
                Ok(answer) if answer == [1] => break,
                Ok(_) | Err(_) if clock::boot() < deadline => tokio::time::sleep(NODES_PAUSE).await,
                Ok(_) => return Err(lacking(&member.name)),
                Err(failure) => return Err(failure.context("node", member.name.to_string())),
            }
        }
    }
    Ok(())
}

/// Checks that a node that asks to become a member holds the present key. One that joined, and was then away while the
/// key was rotated and the old one dropped, would have a vote and serve nothing.
///
/// # Errors
/// When it does not, or cannot be asked.
pub async fn check_newcomer(hub: &Hub, address: &str) -> Result<(), Failure> {
    let id = hub.cluster_key()?.id();
    if hub.peers.0.call(address, Method::HoldsKey, id.to_vec()).await? == [1] {
        return Ok(());
    }
    let message = "this node lacks the present cluster key, which was rotated since it joined";
    Err(Failure::new(FailureKind::Conflict, message).hint(
        "copy the cluster key of another coordinator to where this one has its own; then it becomes a member by itself",
    ))
}

fn lacking(node: &NodeName, is_told: bool) -> Failure {
    let message = format!("the node `{node}` does not have the cluster key that all nodes must have by now");
    Failure::new(FailureKind::Conflict, message).hint(if is_told {
        "its log says why it could not keep it: its key may come from the environment, systemd or a keeper, where only you can put it; then ask again"
    } else {
        "put the key of the others there, behind those that it has; then ask again"
    })
}

/// Makes the next key the present one, for all that is sealed from now on.
async fn use_key(
    hub: &Hub,
    principal: Actor,
    present: &ClusterKey,
    next: &ClusterKey,
) -> Result<(), Failure> {
    let state = hub.state();
    let before = state.cluster().ca_key.clone();
    let context = format!("{AUTHORITY_CONTEXT}{}", state.cluster().id);
    let bug = |error| Failure::of(FailureKind::Bug, &error);
    let parts = Parts::of(&before).map_err(bug)?;
    let head = parts.rewrap(present, next, &context).map_err(bug)?;
    let ca_key = [head.as_slice(), parts.body].concat();
    let command = SecretCommand::UseKey { ca_key, before: before.clone() };
    hub.propose(principal, Command::Secret(command)).await.map(drop)
}

/// Re-wraps what is under another key, until nothing is; returns how many versions it were.
async fn rewrap_all(hub: &Hub, to: &ClusterKey) -> Result<u64, Failure> {
    let mut count = 0;
    for _ in 0..ROUNDS_MAX {
        let state = hub.state();
        let mut found = Vec::new();
        for (tenant, name, record) in state.secrets().all() {
            for version in &record.versions {
                let place = Place { tenant, name, version: version.number };
                let Some(after) = place.rewrap(&hub.keyring, to, version)? else { continue };
                found.push(Rewrapped {
                    tenant: tenant.clone(),
                    name: name.clone(),
                    version: version.number,
                    before: version.head.clone(),
                    after,
                });
            }
        }
        if found.is_empty() {
            return Ok(count);
        }
        for batch in found.chunks(REWRAPS_MAX) {
            let command = SecretCommand::Rewrap(batch.to_vec());
            hub.propose(hub.principal(), Command::Secret(command)).await?;
            count += batch.len() as u64;
        }
    }
    Err(Failure::new(
        FailureKind::Conflict,
        "secrets are set faster than they are moved to the next cluster key",
    )
    .hint("rotate again; what was moved stays moved"))
}

/// What the keys of a node follow from, as it has applied it.
type Told = (Option<[u8; 8]>, Option<[u8; 8]>, Vec<u8>);

/// Keeps the next key as soon as the state tells of it, forgets those before the oldest that is kept, and keeps the
/// sealed authority beside raft as it is now. On every node, from its start until the shutdown, so that one that was
/// away does what it missed.
pub async fn keep_keys(hub: Arc<Hub>, files: crate::membership::NodeFiles) {
    let mut replicas = hub.proposer.replicas();
    let mut seen: Option<Told> = None;
    loop {
        let now = {
            let state = hub.state();
            let secrets = state.secrets();
            let told = || {
                (secrets.next_key().map(|key| key.id), secrets.kept_from(), state.cluster().ca_key.clone())
            };
            state.cluster().is_initialized().then(told)
        };
        if now.is_some() && now != seen {
            if let Err(failure) = keep(&hub, &files).await {
                tracing::warn!(%failure, "the keys of this node could not be kept up to date");
            }
            seen = now;
        }
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            changed = replicas.changed() => if changed.is_err() { return },
        }
    }
}

async fn keep(hub: &Arc<Hub>, files: &crate::membership::NodeFiles) -> Result<(), Failure> {
    let (kept_from, sealed) = {
        let state = hub.state();
        (state.secrets().kept_from(), SealedAuthority::of(state.cluster()))
    };
    let (told, files) = (told_key(hub)?, files.clone());
    ask_sources(hub, move |keyring| {
        if let Some(id) = kept_from {
            keyring.forget_before(id)?;
        }
        files.write_authority(&sealed)?;
        told.map_or(Ok(()), |next| keyring.add(&next))
    })
    .await
}
