//! Who makes a call, and in which tenant.
//!
//! The tenant is the caller's own, unless the call names another in its metadata; one in which nothing is granted to
//! the caller is absent for it.

use std::sync::Arc;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::grant::{Grant, Labels};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::reference::Reference;
use common::spec::MigrationSpec;
use common::tls::Peer;
use proto::status::{to_failure, to_status};
use proto::{AUTHORIZATION_KEY, BEARER, REQUEST_KEY, TENANT_KEY};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::refuse;
use super::witness::{self, Witness};
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::access::policy::{self, Caller, Decision, Object};
use crate::hub::Hub;
use crate::migrate;
use crate::pki::api_key::ApiKey;
use crate::state::State;
use crate::state::migration::Migration;
use crate::state::request::REQUEST_BYTES_MAX;

/// A call that may pass: its table said yes for the tenant. What it touches is looked at with [`Admitted::check`].
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who calls, and from where.
    pub principal: Actor,
    /// Whose records are meant.
    pub tenant: TenantId,
    caller: Caller,
    /// What the caller showed, if that is no API key.
    certificate: Option<Arc<Peer>>,
    witness: Witness,
}

impl Admitted {
    /// Decides about something that the call touches.
    pub fn decide(&self, call: Call, object: Object<'_>) -> Decision {
        policy::check(&self.caller, call, &self.tenant, object)
    }

    /// Lets a call pass that touches this, and otherwise refuses it; `absent` is what an absent one gets.
    ///
    /// # Errors
    /// When the caller may not make the call on it, or may not know of it.
    pub fn check(
        &self,
        call: Call,
        object: Object<'_>,
        absent: impl FnOnce() -> Failure,
    ) -> Result<(), Failure> {
        match self.decide(call, object) {
            Decision::Allowed => Ok(()),
            Decision::Absent => {
                self.witness.hide();
                Err(absent())
            }
            Decision::Denied | Decision::Unauthenticated => Err(policy::refusal(&self.caller, call)),
        }
    }
}

impl Admitted {
    /// Returns what is granted to the caller, in all tenants.
    pub fn grants(&self) -> &[Grant] {
        match &self.caller {
            Caller::Granted { grants, .. } => grants,
            Caller::Unknown | Caller::Expired(_) | Caller::Machine(_) => &[],
        }
    }

    /// Returns the same call as of now: what was granted may have been taken away since.
    ///
    /// # Errors
    /// When nothing of the caller is accepted any more.
    pub fn again(&self, state: &State) -> Result<Self, Failure> {
        let caller = match &self.certificate {
            Some(peer) => certified(state, peer)?,
            None => granted(state, self.principal.principal.clone())?,
        };
        Ok(Self { caller, ..self.clone() })
    }

    /// Lets a call go on that is about the tenant as a whole, as of now.
    ///
    /// # Errors
    /// When it would be refused now.
    pub fn check_again(&self, state: &State, call: Call) -> Result<(), Failure> {
        let absent = || policy::absent_tenant(self.tenant.as_str());
        self.again(state)?.check(call, Object::Whole, absent)
    }

    /// Decides about a host of the tenant, known or not.
    pub fn decide_host(&self, state: &State, call: Call, name: &HostName) -> Decision {
        let labels = state.access().labels_of(&self.tenant, name);
        self.decide(call, Object::Host { name, labels: &labels })
    }

    /// Lets a call pass that touches a host.
    ///
    /// # Errors
    /// When the caller may not make the call on it, or may not know of it.
    pub fn check_host(&self, state: &State, call: Call, name: &HostName) -> Result<(), Failure> {
        let labels = state.access().labels_of(&self.tenant, name);
        self.check(call, Object::Host { name, labels: &labels }, || migrate::absent_host(name.as_str()))
    }

    /// Decides about a migration of the tenant.
    pub fn decide_migration(&self, call: Call, migration: &Migration) -> Decision {
        let spec = &migration.spec;
        let hosts = [&spec.source.location.host, &spec.destination.location.host];
        self.decide(call, Object::Migration { hosts, labels: &spec.labels })
    }

