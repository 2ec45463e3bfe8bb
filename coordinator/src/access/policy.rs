//! PURE. Which caller may make which call.
//!
//! Whether a host is revoked and whose record a call touches is in the state and looked at with the call; this table
//! only knows roles. Whatever it does not name is refused.

use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::principal::Principal;

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a certificate.
    Unknown,
    /// The holder of a certificate that has expired, within the grace of renewal.
    Expired(Principal),
    /// The holder of a valid certificate.
    Known(Principal),
}

/// A call, or a group of calls that the same callers may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Turn a token into a certificate.
    Enroll,
    /// Turn a certificate into the next one.
    Renew,
    /// An agent's stream.
    Session,
    /// Look at records of the own tenant.
    Read,
    /// Change records of the own tenant.
    Change,
    /// Look at the cluster.
    ReadCluster,
    /// Change the cluster itself.
    ChangeCluster,
    /// Node to node.
    Raft,
}

/// Lets a call pass, and says for whom it is made.
///
/// # Errors
/// With `unauthenticated` for those who showed no valid certificate, with `denied` for the others.
pub fn check(caller: &Caller, call: Call) -> Result<Option<&Principal>, Failure> {
    match (caller, call) {
        (Caller::Unknown, Call::Enroll) => Ok(None),
        (
            Caller::Known(principal @ (Principal::Agent { .. } | Principal::Node { .. }))
            | Caller::Expired(principal @ (Principal::Agent { .. } | Principal::Node { .. })),
            Call::Renew,
        )
        | (Caller::Known(principal @ Principal::Agent { .. }), Call::Session)
        | (
            Caller::Known(principal @ Principal::Operator { .. }),
            Call::Read | Call::Change | Call::ReadCluster,
        )
        | (Caller::Known(principal @ Principal::Node { .. }), Call::Raft) => Ok(Some(principal)),
        (Caller::Known(principal @ Principal::Operator { tenant, .. }), Call::ChangeCluster)
            if *tenant == TenantId::default_tenant() =>
        {
            Ok(Some(principal))
        }
        (Caller::Unknown, _) => Err(Failure::new(
            FailureKind::Unauthenticated,
            "this call needs a certificate of the cluster",
        )
        .hint(
            "an agent joins with `drover-agent join`; an operator needs a context, see `ctl --context-file`",
        )),
        (Caller::Expired(principal), _) => {
            let message = format!("the certificate of {principal} has expired");
            Err(Failure::new(FailureKind::Unauthenticated, message)
                .hint("agents renew by themselves; an operator needs a new context from a coordinator"))
        }
        (Caller::Known(principal), _) => {
            let message = format!("{principal} may not make this call");
            Err(Failure::new(FailureKind::Denied, message)
                .hint("use a certificate whose role fits: operators for `ctl`, agents for sessions"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        let operator = |name| Principal::Operator { tenant: tenant(name), name: "root".to_owned() };
        let agent = Principal::Agent { tenant: tenant("default"), host: "web1".parse().unwrap() };
        let node = Principal::Node { name: "n1".parse().unwrap() };
        let calls = [
            Call::Enroll,
            Call::Renew,
            Call::Session,
            Call::Read,
            Call::Change,
            Call::ReadCluster,
            Call::ChangeCluster,
            Call::Raft,
        ];
        // One letter for each call above: y for yes, d for denied, u for unauthenticated.
        let table = [
            (Caller::Unknown, "yuuuuuuu"),
            (Caller::Known(agent.clone()), "dyyddddd"),
            (Caller::Expired(agent), "uyuuuuuu"),
            (Caller::Known(node.clone()), "dydddddy"),
            (Caller::Expired(node), "uyuuuuuu"),
            (Caller::Known(operator("default")), "dddyyyyd"),
            (Caller::Known(operator("other")), "dddyyydd"),
            (Caller::Expired(operator("default")), "uuuuuuuu"),
        ];
        for (caller, expected) in table {
            let actual: String = calls
                .iter()
                .map(|&call| match check(&caller, call).map_err(|failure| failure.kind) {
                    Ok(_) => 'y',
                    Err(FailureKind::Denied) => 'd',
                    Err(_) => 'u',
                })
                .collect();
            assert_eq!(actual, expected, "{caller:?}");
        }
    }
}
