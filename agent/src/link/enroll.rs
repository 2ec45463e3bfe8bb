//! Joining a cluster: a one-time token becomes a certificate.
//!
//! The key is made here and never sent; the coordinator is believed because its authority's certificate has the digest
//! that the join command carries, so the token is shown to nobody else. A join that was cut is repeated as it is: it
//! asks for the same key again.

use std::sync::Arc;
use std::time::Duration;

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::HostName;
use common::secret::Secret;
use common::tls::{self, ALPN_GRPC};
use proto::channel::{Coordinators, agent_client};
use proto::v1::{EnrollRequest, EnrollResponse};

use super::membership::{self, Issued, Membership};
use crate::state_dir::StateDir;

/// How long coordinators are tried.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the join command carries.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The name that the token was made for.
    pub name: HostName,
    /// The one-time token.
    pub token: Secret<String>,
    /// The digest of the cluster authority's certificate.
    pub ca_digest: Digest,
    /// Where coordinators are, as host:port.
    pub coordinators: Vec<String>,
}

/// Makes this host a member of the cluster that invites it.
///
/// # Errors
/// When it is a member already, no coordinator of that authority answers, or the token does not count.
pub async fn join(state_dir: &StateDir, invitation: &Invitation) -> Result<Membership, Failure> {
    refuse_second(state_dir, invitation)?;
    let key = membership::next_key(state_dir.path())?;
    let request = EnrollRequest {
        token: invitation.token.expose().clone(),
        name: invitation.name.to_string(),
        certificate_request: membership::request_of(&key)?,
        protocol: proto::PROTOCOL,
    };
    let config = tls::enrolling_client_config(invitation.ca_digest, ALPN_GRPC)
        .map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let coordinators = Coordinators::new(invitation.coordinators.clone(), Arc::new(config));
    let answer = coordinators.call(DEADLINE, |channel| {
        let request = request.clone();
        async move { agent_client(channel).enroll(request).await }
    });
    let answer = answer.await.map_err(|failure| explain(failure, invitation.ca_digest))?;
    let membership = accept(answer, invitation, &key)?;
    membership.save(state_dir.path())?;
    membership::forget_next_key(state_dir.path())?;
    Ok(membership)
}

fn refuse_second(state_dir: &StateDir, invitation: &Invitation) -> Result<(), Failure> {
    if !Membership::exists(state_dir.path()) {
        return Ok(());
    }
    let existing = Membership::load(state_dir.path())?;
    let cluster = if existing.is_under(invitation.ca_digest) { "this cluster" } else { "another cluster" };
    let message = format!("this host is a member of {cluster} already, as {}", existing.name);
    let file = state_dir.path().join("membership.toml");
    Err(Failure::new(FailureKind::Conflict, message).hint(format!(
        "start the agent with `drover-agent serve`; to join anew, move {} away first",
        file.display()
    )))
}

/// A refusal of certificates during a join has one usual cause, which the general failure cannot know.
fn explain(failure: Failure, ca_digest: Digest) -> Failure {
    let is_foreign =
        failure.kind == FailureKind::Unauthenticated && failure.message.contains("UnknownIssuer");
    if !is_foreign {
        return failure;
    }
    let message = "no coordinator at these addresses belongs to the cluster of the join command";
    Failure::new(FailureKind::Unauthenticated, message)
        .hint("look at the addresses and at --ca-digest, or print the command again with `ctl host enroll`")
        .context("ca_digest", ca_digest.to_string())
}

fn accept(
    answer: EnrollResponse,
    invitation: &Invitation,
    key: &rcgen::KeyPair,
) -> Result<Membership, Failure> {
    let EnrollResponse { certificate, ca_certificate, coordinators, tenant, generation, node_document: _ } =
        answer;
    // TLS has shown that the coordinator stands under the pinned authority; what it hands out must be the same one.
    if Digest::of(&ca_certificate) != invitation.ca_digest {
        let message = "the coordinator answered with the certificate of another authority";
        return Err(Failure::new(FailureKind::Denied, message).hint("have the coordinator looked at"));
    }
    let tenant = tenant.parse().map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    let coordinators = if coordinators.is_empty() { invitation.coordinators.clone() } else { coordinators };
    let issued = Issued { certificate, ca_certificate, generation, coordinators };
    Ok(Membership::of_join(invitation.name.clone(), tenant, issued, key)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::fixture::{Authority, FakeCoordinator};

    fn invitation(coordinator: &FakeCoordinator, ca_digest: Digest) -> Invitation {
        Invitation {
            name: "web1".parse().unwrap(),
            token: Secret::new("one-time".to_owned()),
            ca_digest,
            coordinators: vec![coordinator.address.to_string()],
        }
    }

    #[tokio::test]
    async fn a_token_becomes_a_membership_once() {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::lock(directory.path()).unwrap();
        let invitation = invitation(&coordinator, authority.digest());
        let membership = join(&state_dir, &invitation).await.unwrap();
        assert_eq!(Membership::load(directory.path()).unwrap(), membership);
        assert_eq!((membership.name.as_str(), membership.generation), ("web1", 1));
        let again = join(&state_dir, &invitation).await.unwrap_err();
        assert_eq!(again.kind, FailureKind::Conflict);
    }

    #[tokio::test]
    async fn the_hosts_key_is_in_no_message() {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::lock(directory.path()).unwrap();
        join(&state_dir, &invitation(&coordinator, authority.digest())).await.unwrap();
        let kept = std::fs::read_to_string(directory.path().join("membership.toml")).unwrap();
        let pem = &kept[kept.find("-----BEGIN PRIVATE KEY-----").unwrap()..];
        let pem = pem.split_inclusive("-----END PRIVATE KEY-----").next().unwrap();
        let private = rcgen::KeyPair::from_pem(pem).unwrap().serialize_der();
        // The private scalar is the 32 bytes behind the tag of an octet string.
        let at = private.windows(2).position(|window| window == [0x04, 0x20]).unwrap() + 2;
        let scalar = &private[at..at + 32];
        let [said] = coordinator.joins_seen().try_into().unwrap();
        let EnrollRequest { token, name, certificate_request, protocol: _ } = said;
        assert!(certificate_request.len() > 64, "no key was certified");
        for said in [token.as_bytes(), name.as_bytes(), &certificate_request] {
            assert!(!said.windows(32).any(|window| window == scalar));
        }
    }

    #[tokio::test]
    async fn a_coordinator_of_another_authority_never_sees_the_token() {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::lock(directory.path()).unwrap();
        let refused =
            join(&state_dir, &invitation(&coordinator, Digest::of(b"another authority"))).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unauthenticated);
        assert!(refused.hint.unwrap().contains("--ca-digest"));
        assert!(coordinator.tokens_seen().is_empty());
        assert!(!Membership::exists(directory.path()));
    }

    #[tokio::test]
    async fn a_wrong_token_is_refused_with_the_coordinators_words() {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::lock(directory.path()).unwrap();
        let mut invitation = invitation(&coordinator, authority.digest());
        invitation.token = Secret::new("used".to_owned());
        let refused = join(&state_dir, &invitation).await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (FailureKind::Unauthenticated, "the token does not count")
        );
    }
}
