//! Secrets over the real port: what operators may do with them, and which agent gets which.

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::role::Role;
use common::sanitize::{Action, FileRule, Find, Mask, Sanitize, With};
use common::sealing::{self, Sealed, SealingKey};
use common::tls::Identity;
use common::view::SecretView;
use proto::channel::{access_client, secret_client};
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::{self, open_secret::Right, opened_secret::Answer};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::fixture::{Agent, Cluster, PATIENCE, document};
use super::vault::{FakeVault, TOKEN};
use crate::access::actor::Actor;
use crate::config::{Settings, VaultSettings};
use crate::node::Node;
use crate::rotate::rotate;
use crate::vault::keyring::KEYS_MAX;

async fn set(cluster: &Cluster, name: &str, value: &[u8]) -> Result<SecretView, Failure> {
    let request_id = format!("{name} {}", value.len());
    let call = |channel| {
        let (name, value, request_id) = (name.to_owned(), value.to_vec(), request_id.clone());
        let request = v1::SetSecretRequest { name, value, must_exist: false, request_id };
        async move { secret_client(channel).set_secret(request).await }
    };
    let answer = cluster.operator.call(PATIENCE, call).await?;
    Ok(serde_json::from_str(&answer.document).unwrap())
}

/// Rules that mask with this key.
pub(super) fn rules(key: &str) -> Sanitize {
    let mask = Mask { find: vec![Find::Email], regex: Vec::new(), with: With::Key };
    let rule = FileRule { patterns: vec!["*.sql".to_owned()], action: Action::Mask(mask) };
    Sanitize { key: Some(key.parse().unwrap()), key_version: None, files: vec![rule] }
}

/// An agent with a key for secrets.
struct Sealing {
    agent: Agent,
    host: &'static str,
    key: SealingKey,
    asked: u64,
}

impl Sealing {
    async fn join(cluster: &Cluster, host: &'static str) -> Self {
        let (own, certificate) = cluster.join(host).await;
        let der = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        let identity = Identity::new(vec![certificate.clone()], der()).unwrap();
        let (key, peer) = (SealingKey::generate().unwrap(), identity.peer().unwrap());
        let text = sealing::signed_text(&peer.cluster, &peer.principal, key.public());
        let way = cluster.way_of(certificate, &own);
        let another = SealingKey::generate().unwrap().public().to_vec();
        let signature = identity.sign(&text).unwrap();
        let forged = Agent::connect_showing(&way, host, 1, (another, signature.clone())).await;
        assert_eq!(forged.err().unwrap().kind, FailureKind::Unauthenticated, "a key that nobody signed");
        let shown = (key.public().to_vec(), signature);
        let agent = Agent::connect_showing(&way, host, 1, shown).await.unwrap();
        Self { agent, host, key, asked: 0 }
    }

    async fn grant(&mut self) -> v1::Grant {
        match self.agent.next_but_roots().await {
            Some(ToAgent::Grant(grant)) => grant,
            other => panic!("{} got {other:?} and no grant", self.host),
        }
    }

    /// Asks for a secret and opens what comes.
    async fn ask(&mut self, reference: &str, right: Right, grant: &v1::Grant) -> Result<Vec<u8>, Failure> {
        self.asked += 1;
        let number = self.asked;
        let request = v1::OpenSecret { number, reference: reference.to_owned(), right: Some(right) };
        self.agent.send(FromAgent::OpenSecret(request)).await;
        let Some(ToAgent::OpenedSecret(opened)) = self.agent.next_but_roots().await else {
            panic!("{} got no answer", self.host)
        };
        assert_eq!(opened.number, number);
        match opened.answer.unwrap() {
            Answer::Failure(failure) => Err(serde_json::from_str(&failure.document).unwrap()),
            Answer::Sealed(v1::SealedSecret { encapsulated, ciphertext }) => {
                let v1::Token { epoch, index } = grant.token.unwrap();
                let (migration, step) = (grant.migration.parse().unwrap(), grant.step.parse().unwrap());
                let step = (&migration, &step, FencingToken { epoch, index });
                let (tenant, host) = ("default".parse().unwrap(), self.host.parse().unwrap());
                let purpose = sealing::purpose(&tenant, &host, step, &reference.parse().unwrap());
                let opened = self.key.open(&purpose, &Sealed { encapsulated, ciphertext }).unwrap();
                Ok(opened.expose().clone())
            }
        }
    }
}

