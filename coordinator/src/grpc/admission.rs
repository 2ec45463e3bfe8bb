//! Who makes a call, and in which tenant.
//!
//! The tenant is the caller's own, unless the call names another in its metadata; one in which nothing is granted to
//! the caller is absent for it.

use common::failure::Failure;
use common::grant::{Grant, Scope};
use common::id::TenantId;
use common::principal::Principal;
use common::role::Role;
use proto::TENANT_KEY;
use proto::status::to_status;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::{refuse, witness};
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::access::policy::{self, Caller, Decision, Object};
use crate::hub::Hub;
use crate::state::State;

/// A call that may pass: its table said yes for the tenant. What it touches is looked at with [`Admitted::check`].
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who calls, and from where.
    pub principal: Actor,
    /// Whose records are meant.
    pub tenant: TenantId,
    caller: Caller,
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
            Decision::Absent => Err(absent()),
            Decision::Denied | Decision::Unauthenticated => Err(policy::refusal(&self.caller, call)),
        }
    }
}

/// Lets a call pass whose caller may make it in the tenant that it means.
///
/// # Errors
/// When the table of access says no, or the tenant is absent for the caller.
pub fn admit<T>(hub: &Hub, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
    let caller = caller(&hub.state(), request)?;
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
            let address = Some(refuse::connection(request)?.address.ip());
            Ok(Admitted { principal: Actor { principal, address }, tenant, caller })
        }
        Decision::Absent => {
            witness::tell_hidden(request);
            Err(to_status(&policy::absent_tenant(tenant.as_str())))
        }
        Decision::Denied | Decision::Unauthenticated => Err(to_status(&policy::refusal(&caller, call))),
    }
}

/// Returns the tenant that a call names; the text when it is none.
fn named_tenant(metadata: &MetadataMap) -> Option<Result<TenantId, String>> {
    let value = metadata.get(TENANT_KEY)?;
    let text = value.to_str().unwrap_or_default();
    Some(text.parse().map_err(|_invalid| text.to_owned()))
}

/// Returns who calls, with what is granted now.
fn caller<T>(state: &State, request: &Request<T>) -> Result<Caller, Status> {
    let known = refuse::connection(request)?.caller();
    Ok(match known {
        Caller::Granted { principal, .. } => {
            let grants = grants_of(state, &principal);
            Caller::Granted { principal, grants }
        }
        Caller::Unknown | Caller::Expired(_) | Caller::Machine(_) => known,
    })
}

/// A person whom no record knows has a certificate that was made on a coordinator's own machine: an admin at home.
fn grants_of(_state: &State, principal: &Principal) -> Vec<Grant> {
    vec![Grant { tenant: principal.tenant(), role: Role::Admin, scope: Scope::default() }]
}
