//! `drover-coordinator init`: a new cluster of one node, and the context of its first operator; and `context`, for the
//! others and for the time after 90 days.
//!
//! Nothing is served here. The first log entry holds the authority, its key sealed; `serve` goes on from there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::context::{Context, Contexts};
use common::failure::{Failure, FailureKind};
use common::id::{OperatorName, TenantId};
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Settings;
use crate::hub::{Seals, open_authority, seal_authority_key};
use crate::membership::{Membership, NodeFiles};
use crate::pki::authority::Authority;
use crate::raft::Member;
use crate::raft::node::{RaftNode, RaftSettings};
use crate::raft::wire::GrpcWire;
use crate::reconcile::renewal::own_certificate;
use crate::state::{Command, cluster};
use crate::vault::keyring::KeySources;
use crate::vault::ring::Keyring;

/// The number of the first node.
const FIRST_NODE: u64 = 1;
/// How long a node alone may take to elect itself; it needs no more than a few flushes.
const ELECTION_DEADLINE: Duration = Duration::from_secs(20);
/// The name of the first operator.
const OPERATOR: &str = "admin";

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The cluster's id.
    pub cluster: String,
    /// The name of the context that was written.
    pub context: String,
}

/// Makes a cluster.
///
/// # Errors
/// When the state directory belongs to a cluster already, or something cannot be written.
pub async fn init(
    settings: &Settings,
    sources: &KeySources,
    context_file: &Path,
    context_name: &str,
) -> Result<Made, Failure> {
    let files = NodeFiles::create(&settings.state_dir)?;
    files.refuse_member()?;
    files.clear()?;
    let contexts = open_contexts(context_file, context_name)?;
    let cluster_key = sources.load_or_create()?;
    let cluster_id = uuid::Uuid::new_v4().simple().to_string();
    let now = clock::wall();
    let bug = |error: &dyn std::error::Error| Failure::of(FailureKind::Bug, error);
    let (certificate, key) = Authority::create(&cluster_id, now).map_err(|error| bug(&error))?;
    let authority = Authority::open(&cluster_id, &certificate, &key).map_err(|error| bug(&error))?;
    let ticket_key = authority.ticket_key().map_err(|error| bug(&error))?;
    let seals = Seals { authority, ticket_key };

    let principal = Principal::Node { name: settings.name.clone() };
    let (chain, node_key) = own_certificate(&seals, &principal, now)?;
    files.write_certificate(&chain, &node_key)?;
    let api_address = settings.advertised_api(settings.listen_api);
    let raft_address = settings.advertised_raft(settings.listen_raft);
    let member = Member {
        name: settings.name.to_string(),
        api_address: api_address.clone(),
        raft_address: raft_address.clone(),
    };
    let command = Command::Cluster(cluster::Command::Init {
        id: cluster_id.clone(),
        ca_certificate: certificate.to_vec(),
        ca_key: seal_authority_key(&cluster_key, &cluster_id, &key)?,
        node: settings.name.clone(),
        node_id: FIRST_NODE,
        api_address: api_address.clone(),
        raft_address,
        public_key: Vec::new(),
    });
    write_first_entry(&files, (chain, node_key), &certificate, member, command, principal).await?;

    let context = operator_context(&seals, OPERATOR, vec![api_address])?;
    add_context(contexts, context_file, context_name, context)?;
    let membership = Membership::new(cluster_id.clone(), settings.name.clone(), FIRST_NODE, Vec::new());
    files.write_membership(&membership)?;
    Ok(Made { cluster: cluster_id, context: context_name.to_owned() })
}

/// Starts raft for as long as it takes to agree with itself on the first entry.
async fn write_first_entry(
    files: &NodeFiles,
    own: (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    authority: &CertificateDer<'static>,
    member: Member,
    command: Command,
    principal: Principal,
) -> Result<(), Failure> {
    let bug = |error: &dyn std::error::Error| Failure::of(FailureKind::Bug, error);
    let identity = Identity::new(own.0, own.1).map_err(|error| bug(&error))?;
    let tls = tls::client_config(identity, authority, ALPN_GRPC).map_err(|error| bug(&error))?;
    let shutdown = Shutdown::new();
    let settings = RaftSettings { node_id: FIRST_NODE, directory: files.raft_directory() };
    let raft = RaftNode::open(settings, Arc::new(GrpcWire::new(Arc::new(tls))), &shutdown).await?;
    raft.members().bootstrap(FIRST_NODE, member).await?;
    let mut leadership = raft.proposer().leadership();
    let elected = leadership.wait_for(|leadership| leadership.is_leader);
    let elected = tokio::time::timeout(ELECTION_DEADLINE, elected).await.is_ok_and(|elected| elected.is_ok());
    let proposed = if elected {
        raft.proposer().propose(command, principal).await.map(|_| ())
    } else {
        Err(Failure::new(FailureKind::Timeout, "the new node did not begin to lead itself")
            .hint("look whether the disk under `state_dir` answers"))
    };
    raft.shutdown().await;
    shutdown.finish().await;
    proposed
}

/// Writes another context for an operator, with a certificate of its own.
///
/// # Errors
/// When the node has not been served yet, its cluster key is missing or another's, or the file cannot be written.
pub fn context(
    settings: &Settings,
    sources: &KeySources,
    operator: &OperatorName,
    context_file: &Path,
    context_name: &str,
) -> Result<Made, Failure> {
    let sealed = NodeFiles::create(&settings.state_dir)?.authority().map_err(|failure| {
        failure
            .hint("start this node once with `drover-coordinator serve`, or do this on another coordinator")
    })?;
    let contexts = open_contexts(context_file, context_name)?;
    let seals = open_authority(&Keyring::open(sources.clone())?, &sealed)?;
    let context = operator_context(&seals, operator.as_str(), sealed.coordinators)?;
    add_context(contexts, context_file, context_name, context)?;
    Ok(Made { cluster: sealed.cluster, context: context_name.to_owned() })
}

/// Issues an operator's certificate and puts it into a context.
fn operator_context(seals: &Seals, name: &str, coordinators: Vec<String>) -> Result<Context, Failure> {
    let operator = Principal::Person { tenant: TenantId::default_tenant(), name: name.to_owned() };
    let issued = seals.authority.issue_with_key(&operator, clock::wall());
    let (leaf, key) = issued.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    Ok(Context {
        coordinators,
        ca_certificate: pem("CERTIFICATE", seals.authority.certificate()),
        certificate: pem("CERTIFICATE", &leaf),
        key: pem("PRIVATE KEY", key.secret_der()),
        api_key: String::new(),
    })
}

fn add_context(mut contexts: Contexts, path: &Path, name: &str, context: Context) -> Result<(), Failure> {
    contexts.contexts.insert(name.to_owned(), context);
    if contexts.current.is_empty() {
        name.clone_into(&mut contexts.current);
    }
    contexts.write(path).map_err(|error| Failure::of(FailureKind::Invalid, &error))
}

/// Opens the contexts file, or begins one; refuses a name that is taken.
fn open_contexts(path: &Path, name: &str) -> Result<Contexts, Failure> {
    if !path.exists() {
        if let Some(parent) = path.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|error| {
                Failure::new(FailureKind::Invalid, format!("the folder of {}: {error}", path.display()))
            })?;
        }
        return Ok(Contexts::default());
    }
    let contexts = Contexts::open(path).map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    if contexts.contexts.contains_key(name) {
        let message = format!("{} has a context `{name}` already", path.display());
        return Err(Failure::new(FailureKind::Conflict, message)
            .hint("name another with --context-name, or write another file with --context-out"));
    }
    Ok(contexts)
}

fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
