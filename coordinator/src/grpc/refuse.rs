//! How calls are refused at the door, and who calls.

use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::principal::Principal;
use proto::status::to_status;
use proto::{AUTHORIZATION_KEY, LEADER_KEY};
use tonic::{Request, Status};

use super::connection::ConnectionInfo;
use crate::access::call::Call;
use crate::access::policy::{self, Caller, Decision, Object};
use crate::hub::Hub;

/// Returns the refusal of a node that does not lead; with the leader's address where it is known.
pub fn not_leader(leader: Option<String>) -> Status {
    let message = match &leader {
        Some(address) => format!("this coordinator does not lead; {address} does"),
        None => "the cluster has no leader right now".to_owned(),
    };
    let mut status = Status::unavailable(message);
    // An address that is no metadata value is as good as an unknown one.
    let value = leader.unwrap_or_default().parse().unwrap_or(tonic::metadata::MetadataValue::from_static(""));
    status.metadata_mut().insert(LEADER_KEY, value);
    status
}

/// Lets a call pass that only the leader may answer.
///
/// # Errors
/// When this node does not lead, with the leader's address where it is known; or when it is cut off from the others,
/// so that the caller tries them.
pub async fn check_leader(hub: &Hub) -> Result<(), Status> {
    if hub.leads_surely().await {
        return Ok(());
    }
    Err(elsewhere(hub))
}

/// Returns the refusal that sends a caller on: to the leader, or to any other node when this one only believes that it
/// leads.
pub fn elsewhere(hub: &Hub) -> Status {
    not_leader(hub.leader_address().filter(|_| !hub.is_leader()))
}

/// Passes a result on, and turns a failure into the refusal that it stands for: of who asked, or of a node that does
/// not lead.
///
/// # Errors
/// With that refusal.
pub async fn or_status<T>(hub: &Hub, result: Result<T, Failure>) -> Result<T, Status> {
    let failure = match result {
        Ok(value) => return Ok(value),
        Err(failure) => failure,
    };
    let is_about_leadership = matches!(failure.kind, FailureKind::Unreachable | FailureKind::Timeout);
    if is_about_leadership && !hub.leads_surely().await {
        return Err(elsewhere(hub));
    }
    Err(to_status(&failure))
}

/// Returns the connection that a call came over.
///
/// # Errors
/// When the call did not come over one of our connections.
pub fn connection<T>(request: &Request<T>) -> Result<ConnectionInfo, Status> {
    let info = request.extensions().get::<ConnectionInfo>().cloned();
    info.ok_or_else(|| Status::internal("a call without a connection"))
}

/// Refuses a caller who showed nothing at all.
///
/// # Errors
/// When there is neither a certificate nor anything in its place.
pub fn check_shown<T>(request: &Request<T>) -> Result<(), Status> {
    match connection(request)?.caller(clock::wall()) {
        Caller::Unknown if request.metadata().contains_key(AUTHORIZATION_KEY) => Ok(()),
        caller @ Caller::Unknown => Err(to_status(&policy::refusal(&caller, Call::WhoAmI))),
        Caller::Expired(_) | Caller::Machine(_) | Caller::Granted { .. } => Ok(()),
    }
}

/// Checks that the caller may make a call for which nothing can be granted: joining, and what agents and nodes do.
/// Returns who it is, none for a caller without a certificate.
///
/// # Errors
/// When the table of access says no.
pub fn check<T>(request: &Request<T>, call: Call) -> Result<Option<Principal>, Status> {
    let caller = connection(request)?.caller(clock::wall());
    match policy::check(&caller, call, &TenantId::default_tenant(), Object::Whole) {
        Decision::Allowed => Ok(match caller {
            Caller::Unknown => None,
            Caller::Expired(principal) | Caller::Machine(principal) | Caller::Granted { principal, .. } => {
                Some(principal)
            }
        }),
        Decision::Denied | Decision::Unauthenticated | Decision::Absent => {
            Err(to_status(&policy::refusal(&caller, call)))
        }
    }
}

/// Checks as [`check`] does, for a caller with a certificate; returns who it is.
///
/// # Errors
/// When the table of access says no.
pub fn check_known<T>(request: &Request<T>, call: Call) -> Result<Principal, Status> {
    check(request, call)?
        .ok_or_else(|| Status::unauthenticated("this call needs a certificate of the cluster"))
}
