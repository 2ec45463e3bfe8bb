//! Inviting a host or a node: a token that works once, for a quarter of an hour, under one name.

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::limit::JOIN_TOKEN_TTL;
use common::principal::Principal;
use common::view::JoinView;
use proto::status::to_status;
use tonic::Status;

use super::refuse;
use crate::access::actor::Actor;
use crate::hub::Hub;
use crate::pki::join_token::JoinToken;
use crate::state::{Command, cluster, host};

/// Makes a one-time token, stores its digest, and returns what the joiner runs.
///
/// # Errors
/// When the caller's proposal is refused, or this node does not lead.
pub async fn invite(hub: &Hub, caller: Actor, joiner: Principal) -> Result<JoinView, Status> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| to_status(&Failure::of(FailureKind::Bug, &error)))?;
    let expires =
        WallMs(clock::wall().0.saturating_add(u64::try_from(JOIN_TOKEN_TTL.as_millis()).unwrap_or(0)));
    let authority = &hub.seals().map_err(|failure| to_status(&failure))?.authority;
    let (token, command, name, program) = match &joiner {
        Principal::Agent { tenant, host: name } => {
            let token = JoinToken::for_host(tenant.clone(), random);
            let digest = token.digest(authority, &joiner);
            let change = host::Change::Invite { token: digest, expires };
            let command = host::Command { tenant: tenant.clone(), host: name.clone(), change };
            (token, Command::Host(command), name.to_string(), "drover-agent")
        }
        Principal::Node { name } => {
            let token = JoinToken::for_node(random);
            let digest = token.digest(authority, &joiner);
            let command = cluster::Command::InviteNode { name: name.clone(), token: digest, expires };
            (token, Command::Cluster(command), name.to_string(), "drover-coordinator")
        }
        Principal::Person { .. } | Principal::Key { .. } => {
            return Err(Status::internal("a person does not join"));
        }
    };
    refuse::or_status(hub, hub.propose(caller, command).await).await?;
    let (token, ca_digest) = (token.reveal(), authority.digest());
    let coordinators = hub.state().cluster().api_addresses();
    // A node takes its name from its settings, a host from the command.
    let named = if program == "drover-agent" { format!(" --name {name}") } else { String::new() };
    let command =
        format!("{program} join{named} --token {token} --ca-digest {ca_digest} {}", coordinators.join(" "));
    Ok(JoinView { name, token, ca_digest, coordinators, command, expires })
}