    /// Returns a migration that the call may touch.
    ///
    /// # Errors
    /// When there is none, the caller may not know of it, or may not make the call on it.
    pub fn migration(&self, hub: &Hub, call: Call, id: &str) -> Result<Arc<Migration>, Failure> {
        let migration = hub.migration(&self.tenant, id)?;
        let spec = &migration.spec;
        let hosts = [&spec.source.location.host, &spec.destination.location.host];
        let object = Object::Migration { hosts, labels: &spec.labels };
        self.check(call, object, || crate::hub::absent_migration(id))?;
        Ok(migration)
    }

    /// Lets a migration be planned or made between these hosts and with these labels.
    ///
    /// # Errors
    /// When the caller may not do it there.
    pub fn check_spec(&self, state: &State, call: Call, spec: &MigrationSpec) -> Result<(), Failure> {
        let hosts = [&spec.source.location.host, &spec.destination.location.host];
        for host in hosts.into_iter().chain(&spec.transfer.relay) {
            self.check_host(state, call, host)?;
        }
        self.check(call, Object::Migration { hosts, labels: &spec.labels }, || {
            let message = format!("{} may not {} with these labels", self.principal.principal, call.as_str());
            Failure::new(FailureKind::Denied, message)
                .hint("give the migration the labels of your scope with --label; `ctl whoami` shows it")
        })?;
        spec.references().try_for_each(|reference| self.check_reference(state, reference))
    }

    /// Lets a spec name a secret that the coordinator opens; what stands on a host is that host's.
    fn check_reference(&self, state: &State, reference: &Reference) -> Result<(), Failure> {
        match reference {
            Reference::Secret(name) => {
                let labels = state.secrets().labels_of(&self.tenant, name);
                let object = Object::Secret { labels: &labels };
                self.check(Call::UseSecret, object, || migrate::absent_secret(name))
            }
            // A path of the vault bears no labels, so it is for who may use all of the tenant's secrets.
            Reference::Vault { .. } => {
                let object = Object::Secret { labels: &Labels::new() };
                self.check(Call::UseSecret, object, || {
                    let message = format!("{} may not use {reference}", self.principal.principal);
                    Failure::new(FailureKind::Denied, message).hint(
                        "the vault is for operators of the whole tenant; name a secret of the cluster that bears the labels of your scope",
                    )
                })
            }
            Reference::Env(_) | Reference::File(_) => Ok(()),
        }
    }
}

/// Lets a call pass whose caller may make it in the tenant that it means.
///
/// # Errors
/// When the table of access says no, or the tenant is absent for the caller.
pub fn admit<T>(hub: &Hub, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
    let caller = caller(hub, request).map_err(|failure| to_status(&failure))?;
    let Caller::Granted { principal, .. } = &caller else {
        return Err(to_status(&policy::refusal(&caller, call)));
    };
    witness::tell_principal(request, principal);
    let (principal, named) = (principal.clone(), named_tenant(request.metadata()));
    let tenant = match named {
        None => principal.tenant(),
        Some(Ok(tenant)) => tenant,
        Some(Err(text)) => return Err(to_status(&policy::absent_tenant(&text))),
    };
    match policy::check(&caller, call, &tenant, Object::Whole) {
        Decision::Allowed => {
            let connection = refuse::connection(request)?;
            let address = Some(connection.address.ip());
            let certificate = connection.peer.filter(|_| !request.metadata().contains_key(AUTHORIZATION_KEY));
            let witness = request.extensions().get().cloned().unwrap_or_default();
            let request = named_request(request.metadata()).map_err(|failure| to_status(&failure))?;
            let principal = Actor { principal, address, request };
            Ok(Admitted { principal, tenant, caller, certificate, witness })
        }
        Decision::Absent => {
            witness::tell_hidden(request);
            Err(to_status(&policy::absent_tenant(tenant.as_str())))
        }
        Decision::Denied | Decision::Unauthenticated => Err(to_status(&policy::refusal(&caller, call))),
    }
}

