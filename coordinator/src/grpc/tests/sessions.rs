//! Agents and their sessions, from the spec to the settled end.

use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::HostStatus;
use common::progress::Progress;
use common::step::file::FileOutput;
use common::ticket::Ticket;
use common::tls;
use common::view::{MigrationStatus, MigrationView};
use proto::channel::{Coordinators, control_client};
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::question::Question;
use proto::v1::{self};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixture::*;
use crate::live::grant;

#[tokio::test]
async fn a_session_is_seen_replaced_and_cut_by_a_revocation() {
    let cluster = Cluster::start().await;
    let (way, mut first) = connect(&cluster, "web1").await;
    let seen = cluster.host("web1").await;
    assert!(seen.connected && seen.status == HostStatus::Enrolled);
    assert_eq!(seen.facts.unwrap().boot_id, "boot of web1");
    let mut second = Agent::connect(&way, "web1", 2).await.unwrap();
    assert!(first.next().await.is_none(), "the older session goes on");
    let refused = Agent::connect(&way, "web1", 1).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Fenced, "an earlier start of the agent: {refused}");
    let request = v1::HostRequest { host: "web1".to_owned() };
    let revoke = |channel| {
        let request = request.clone();
        async move { control_client(channel).revoke_host(request).await }
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    assert!(second.next().await.is_none(), "the session of a revoked host goes on");
    assert!(Agent::connect(&way, "web1", 3).await.is_err());
    assert!(!cluster.host("web1").await.connected);
    cluster.stop().await;
}

/// Reports progress, renews the lease and one that nobody holds, and looks at the view.
async fn report_and_renew(cluster: &Cluster, destination: &mut Agent, copy: &v1::Grant) {
    let progress = Progress { files_done: 5, files_total: 10, is_scan_complete: true, ..Progress::default() };
    let held = (copy.migration.clone(), copy.step.clone(), copy.token);
    destination
        .send(FromAgent::Progress(v1::StepProgress {
            migration: held.0.clone(),
            step: held.1.clone(),
            token: held.2,
            progress: serde_json::to_string(&progress).unwrap(),
        }))
        .await;
    let lease = v1::HeldLease { migration: held.0, step: held.1, token: held.2 };
    let foreign = v1::HeldLease { token: Some(v1::Token { epoch: 1, index: 1 }), ..lease.clone() };
    destination
        .send(FromAgent::Heartbeat(v1::Heartbeat { number: 1, renew: vec![lease, foreign], wall_ms: 0 }))
        .await;
    let Some(ToAgent::Renewed(renewed)) = destination.next_but_roots().await else { panic!("no renewal") };
    assert_eq!(renewed.leases.len(), 1);
    assert_eq!(renewed.leases[0].token, copy.token);
    assert!(
        matches!(destination.next_but_roots().await, Some(ToAgent::Revoke(_))),
        "a lease that nobody holds"
    );
    let view = look(cluster, &copy.migration).await;
    assert_eq!((view.status, view.files_done), (MigrationStatus::Running, 5));
}

/// Looks at a migration.
async fn look(cluster: &Cluster, migration: &str) -> MigrationView {
    let request = v1::MigrationRequest { migration: migration.to_owned() };
    let call = |channel| {
        let request = request.clone();
        async move { control_client(channel).get_migration(request).await }
    };
    document(&cluster.operator.call(PATIENCE, call).await.unwrap())
}

/// Asks for a migration between two connected agents and returns the first grant.
pub(super) async fn begin(
    cluster: &Cluster,
    source: &mut Agent,
    destination: &mut Agent,
) -> (MigrationView, v1::Grant) {
    let asking = cluster.migrate("r1", "web1:/var/www", "web2:/srv/www");
    // Both agents answer about their roots while the operator waits.
    let (made, grant) = tokio::join!(asking, async {
        tokio::select! {
            _ = source.next_but_roots() => None,
            grant = destination.next_but_roots() => grant,
        }
    });
    let Some(ToAgent::Grant(grant)) = grant else { panic!("{grant:?} instead of a grant") };
    (made.unwrap(), grant)
}

/// Connects the agent again under its own certificate.
async fn again(way: &Coordinators, host: &str, incarnation: u64) -> Agent {
    Agent::connect(way, host, incarnation).await.unwrap()
}