fn lease(grant: &v1::Grant) -> Right {
    let v1::Grant { migration, step, token, .. } = grant.clone();
    Right::Lease(v1::HeldLease { migration, step, token })
}

#[tokio::test]
async fn a_secret_is_opened_for_its_side_of_its_step_and_nobody_else() {
    let cluster = Cluster::start().await;
    let (mut web1, mut web2, web3) = (
        Sealing::join(&cluster, "web1").await,
        Sealing::join(&cluster, "web2").await,
        Sealing::join(&cluster, "web3").await,
    );
    let migrating = cluster.migrate_sanitized("r0", "web1:/a", "web2:/b", Some(rules("${secret:mask}")));
    let refused = tokio::select! {
        refused = migrating => refused.unwrap_err(),
        _ = answering(&mut web1, &mut web2) => unreachable!("the agents have nothing to say"),
    };
    assert_eq!(refused.kind, FailureKind::NotFound, "a secret that does not exist: {refused}");
    assert_eq!(set(&cluster, "mask", b"\xff canary").await.unwrap().version, 1);
    set(&cluster, "other", b"canary").await.unwrap();
    let grant = begin(&cluster, ("r1", "web1:/a", "web2:/b"), "${secret:mask}", &mut web1, &mut web2).await;
    let ticket = || Right::Ticket(grant.ticket.clone());
    // A version that is set later is not that of this migration.
    set(&cluster, "mask", b"the next canary").await.unwrap();
    let opened = web1.ask("${secret:mask}", ticket(), &grant).await;
    assert_eq!(opened.unwrap(), b"\xff canary");

    let mut cut = grant.ticket.clone();
    cut.pop();
    let denied = FailureKind::Denied;
    let mut askers = [web1, web2, web3];
    for (case, asker, reference, right, kind) in [
        ("the holder of the lease, for the source's", 1, "${secret:mask}", lease(&grant), denied),
        ("the destination, with the source's ticket", 1, "${secret:mask}", ticket(), denied),
        ("a third host, with the source's ticket", 2, "${secret:mask}", ticket(), denied),
        ("a third host, with the lease of another", 2, "${secret:mask}", lease(&grant), denied),
        ("the source, with the lease of another", 0, "${secret:mask}", lease(&grant), denied),
        ("the source, for what its step does not name", 0, "${secret:other}", ticket(), denied),
        ("the source, for what does not exist", 0, "${secret:absent}", ticket(), denied),
        ("the source, for a file of the coordinator", 0, "${file:/etc/shadow}", ticket(), denied),
        ("an altered ticket", 0, "${secret:mask}", Right::Ticket(cut), denied),
        ("no reference", 0, "mask", ticket(), FailureKind::Invalid),
    ] {
        let refused = askers[asker].ask(reference, right, &grant).await.unwrap_err();
        assert_eq!(refused.kind, kind, "{case}: {refused}");
        assert!(!refused.to_string().contains("canary"), "{case}");
    }
    let [mut web1, mut web2, _web3] = askers;
    web2.agent.succeed(&grant, &common::step::file::FileOutput::default()).await;
    let over = web1.ask("${secret:mask}", ticket(), &grant).await.unwrap_err();
    assert_eq!(over.kind, denied, "a lease that is over: {over}");
    cluster.stop().await;
}

/// Starts a migration that masks with this key, and returns what the destination is granted.
async fn begin(
    cluster: &Cluster,
    (request, from, to): (&str, &str, &str),
    key: &str,
    web1: &mut Sealing,
    web2: &mut Sealing,
) -> v1::Grant {
    let migrating = cluster.migrate_sanitized(request, from, to, Some(rules(key)));
    // The grant may come before the answer to who asked for the migration.
    let both = async { tokio::join!(migrating, web2.grant()) };
    tokio::select! {
        (made, grant) = both => {
            made.unwrap();
            grant
        }
        other = web1.agent.next_but_roots() => panic!("web1 has no part in it yet: {other:?}"),
    }
}