/// Returns what the call names itself.
fn named_request(metadata: &MetadataMap) -> Result<Option<String>, Failure> {
    let Some(value) = metadata.get(REQUEST_KEY) else { return Ok(None) };
    let name = value.to_str().ok().filter(|name| (1..=REQUEST_BYTES_MAX).contains(&name.len()));
    let refused = || {
        let message = format!("the metadata `{REQUEST_KEY}` has 1 to {REQUEST_BYTES_MAX} letters of ASCII");
        Failure::new(FailureKind::Invalid, message).hint("draw 16 bytes for each call and write them in hex")
    };
    name.map(|name| Some(name.to_owned())).ok_or_else(refused)
}

/// Lets a call pass that this node may answer: its caller is allowed, and this node leads.
///
/// # Errors
/// As [`admit`], and when this node does not lead.
pub async fn admit_at_leader<T: Sync>(
    hub: &Hub,
    request: &Request<T>,
    call: Call,
) -> Result<Admitted, Status> {
    // A stranger is not told who leads; anybody else is sent on before a follower's older knowledge can refuse.
    refuse::check_shown(request)?;
    refuse::check_leader(hub).await?;
    admit(hub, request, call)
}

/// Returns the tenant that a call names; the text when it is none.
fn named_tenant(metadata: &MetadataMap) -> Option<Result<TenantId, String>> {
    let value = metadata.get(TENANT_KEY)?;
    let text = value.to_str().unwrap_or_default();
    Some(text.parse().map_err(|_invalid| text.to_owned()))
}

/// Returns who calls, with what is granted now.
fn caller<T>(hub: &Hub, request: &Request<T>) -> Result<Caller, Failure> {
    let connection = refuse::connection(request).map_err(|status| to_failure(&status))?;
    let state = hub.state();
    // A key that is shown is meant, whatever certificate the connection has.
    if let Some(shown) = request.metadata().get(AUTHORIZATION_KEY) {
        let caller = key_holder(hub, &state, shown.as_bytes())?;
        connection.standing.vouch();
        return Ok(caller);
    }
    match (connection.caller(clock::wall()), &connection.peer) {
        (Caller::Granted { .. }, Some(peer)) => certified(&state, peer),
        (known, _) => Ok(known),
    }
}

/// Returns the caller that a certificate stands for, as of now.
fn certified(state: &State, peer: &Peer) -> Result<Caller, Failure> {
    if clock::wall() > peer.not_after {
        return Ok(Caller::Expired(peer.principal.clone()));
    }
    if let Principal::Person { tenant, name } = &peer.principal
        && !state.access().accepts_certificate(tenant, name, peer.issued())
    {
        return Err(over(&peer.principal));
    }
    granted(state, peer.principal.clone())
}

/// Returns the caller that an API key stands for. Every reason to refuse it has the same words.
fn key_holder(hub: &Hub, state: &State, shown: &[u8]) -> Result<Caller, Failure> {
    let refused = || {
        Failure::new(FailureKind::Unauthenticated, "the API key is not accepted").hint(
            "look whether it is whole and of this cluster; it may have expired or been revoked: an admin makes another with `ctl key create`",
        )
    };
    let text = std::str::from_utf8(shown).ok().and_then(|text| text.strip_prefix(BEARER));
    let key = text.and_then(ApiKey::parse).ok_or_else(refused)?;
    let digest = key.digest(&hub.seals()?.authority);
    let record = state.access().keys().get(&key.tenant, &key.id);
    record.filter(|record| record.digest == digest).ok_or_else(refused)?;
    granted(state, Principal::Key { tenant: key.tenant, id: key.id }).map_err(|_over| refused())
}

fn granted(state: &State, principal: Principal) -> Result<Caller, Failure> {
    match state.access().grants(&principal, clock::wall()) {
        Some(grants) => Ok(Caller::Granted { principal, grants }),
        None => Err(over(&principal)),
    }
}

/// What a person gets who was disabled, or whose certificate was voided.
fn over(principal: &Principal) -> Failure {
    Failure::new(
        FailureKind::Unauthenticated,
        format!("this certificate of {principal} is not accepted any more"),
    )
    .hint("log in again with `ctl login`; if that is refused too, ask an admin")
}