#[tokio::test]
async fn what_a_move_waits_for_is_said() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (made, grant) = begin(&cluster, &mut source, &mut destination).await;
    let drain = |way| async move {
        control_client(way).drain_host(v1::DrainRequest { host: "web2".to_owned(), drain: true }).await
    };
    cluster.operator.call(PATIENCE, drain).await.unwrap();
    destination.succeed(&grant, &FileOutput { version: 1, ..FileOutput::default() }).await;
    let warnings = look(&cluster, made.id.as_str()).await.warnings;
    assert!(warnings.iter().any(|line| line.contains("the host `web2` is draining")), "{warnings:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_agents_of_a_step_hear_of_each_other() {
    let cluster = Cluster::start().await;
    let (way, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (_, grant) = begin(&cluster, &mut source, &mut destination).await;
    let ToAgent::Serve(serve) = source.introduction().await else { panic!("the source serves") };
    let ticket = Ticket::open(&serve.ticket, &cluster.authority()).unwrap();
    assert_eq!(Some(grant::token(ticket.token)), grant.token);
    assert_eq!(serve.peer_addresses, ["127.0.0.1:7443"]);
    let seen = |message| match message {
        ToAgent::PeerSeen(seen) => (seen.token, seen.connected, seen.incarnation),
        other => panic!("{other:?}"),
    };
    assert_eq!(seen(destination.introduction().await), (grant.token, true, 1));
    drop(source);
    assert_eq!(seen(destination.introduction().await), (grant.token, false, 1));
    let mut source = again(&way, "web1", 2).await;
    assert_eq!(seen(destination.introduction().await), (grant.token, true, 2));
    assert!(matches!(source.introduction().await, ToAgent::Serve(_)), "the new process knows nobody");
    cluster.stop().await;
}

#[tokio::test]
async fn a_step_that_waits_for_its_source_goes_on_when_that_is_back() {
    let cluster = Cluster::start().await;
    let (way, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (_, mut grant) = begin(&cluster, &mut source, &mut destination).await;
    let gone = serde_json::to_string(&Failure::new(FailureKind::Unreachable, "it is gone")).unwrap();
    // By the seventh time the delay between attempts is far longer than a message is waited for here.
    for incarnation in 2..9 {
        drop(source);
        let failed = v1::Failure { document: gone.clone() };
        destination.tell(&grant, v1::step_event::Event::Failed(failed)).await;
        source = again(&way, "web1", incarnation).await;
        grant = match destination.next_but_roots().await {
            Some(ToAgent::Grant(grant)) => grant,
            other => panic!("{other:?} instead of a grant"),
        };
        assert_eq!(u64::from(grant.attempt), incarnation);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_given_back_waits_for_the_next_start_and_not_for_its_time() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (way, mut destination) = connect(&cluster, "web2").await;
    let (made, grant) = begin(&cluster, &mut source, &mut destination).await;
    let released = vec![v1::HeldLease {
        migration: grant.migration.clone(),
        step: grant.step.clone(),
        token: grant.token,
    }];
    destination.send(FromAgent::Leaving(v1::Leaving { released })).await;
    let Some(ToAgent::Revoke(revoke)) = destination.next_but_roots().await else { panic!("no answer") };
    assert_eq!(revoke.token, grant.token);
    let migration = cluster.node.hub().migration(&made.tenant, made.id.as_str()).unwrap();
    let step = &migration.steps[0];
    assert_eq!((step.lease.as_ref(), step.failures), (None, 0), "it neither is held nor has failed");
    // Nothing is granted to an agent that ends; the next start gets it.
    cluster.node.hub().wake.notify_one();
    let mut next = again(&way, "web2", 2).await;
    let Some(ToAgent::Grant(second)) = next.next_but_roots().await else { panic!("no second grant") };
    assert_eq!(second.attempt, 2);
    while let Some(message) = destination.next_but_roots().await {
        assert!(matches!(message, ToAgent::Revoke(_)), "{message:?} to an agent that ends");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn an_agent_that_started_again_is_granted_anew_at_once() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (way, mut destination) = connect(&cluster, "web2").await;
    let (_, first) = begin(&cluster, &mut source, &mut destination).await;
    let mut again = Agent::connect(&way, "web2", 2).await.unwrap();
    let Some(ToAgent::Grant(second)) = again.next_but_roots().await else { panic!("no second grant") };
    assert_eq!((second.step.as_str(), second.attempt), (first.step.as_str(), 2));
    let index = |grant: &v1::Grant| grant.token.map(|token| (token.epoch, token.index));
    assert!(index(&second) > index(&first), "the second fence is not above the first");
    // What the first start still says about its lease counts for nothing, and is acknowledged.
    again.succeed(&first, &FileOutput { version: 1, ..FileOutput::default() }).await;
    assert_eq!(cluster.host("web2").await.steps_running, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_migration_runs_from_the_spec_to_the_settled_end() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (made, copy) = begin(&cluster, &mut source, &mut destination).await;
    assert_eq!((copy.migration.as_str(), copy.kind.as_str()), (made.id.as_str(), "file.copy@1"));
    let ticket = Ticket::open(&copy.ticket, &cluster.authority()).unwrap();
    assert_eq!((ticket.source_root.as_str(), ticket.destination.as_str()), ("/var/www", "web2"));
    let token = copy.token.map(|token| FencingToken { epoch: token.epoch, index: token.index });
    assert_eq!(Some(ticket.token), token);
    // A repeated request finds the migration that it made.
    assert_eq!(cluster.migrate("r1", "web1:/var/www", "web2:/srv/www").await.unwrap().id, made.id);

    report_and_renew(&cluster, &mut destination, &copy).await;

    let output = FileOutput {
        version: 1,
        files_total: 10,
        files_sent: 10,
        is_verified: true,
        ..FileOutput::default()
    };
    destination.succeed(&copy, &output).await;
    let Some(ToAgent::Grant(verify)) = destination.next_but_roots().await else {
        panic!("no grant of verify")
    };
    assert_eq!(verify.kind, "file.verify@1");
    assert_eq!(verify.inputs.get(&copy.step).map(String::is_empty), Some(false));
    destination.succeed(&verify, &output).await;
    let Some(ToAgent::Question(v1::Question { number, question: Some(Question::Settle(_)) })) =
        destination.next_but_roots().await
    else {
        panic!("the way back was not settled")
    };
    let answer = Some(v1::answer::Answer::Document("{}".to_owned()));
    destination.send(FromAgent::Answer(v1::Answer { number, answer })).await;

    let request = v1::MigrationRequest { migration: copy.migration.clone() };
    let call = |channel| {
        let request = request.clone();
        async move { control_client(channel).watch_migration(request).await }
    };
    let mut views = cluster.operator.call(PATIENCE, call).await.unwrap();
    let mut last = None;
    while let Some(view) = views.message().await.unwrap() {
        last = Some(serde_json::from_str::<MigrationView>(&view.document).unwrap());
    }
    let last = last.unwrap();
    assert_eq!((last.status, last.exit_code, last.verified), (MigrationStatus::Completed, Some(0), true));
    cluster.stop().await;
}

#[tokio::test]
async fn roots_that_hold_each_other_or_are_taken_are_refused() {
    let cluster = Cluster::start().await;
    let (_, mut agent) = connect(&cluster, "web1").await;
    let (_, mut other) = connect(&cluster, "web2").await;
    let answering = async {
        loop {
            tokio::select! {
                _ = agent.next_but_roots() => {}
                _ = other.next_but_roots() => {}
            }
        }
    };
    let asking = async {
        let invalid = Some(FailureKind::Invalid);
        assert_eq!(kind(cluster.migrate("r1", "web1:/a", "web1:/a").await), invalid);
        assert_eq!(kind(cluster.migrate("r2", "web1:/a", "web1:/a/b").await), invalid);
        assert_eq!(kind(cluster.migrate("r3", "web1:/a/b", "web1:/a").await), invalid);
        assert_eq!(kind(cluster.migrate("r4", "web1:/a", "web9:/a").await), Some(FailureKind::NotFound));
        cluster.migrate("r5", "web1:/a", "web2:/b").await.unwrap();
        let conflict = Some(FailureKind::Conflict);
        assert_eq!(kind(cluster.migrate("r6", "web1:/c", "web2:/b").await), conflict);
        assert_eq!(kind(cluster.migrate("r7", "web1:/c", "web2:/b/d").await), conflict);
    };
    tokio::select! {
        () = answering => {}
        () = asking => {}
    }
    cluster.stop().await;
}

#[tokio::test]
async fn others_learn_at_once_which_host_is_revoked_and_later_ones_with_their_session() {
    let cluster = Cluster::start().await;
    cluster.join("web1").await;
    let (way, mut other) = connect(&cluster, "web2").await;
    let request = v1::HostRequest { host: "web1".to_owned() };
    let revoke = |channel| {
        let request = request.clone();
        async move { control_client(channel).revoke_host(request).await }
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    let expected =
        v1::RevokedHosts { hosts: vec![v1::RevokedHost { host: "web1".to_owned(), generation: 1 }] };
    assert_eq!(other.next().await, Some(ToAgent::RevokedHosts(expected.clone())));
    let mut again = Agent::connect(&way, "web2", 2).await.unwrap();
    assert_eq!(again.next().await, Some(ToAgent::RevokedHosts(expected)));
    cluster.stop().await;
}

/// Returns a connection of a host on which nothing is asked, as a stranger's tool would hold it open.
async fn idle(
    cluster: &Cluster,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
) -> TlsStream<TcpStream> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = tls::Identity::new(vec![certificate], key).unwrap();
    let config = tls::client_config(identity, &cluster.authority(), tls::ALPN_GRPC).unwrap();
    let stream = TcpStream::connect(cluster.node.api_address()).await.unwrap();
    let name = tls::COORDINATOR_NAME.try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Reads until the other side ends the connection.
async fn ended(mut stream: TlsStream<TcpStream>) {
    let mut bytes = [0; 1024];
    // A cut is an end of file or a reset, whichever comes first.
    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

#[tokio::test]
async fn a_revoked_host_is_cut_off_and_nobody_else_is() {
    let cluster = Cluster::start().await;
    let (key, certificate) = cluster.join("web1").await;
    let way = cluster.way_of(certificate.clone(), &key);
    let mut agent = Agent::connect(&way, "web1", 1).await.unwrap();
    let (other_key, other_certificate) = cluster.join("web2").await;
    let other_way = cluster.way_of(other_certificate.clone(), &other_key);
    let mut other = Agent::connect(&other_way, "web2", 1).await.unwrap();
    let others = idle(&cluster, other_certificate, &other_key).await;
    let silent = idle(&cluster, certificate, &key).await;
    let request = v1::HostRequest { host: "web1".to_owned() };
    let revoke = |channel| {
        let request = request.clone();
        async move { control_client(channel).revoke_host(request).await }
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    // Both ends come from the coordinator: nothing here would end them before the test gives up, and the ten seconds in
    // which they must come are bounded by how often the coordinator looks.
    assert!(crate::reconcile::revocation::INTERVAL * 2 <= Duration::from_secs(10));
    let cut = async {
        while let Ok(Some(_)) = agent.inbound.message().await {}
        ended(silent).await;
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("a revoked host stays connected");
    tokio::select! {
        biased;
        () = ended(others) => panic!("what another host has open was cut too"),
        () = tokio::task::yield_now() => {}
    }
    let again = Agent::connect(&way, "web1", 2).await.err().unwrap();
    assert!(matches!(again.kind, FailureKind::Unauthenticated | FailureKind::Denied), "{again}");
    // The other host is told, and its session goes on.
    assert!(matches!(other.next().await, Some(ToAgent::RevokedHosts(_))));
    other.send(FromAgent::Heartbeat(v1::Heartbeat { number: 1, renew: Vec::new(), wall_ms: 0 })).await;
    assert!(matches!(other.next().await, Some(ToAgent::Renewed(_))));

    // Whoever is invited again at once holds nothing open of before.
    let (key, certificate) = cluster.join("web1").await;
    let silent = idle(&cluster, certificate, &key).await;
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    cluster.invite("web1").await;
    tokio::time::timeout(PATIENCE, ended(silent)).await.expect("a revoked host stays connected");
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_revocation_voided_stays_void_when_the_host_joins_again() {
    let cluster = Cluster::start().await;
    let (way, _first) = connect(&cluster, "web2").await;
    cluster.join("web1").await;
    let request = v1::HostRequest { host: "web1".to_owned() };
    let revoke = |channel| {
        let request = request.clone();
        async move { control_client(channel).revoke_host(request).await }
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    // Invited, and joined: an agent that starts now has seen nothing of the revocation.
    for incarnation in 2..=3 {
        let mut agent = Agent::connect(&way, "web2", incarnation).await.unwrap();
        let Some(ToAgent::RevokedHosts(told)) = agent.next().await else { panic!("it is not told") };
        assert_eq!(told.hosts, [v1::RevokedHost { host: "web1".to_owned(), generation: 1 }]);
        if incarnation == 2 {
            cluster.join("web1").await;
            let state = cluster.node.hub().state();
            let now = common::clock::wall();
            let later = common::clock::WallMs(now.0 + 3 * 3_600_000);
            let tenant = common::id::TenantId::default_tenant();
            assert!(crate::reconcile::revocation::all(&state, &tenant, now).is_some());
            assert!(
                crate::reconcile::revocation::all(&state, &tenant, later).is_none(),
                "they have ended by then"
            );
        }
    }
    cluster.stop().await;
}