/// Answers questions of both, for ever.
async fn answering(web1: &mut Sealing, web2: &mut Sealing) {
    loop {
        tokio::select! {
            _ = web1.agent.next_but_roots() => {}
            _ = web2.agent.next_but_roots() => {}
        }
    }
}

#[tokio::test]
async fn empty_large_and_badly_named_secrets_are_refused() {
    let cluster = Cluster::start().await;
    for (name, value, needle) in [
        ("mask", Vec::new(), "empty"),
        ("mask", vec![7; 1024 * 1024 + 1], "1048577"),
        ("Bad Name", vec![7], "Bad Name"),
    ] {
        let refused = set(&cluster, name, &value).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Invalid, "{name}");
        assert!(refused.message.contains(needle), "{refused}");
    }
    assert_eq!(set(&cluster, "mask", &vec![0xff; 1024 * 1024]).await.unwrap().version, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_scope_opens_the_secrets_that_bear_its_labels_and_hides_all_others() {
    let cluster = Cluster::start().await;
    let team = || vec!["team=shop".to_owned()];
    for host in ["web1", "web2"] {
        cluster.join(host).await;
        let label = v1::LabelHostRequest { host: host.to_owned(), labels: team() };
        let call = |way| {
            let label = label.clone();
            async move { access_client(way).label_host(label).await }
        };
        cluster.operator.call(PATIENCE, call).await.unwrap();
    }
    set(&cluster, "mask", b"canary").await.unwrap();
    set(&cluster, "other", b"canary").await.unwrap();
    let label = |labels: Vec<String>| {
        let call = move |way| {
            let request = v1::LabelSecretRequest { name: "mask".to_owned(), labels: labels.clone() };
            async move { secret_client(way).label_secret(request).await }
        };
        async { cluster.operator.call(PATIENCE, call).await.unwrap() }
    };
    let labelled: SecretView = document(&label(team()).await);
    assert_eq!(labelled.labels.len(), 1);

    let scope = &["label:team=shop"][..];
    let narrow = cluster.keyed(&cluster.create_key("default", Role::Operator, scope).await, None);
    let page = narrow.call(PATIENCE, |way| async move {
        secret_client(way).list_secrets(v1::PageRequest { from: String::new(), limit: 0 }).await
    });
    let seen: Vec<SecretView> = serde_json::from_str(&page.await.unwrap().document).unwrap();
    assert_eq!(seen, [labelled], "a list shows what is outside of the scope");
    let ask = async |reference: &str| {
        let mut spec = Cluster::spec("web1:/a", "web2:/b", Some(rules(reference)));
        spec.labels = [("team".parse().unwrap(), "shop".parse().unwrap())].into();
        cluster.migrate_by(&narrow, reference, &spec).await.unwrap_err()
    };
    // Whoever may name the secret gets as far as the agents, which are not there.
    let absent = ask("${secret:absent}").await;
    assert_eq!(absent.kind, FailureKind::NotFound);
    for (reference, kind) in [
        ("${secret:mask}", FailureKind::Unreachable),
        ("${env:MASK}", FailureKind::Unreachable),
        ("${file:/etc/mask}", FailureKind::Unreachable),
        ("${secret:other}", FailureKind::NotFound),
        ("${vault:secret/shop#key}", FailureKind::Denied),
    ] {
        let refused = ask(reference).await;
        assert_eq!(refused.kind, kind, "{reference}: {refused}");
        if kind == FailureKind::NotFound {
            let told =
                |failure: &Failure, name| serde_json::to_string(failure).unwrap().replace(name, "NAME");
            assert_eq!(told(&refused, "other"), told(&absent, "absent"), "a hidden one is an absent one");
        }
    }
    label(Vec::new()).await;
    assert_eq!(ask("${secret:mask}").await.kind, FailureKind::NotFound, "a label that was taken away");
    let of_host = cluster.create_key("default", Role::Operator, &["host:web1", "host:web2"]).await;
    let spec = Cluster::spec("web1:/a", "web2:/b", Some(rules("${secret:mask}")));
    let refused = cluster.migrate_by(&cluster.keyed(&of_host, None), "r", &spec).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::NotFound, "no host says whose a secret is");
    cluster.stop().await;
}

