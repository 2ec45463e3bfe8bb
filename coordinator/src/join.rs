//! `drover-coordinator join`: a further node gets its certificate and what it needs to become a member.
//!
//! Becoming one happens in `serve`, which asks the leader to be admitted and then receives the state.

use std::sync::Arc;
use std::time::Duration;

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::tls::{self, ALPN_GRPC};
use proto::PROTOCOL;
use proto::channel::{Coordinators, agent_client};
use proto::v1::EnrollRequest;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::config::Settings;
use crate::membership::{Membership, NodeFiles};
use crate::pki::node_document::NodeDocument;
use crate::vault::keyring::KeySources;

/// How long the cluster may take to let the node join; an election may lie in between.
const DEADLINE: Duration = Duration::from_secs(30);

/// Joins the cluster whose authority has this digest.
///
/// # Errors
/// When the token is refused, no coordinator is reached, or something cannot be written.
pub async fn join(
    settings: &Settings,
    sources: &KeySources,
    token: &str,
    ca_digest: Digest,
    addresses: Vec<String>,
) -> Result<Membership, Failure> {
    let bug = |error: &dyn std::error::Error| Failure::of(FailureKind::Bug, error);
    let files = NodeFiles::create(&settings.state_dir)?;
    files.refuse_member()?;
    files.clear()?;
    let own_keys = sources.find_all()?.map(|(_, keys)| keys);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| bug(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| bug(&error))?;
    let tls = tls::enrolling_client_config(ca_digest, ALPN_GRPC).map_err(|error| bug(&error))?;
    let coordinators = Coordinators::new(addresses, Arc::new(tls));
    let answer = coordinators
        .call(DEADLINE, |channel| {
            let request = EnrollRequest {
                token: token.to_owned(),
                name: settings.name.to_string(),
                certificate_request: request.der().to_vec(),
                protocol: PROTOCOL,
            };
            async move { agent_client(channel).enroll(request).await }
        })
        .await?;
    if Digest::of(&answer.ca_certificate) != ca_digest {
        return Err(Failure::new(
            FailureKind::Unauthenticated,
            "the answer holds another authority than the one pinned",
        )
        .hint("make a new token with `ctl cluster add` and run the command that it prints"));
    }
    if answer.node_document.is_empty() {
        return Err(Failure::new(FailureKind::Invalid, "this token is for an agent, not for a coordinator")
            .hint("make one with `ctl cluster add`"));
    }
    let document = NodeDocument::parse(&answer.node_document)?;
    let present = document.cluster_key()?.id();
    match own_keys {
        None => sources.store_all(&document.cluster_keys()?)?,
        Some(own) if own.iter().any(|key| key.id() == present) => {}
        Some(_) => {
            return Err(Failure::new(FailureKind::Conflict, "the cluster key that is in place here is not this cluster's")
                .hint("remove it, or put the right one in place; the join brings the key with it where there is none"));
        }
    }
    let chain = [CertificateDer::from(answer.certificate), CertificateDer::from(answer.ca_certificate)];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    files.write_certificate(&chain, &key)?;
    let raft_addresses = document.raft_addresses.into_values().collect();
    let membership =
        Membership::new(document.cluster, settings.name.clone(), document.node_id, raft_addresses);
    files.write_membership(&membership)?;
    Ok(membership)
}
