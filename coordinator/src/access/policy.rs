//! PURE. Which caller may make which call on what.
//!
//! [`check`] is a function of the caller with its grants, the call, the tenant and the thing. Whatever the table in
//! [`super::call`] does not allow is refused, in one of three ways: who showed nothing valid is told so; who cannot
//! see the thing gets the path of an absent one; who can see it and may not do this is told that.

use common::failure::{Failure, FailureKind};
use common::grant::{Grant, Labels};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::role::Role;

use super::call::{Call, Needs};

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who showed nothing.
    Unknown,
    /// The holder of a certificate that has expired, within the grace of renewal.
    Expired(Principal),
    /// An agent or a node with a valid certificate: what it is decides what it may.
    Machine(Principal),
    /// A person or an API key: what was granted decides.
    Granted {
        /// Who.
        principal: Principal,
        /// What was granted, in all tenants.
        grants: Vec<Grant>,
    },
}

/// What a call touches, within the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// A list, or the tenant or the cluster as a whole; what a list shows is looked at one by one.
    Whole,
    /// A host.
    Host {
        /// Its name.
        name: &'a HostName,
        /// Its labels.
        labels: &'a Labels,
    },
    /// A migration.
    Migration {
        /// Both of its hosts.
        hosts: [&'a HostName; 2],
        /// Its labels.
        labels: &'a Labels,
    },
    /// A secret; one outside of the cluster bears no labels.
    Secret {
        /// Its labels.
        labels: &'a Labels,
    },
}

/// What is said to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allowed,
    /// Nothing valid was shown.
    Unauthenticated,
    /// The caller may know of the thing, and may not do this.
    Denied,
    /// For the caller there is no such thing, or no such tenant.
    Absent,
}

/// Decides about a call.
pub fn check(caller: &Caller, call: Call, tenant: &TenantId, object: Object<'_>) -> Decision {
    let needs = call.needs();
    match (caller, needs) {
        // Who joins or logs in has no certificate, and an operator's own context does no harm to a login.
        (Caller::Unknown, Needs::Nothing) => Decision::Allowed,
        (Caller::Granted { .. }, Needs::Nothing) if call == Call::Login => Decision::Allowed,
        (Caller::Unknown, _) => Decision::Unauthenticated,
        (
            Caller::Machine(Principal::Agent { .. } | Principal::Node { .. })
            | Caller::Expired(Principal::Agent { .. } | Principal::Node { .. }),
            Needs::Renewable,
        )
        | (Caller::Machine(Principal::Agent { .. }), Needs::Agent)
        | (Caller::Machine(Principal::Node { .. }), Needs::Node)
        | (Caller::Granted { .. }, Needs::Anyone)
        | (Caller::Granted { principal: Principal::Person { .. }, .. }, Needs::AnyPerson) => {
            Decision::Allowed
        }
        (Caller::Expired(_), _) => Decision::Unauthenticated,
        (Caller::Machine(_), _) => Decision::Denied,
        (Caller::Granted { principal, grants }, needs) => granted(principal, grants, needs, tenant, object),
    }
}

fn granted(
    principal: &Principal,
    grants: &[Grant],
    needs: Needs,
    tenant: &TenantId,
    object: Object<'_>,
) -> Decision {
    let here = |tenant: &TenantId| grants.iter().filter(|grant| grant.tenant == *tenant).collect::<Vec<_>>();
    let is_whole = |grant: &&&Grant, roles: &[Role]| grant.scope.is_whole() && roles.contains(&grant.role);
    let default = TenantId::default_tenant();
    let ours = here(tenant);
    let is_allowed = match needs {
        Needs::Nothing | Needs::Renewable | Needs::Agent | Needs::Node | Needs::Anyone | Needs::AnyPerson => {
            false
        }
        Needs::Role(roles) => ours.iter().any(|grant| roles.contains(&grant.role) && reaches(grant, object)),
        Needs::WholeTenant(roles) => ours.iter().any(|grant| is_whole(&grant, roles)),
        Needs::TenantAdmin => {
            let is_admin = |grant: &&Grant| is_whole(&grant, &[Role::Admin]);
            ours.iter().any(is_admin) || here(&default).iter().any(is_admin)
        }
        Needs::Cluster(roles) => here(&default).iter().any(|grant| is_whole(&grant, roles)),
    };
    if is_allowed {
        return Decision::Allowed;
    }
    // The own tenant is no news to anybody, whatever is granted in it; any other is one only to who holds a grant.
    let knows_tenant = !ours.is_empty() || principal.tenant() == *tenant;
    let sees = match object {
        Object::Whole => knows_tenant,
        Object::Host { .. } | Object::Migration { .. } | Object::Secret { .. } => {
            ours.iter().any(|grant| reaches(grant, object))
        }
    };
    if sees { Decision::Denied } else { Decision::Absent }
}

/// Whether a grant's scope holds what is touched.
fn reaches(grant: &Grant, object: Object<'_>) -> bool {
    match object {
        Object::Whole => true,
        Object::Host { name, labels } => grant.scope.holds(&[name], labels),
        Object::Migration { hosts, labels } => grant.scope.holds(&hosts, labels),
        Object::Secret { labels } => grant.scope.holds_by_labels(labels),
    }
}

/// Returns the refusal of a caller who showed nothing valid, or who may not make the call; never of one for whom the
/// thing is absent, because that has the words of the thing.
pub fn refusal(caller: &Caller, call: Call) -> Failure {
    match caller {
        Caller::Unknown => Failure::new(
            FailureKind::Unauthenticated,
            "this call needs a certificate of the cluster, or an API key",
        )
        .hint(
            "an agent joins with `drover-agent join`; a person needs a context (`ctl login`), a pipeline a key (`--api-key-file`)",
        ),
        Caller::Expired(principal) => {
            let message = format!("the certificate of {principal} has expired");
            Failure::new(FailureKind::Unauthenticated, message)
                .hint("agents renew by themselves; a person logs in again with `ctl login`")
        }
        Caller::Machine(principal) => {
            Failure::new(FailureKind::Denied, format!("{principal} may not {}", call.as_str()))
                .hint("use a person's certificate or an API key for `ctl`, and a host's for sessions")
        }
        Caller::Granted { principal, .. } => {
            let who = match call.needs() {
                Needs::Role(roles) | Needs::WholeTenant(roles) => named(roles),
                Needs::TenantAdmin => "admin of the whole tenant".to_owned(),
                Needs::Cluster(roles) => format!("{} of the whole tenant `default`", named(roles)),
                Needs::AnyPerson => "person".to_owned(),
                Needs::Nothing | Needs::Renewable | Needs::Agent | Needs::Node | Needs::Anyone => {
                    "host or coordinator".to_owned()
                }
            };
            Failure::new(FailureKind::Denied, format!("{principal} may not {}", call.as_str()))
                .hint(format!("this is for: {who}; an admin changes what is granted with `ctl user grant`"))
        }
    }
}

/// The path of an absent tenant, and of one that the caller has nothing to do with.
pub fn absent_tenant(tenant: &str) -> Failure {
    let tenant: String = tenant.chars().take(64).collect();
    Failure::new(FailureKind::NotFound, format!("there is no tenant `{tenant}`"))
        .hint("leave --tenant out to act in your own")
}

fn named(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}