/// Waits until the key file of a node holds so many keys.
async fn keys_in(file: &std::path::Path, count: usize) {
    let found = tokio::time::timeout(PATIENCE, async {
        while std::fs::read_to_string(file).unwrap().lines().count() != count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{}", std::fs::read_to_string(file).unwrap().lines().count()));
}

#[tokio::test]
async fn the_cluster_key_is_rotated_again_and_again_one_at_a_time() {
    let cluster = Cluster::start().await;
    set(&cluster, "mask", b"canary").await.unwrap();
    let (hub, file) = (cluster.node.hub().clone(), cluster.sources.file.clone());
    let actor = || Actor::from(hub.principal());
    for rotations in 1..KEYS_MAX {
        rotate(&hub, actor(), false).await.unwrap();
        keys_in(&file, rotations + 1).await;
    }
    let full = rotate(&hub, actor(), false).await.unwrap_err();
    assert!(full.hint.as_ref().unwrap().contains("--drop-old"), "{full}");
    keys_in(&file, KEYS_MAX).await;
    let held = hub.rotation.lock().await;
    for drop_old in [false, true] {
        let beside = rotate(&hub, actor(), drop_old).await.unwrap_err();
        assert!(beside.message.contains("under way"), "{beside}");
    }
    drop(held);
    let stale = std::fs::read_to_string(&file).unwrap();
    let dropped = rotate(&hub, actor(), true).await.unwrap();
    keys_in(&file, 1).await;
    let rotated = rotate(&hub, actor(), false).await.unwrap();
    assert_eq!(rotated.previous, Some(dropped.key));
    keys_in(&file, 2).await;

    // A node that was away when they were dropped drops them when it is back, and keeps what came since.
    let Cluster { directory, settings, sources, node, .. } = cluster;
    drop(hub);
    node.stop().await;
    let last = std::fs::read_to_string(&file).unwrap().lines().last().unwrap().to_owned();
    let late: Vec<&str> = stale.lines().skip(1).chain([last.as_str()]).collect();
    std::fs::write(&file, late.join("\n")).unwrap();
    let node = Node::start(&settings, &sources).await.unwrap();
    keys_in(&file, 2).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), late[late.len() - 2..]);
    node.stop().await;
    drop(directory);
}

#[tokio::test]
async fn a_vault_is_asked_with_its_token_for_the_path_and_the_field() {
    let vault = FakeVault::start(None).await;
    let address = vault.address.clone();
    let cluster = Cluster::start_with(|directory, settings: &mut Settings| {
        let token = directory.join("vault.token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let token = format!("${{file:{}}}", token.display()).parse().unwrap();
        let settings_of = VaultSettings { address, token, ca_file: None, namespace: Some("team".to_owned()) };
        settings.vault.insert("default".parse().unwrap(), settings_of);
    })
    .await;
    let (mut web1, mut web2) = (Sealing::join(&cluster, "web1").await, Sealing::join(&cluster, "web2").await);
    for (number, (reference, expected)) in [
        ("${vault:secret/shop/mask#key}", Ok(b"the canary of the vault".to_vec())),
        ("${vault:secret/shop/mask#absent}", Err(FailureKind::NotFound)),
        ("${vault:secret/shop/absent#key}", Err(FailureKind::NotFound)),
        ("${vault:secret/shop/denied#key}", Err(FailureKind::Denied)),
    ]
    .into_iter()
    .enumerate()
    {
        let (from, to) = (format!("web1:/a{number}"), format!("web2:/b{number}"));
        let request = format!("r{number}");
        let grant = begin(&cluster, (&request, &from, &to), reference, &mut web1, &mut web2).await;
        let opened = web1.ask(reference, Right::Ticket(grant.ticket.clone()), &grant).await;
        assert_eq!(opened.map_err(|failure| failure.kind), expected, "{reference}");
    }
    let asked = vault.asked.lock().unwrap().clone();
    assert!(asked[0].starts_with("GET /v1/secret/data/shop/mask HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].to_ascii_lowercase().contains("x-vault-namespace: team\r\n"), "{}", asked[0]);
    assert_eq!(asked.len(), 4, "nothing is cached");
    cluster.stop().await;
    vault.shutdown.finish().await;
}
