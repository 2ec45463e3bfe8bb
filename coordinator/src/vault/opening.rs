//! Opening a secret for an agent: who may have it, and for what.
//!
//! An agent gets a secret while it holds the lease of a step, or while a ticket that we signed names it as the source
//! of a step whose lease is held; and only those that its own side of that step refers to. What it gets is sealed to
//! the key that it showed in its hello, and bound to host, step, token and reference. Nothing else opens a secret.

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, SecretName, StepId, TenantId};
use common::reference::Reference;
use common::sealing::{self, Sealed};
use common::secret::Secret;
use common::step::file::RootSide;
use common::ticket::Ticket;
use common::tls::Peer;
use proto::v1;

use super::sealed_secret::Place;
use crate::hub::Hub;
use crate::live::grant;

/// An agent as its session knows it.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its host.
    pub host: HostName,
    /// What it showed in its hello; none for an agent of an older version.
    pub sealing_key: Option<Vec<u8>>,
}

/// What was found to be allowed.
#[derive(Debug)]
struct Allowed {
    migration: MigrationId,
    step: StepId,
    token: FencingToken,
    reference: Reference,
    version: Option<u32>,
}

/// Returns the key that an agent's hello shows, if it is signed by the key of its certificate.
///
/// # Errors
/// When the signature is another's.
pub fn shown_key(peer: &Peer, key: Vec<u8>, signature: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    if key.is_empty() {
        return Ok(None);
    }
    let text = sealing::signed_text(&peer.cluster, &peer.principal, &key);
    if key.len() == sealing::PUBLIC_KEY_BYTES && peer.has_signed(&text, signature) {
        return Ok(Some(key));
    }
    let message = format!("{} did not sign the key that it shows for secrets", peer.principal);
    Err(Failure::new(FailureKind::Unauthenticated, message)
        .hint("restart its agent; its certificate may be new"))
}

/// Opens a secret for an agent and seals it to it.
///
/// # Errors
/// When the agent may not have it, it does not exist, or this node does not lead.
pub async fn open(hub: &Hub, asker: &Asker, request: v1::OpenSecret) -> Result<Sealed, Failure> {
    if !hub.leads_surely().await {
        return Err(Failure::new(FailureKind::Unreachable, "this coordinator does not lead"));
    }
    let allowed = allow(hub, asker, request)?;
    let key = asker.sealing_key.as_ref().ok_or_else(|| {
        let message = format!("the agent of `{}` showed no key that secrets could be sealed to", asker.host);
        Failure::new(FailureKind::Unsupported, message).hint("install the same version everywhere")
    })?;
    let value = match &allowed.reference {
        Reference::Secret(name) => open_kept(hub, &asker.tenant, name, allowed.version)?,
        reference @ Reference::Vault { path, key } => hub
            .vaults
            .read(hub, &asker.tenant, path, key)
            .await
            .map_err(|failure| Failure { message: format!("{reference}: {}", failure.message), ..failure })?,
        reference @ (Reference::Env(_) | Reference::File(_)) => {
            let message = format!("{reference} stands on the host and is not the coordinator's to open");
            return Err(
                Failure::new(FailureKind::Invalid, message).hint("install the same version everywhere")
            );
        }
    };
    let Allowed { migration, step, token, reference, version: _ } = &allowed;
    tracing::info!(host = %asker.host, %migration, %step, %token, %reference, "a secret was opened for a step");
    let purpose = sealing::purpose(&asker.tenant, &asker.host, (migration, step, *token), reference);
    sealing::seal(key, &purpose, value.expose()).map_err(|error| Failure::of(FailureKind::Invalid, &error))
}

/// Opens a secret that is kept in the cluster.
///
/// # Errors
/// When it, or the version that is meant, is gone.
pub fn open_kept(
    hub: &Hub,
    tenant: &TenantId,
    name: &SecretName,
    version: Option<u32>,
) -> Result<Secret<Vec<u8>>, Failure> {
    let state = hub.state();
    let gone = |message: String| {
        Failure::new(FailureKind::NotFound, message).hint("keep it again, then start a new migration")
    };
    let record = state.secrets().get(tenant, name);
    let record = record.ok_or_else(|| gone(format!("the secret `{name}` was deleted")))?;
    let found = match version {
        Some(number) => record.version(number),
        None => record.newest(),
    };
    let found = found.ok_or_else(|| {
        gone(format!("the version of the secret `{name}` that this migration began with was rotated away"))
    })?;
    Place { tenant, name, version: found.number }.open(&hub.keyring, found)
}

/// Finds out whether an agent may have what it asks for.
fn allow(hub: &Hub, asker: &Asker, request: v1::OpenSecret) -> Result<Allowed, Failure> {
    use v1::open_secret::Right;
    let v1::OpenSecret { number: _, reference, right } = request;
    let reference: Reference =
        reference.parse().map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    let denied = |why: &str| {
        let message = format!("the agent of `{}` may not open {reference}: {why}", asker.host);
        Failure::new(FailureKind::Denied, message)
            .hint("a secret is opened only for the side of a step that names it")
    };
    let (side, holder, migration, step, token) = match right.ok_or_else(|| denied("it shows no right to"))? {
        Right::Lease(v1::HeldLease { migration, step, token }) => {
            let v1::Token { epoch, index } = token.ok_or_else(|| denied("it names no lease"))?;
            let migration = migration.parse().map_err(|_invalid| denied("it names no lease"))?;
            let step = step.parse().map_err(|_invalid| denied("it names no lease"))?;
            let token = FencingToken { epoch, index };
            (RootSide::Destination, asker.host.clone(), migration, step, token)
        }
        Right::Ticket(signed) => {
            let ticket = Ticket::open(&signed, hub.seals()?.authority.certificate());
            let ticket = ticket.map_err(|error| denied(&format!("its ticket is refused: {error}")))?;
            check_ticket(hub, asker, &ticket, clock::wall()).map_err(denied)?;
            (RootSide::Source, ticket.destination, ticket.migration, ticket.step, ticket.token)
        }
    };
    let state = hub.state();
    let over = || denied("the lease is over");
    let found = state.migrations().get(&asker.tenant, &migration).ok_or_else(over)?;
    let place = found.held(&step, token).ok_or_else(over)?;
    let is_holder = found.steps[place].lease.as_ref().is_some_and(|lease| lease.host == holder);
    if !is_holder {
        return Err(over());
    }
    let params = grant::params(&found.plan.steps[place])?;
    let wanted = params.references(side).into_iter().find(|(named, _)| **named == reference);
    let (_, version) = wanted.ok_or_else(|| denied("its side of the step does not name it"))?;
    Ok(Allowed { migration, step, token, reference, version })
}

fn check_ticket(hub: &Hub, asker: &Asker, ticket: &Ticket, now: WallMs) -> Result<(), &'static str> {
    if ticket.cluster != hub.state().cluster().id || ticket.tenant != asker.tenant {
        return Err("its ticket is for another tenant or cluster");
    }
    if ticket.source != asker.host {
        return Err("its ticket names another source");
    }
    if now > ticket.expires { Err("its ticket has expired") } else { Ok(()) }
}
