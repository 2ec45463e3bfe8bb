//! What the audit holds of callers, and how much of those who knock without end.

use std::net::Ipv4Addr;

use common::audit::line::Line;
use common::audit::walk::Walk;
use common::audit::{file::Export, view::AuditVerifyView};
use common::clock;
use common::digest::Digest;
use common::failure::FailureKind;
use common::grant::{Grant, Scope};
use common::id::TenantId;
use common::principal::Principal;
use common::role::Role;
use common::tls::{self, ALPN_GRPC, Identity};
use proto::channel::{Coordinators, Way, audit_client, control_client};
use proto::v1;

use super::fixture::*;
use crate::audit::refusals::Refused;
use crate::state::{Command, access};

/// Connections of one flood by strangers, and by those who hold a key that may not; calls beside each other on each; and
/// how many of each. The bound of lines does not depend on any of it.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 32;
const CALLS: usize = 20;
/// Refusals of the flood that are counted without a connection, as fast as they can be, each from its own address.
const FLOOD_COUNTED: u32 = 200_000;

async fn list(way: &Coordinators, request: v1::AuditListRequest) -> Vec<Line> {
    let call = |channel| {
        let request = request.clone();
        async move { audit_client(channel).list(request).await }
    };
    serde_json::from_str(&way.call(PATIENCE, call).await.unwrap().document).unwrap()
}

/// Returns a way of a person who may read the audit of a tenant of its own.
async fn auditor_of(cluster: &Cluster, tenant: &str) -> Coordinators {
    let tenant: TenantId = tenant.parse().unwrap();
    let grant = Grant { tenant: tenant.clone(), role: Role::Auditor, scope: Scope::default() };
    let hub = cluster.node.hub();
    for command in [
        access::command::Command::CreateTenant { name: tenant.clone() },
        access::command::Command::CreateUser {
            tenant: tenant.clone(),
            name: "eve".parse().unwrap(),
            grant,
            password: None,
        },
    ] {
        hub.propose(hub.principal(), Command::Access(command)).await.unwrap();
    }
    let eve = Principal::Person { tenant, name: "eve".to_owned() };
    let authority = &hub.seals().unwrap().authority;
    let (certificate, key) = authority.issue_with_key(&eve, clock::wall()).unwrap();
    let identity = Identity::new(vec![certificate], key).unwrap();
    cluster.way(tls::client_config(identity, &cluster.authority(), ALPN_GRPC).unwrap())
}

#[tokio::test]
async fn a_change_and_a_refusal_say_who_and_from_where() {
    let cluster = Cluster::start().await;
    cluster.invite("web1").await;
    let done =
        list(&cluster.operator, v1::AuditListRequest { object: "web1".to_owned(), ..Default::default() })
            .await;
    let [line] = done.as_slice() else { panic!("one line: {done:?}") };
    assert_eq!((line.action.as_str(), line.address.as_deref()), ("host.invite", Some("127.0.0.1")));
    // An agent that asks for what is an operator's is refused, and a stranger too.
    let (key, certificate) = cluster.join("web1").await;
    let agent = cluster.way_of(certificate, &key);
    let asked =
        |channel| async move { control_client(channel).revoke_host(v1::HostRequest::default()).await };
    assert_eq!(kind(agent.call(PATIENCE, asked).await), Some(FailureKind::Denied));
    let nobody = tls::enrolling_client_config(Digest::of(&cluster.authority()), ALPN_GRPC).unwrap();
    assert_eq!(kind(cluster.way(nobody).call(PATIENCE, asked).await), Some(FailureKind::Unauthenticated));
    // A change that the state refuses is one too: there is no such host to drain.
    let drain = |channel| async move {
        let request = v1::DrainRequest { host: "web9".to_owned(), drain: true };
        control_client(channel).drain_host(request).await
    };
    assert_eq!(kind(cluster.operator.call(PATIENCE, drain).await), Some(FailureKind::NotFound));
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            let request = v1::AuditListRequest { outcome: "refused".to_owned(), ..Default::default() };
            let lines = list(&cluster.operator, request).await;
            if lines.len() >= 2 {
                return lines;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let mut refused: Vec<(String, String)> =
        refused.await.unwrap().into_iter().map(|line| (line.principal, line.action)).collect();
    refused.sort();
    let of = |who: &str, what: &str| (who.to_owned(), what.to_owned());
    assert!(refused.contains(&of("agent:default/web1", "control.revoke_host")), "{refused:?}");
    assert!(refused.contains(&of("nobody", "control.revoke_host")), "{refused:?}");
    cluster.stop().await;
}

/// Returns the connection that a way has, to be used by many calls at once whatever they are told.
async fn connection(way: &Coordinators) -> Way {
    let held = std::sync::Mutex::new(None);
    let call = |way: Way| {
        *held.lock().unwrap() = Some(way.clone());
        async move { control_client(way).list_hosts(v1::PageRequest::default()).await }
    };
    drop(way.call(PATIENCE, call).await);
    held.into_inner().unwrap().unwrap()
}

#[tokio::test]
async fn a_login_that_is_refused_is_told_to_whose_user_was_tried() {
    let cluster = Cluster::start().await;
    let eve = auditor_of(&cluster, "acme").await;
    for name in ["eve", "a password in the wrong place", "nobody9"] {
        let tried = cluster.login("acme", name, "a wrong password").await;
        assert_eq!(kind(tried), Some(FailureKind::Unauthenticated));
    }
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let request = v1::AuditListRequest { action: "access.login".to_owned(), ..Default::default() };
            if let Some(line) = list(&eve, request).await.pop() {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let line = told.await.unwrap();
    let told = (line.tenant.as_str(), line.principal.as_str(), line.object.as_str());
    assert_eq!(told, ("acme", "nobody", "eve"));
    // What was tried since becomes a line with the end of the minute.
    let rest =
        cluster.node.hub().audit.refusals.take(clock::boot().after(std::time::Duration::from_secs(60)));
    let told = format!("{rest:?}");
    assert!(!told.contains("in the wrong place") && !told.contains("nobody9"), "{told}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_flood_of_refusals_costs_a_few_lines_and_harms_nobody() {
    let cluster = Cluster::start().await;
    let hub = cluster.node.hub();
    let before = (hub.state().audit().count(), hub.proposer.read().applied.map(|applied| applied.index));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push((connection(&cluster.anonymous()).await, FailureKind::Unauthenticated));
        let viewer = cluster.keyed(&cluster.create_key("default", Role::Viewer, &[]).await, None);
        connections.push((connection(&viewer).await, FailureKind::Denied));
    }
    let begun = clock::boot();
    let flood = async {
        let mut flooders = tokio::task::JoinSet::new();
        for (way, refused) in connections.iter().flat_map(|it| std::iter::repeat_n(it, STREAMS)) {
            let (way, refused) = (way.clone(), *refused);
            flooders.spawn(async move {
                for _ in 0..CALLS {
                    let request = v1::DrainRequest { host: "web1".to_owned(), drain: true };
                    let status = control_client(way.clone()).drain_host(request).await.unwrap_err();
                    assert_eq!(proto::status::to_failure(&status).kind, refused);
                }
            });
        }
        let counted = clock::boot();
        for number in 0..FLOOD_COUNTED {
            hub.audit.refusals.note(Refused {
                principal: None,
                tenant: None,
                address: Some(Ipv4Addr::from_bits(number).into()),
                action: "connect".to_owned(),
                object: String::new(),
                reason: "no certificate".to_owned(),
            });
        }
        println!("{FLOOD_COUNTED} counted in {:?}", clock::boot().since(counted));
        flooders.join_all().await;
    };
    // Somebody works meanwhile, and is served.
    let work = async {
        for number in 0..20 {
            cluster.invite(&format!("web{number}")).await;
        }
    };
    tokio::join!(flood, work);
    let took = clock::boot().since(begun);
    let after = (hub.state().audit().count(), hub.proposer.read().applied.map(|applied| applied.index));
    println!(
        "{} refusals in {took:?}: {} lines, {:?} to {:?} in the log",
        2 * CONNECTIONS * STREAMS * CALLS,
        after.0 - before.0,
        before.1,
        after.1
    );
    let minutes = took.as_secs() / 60 + 2;
    // The work, the keys that were made meanwhile or before; eight addresses and these keys are told apart, the others
    // are others; twice a minute each.
    let keys = u64::try_from(CONNECTIONS).unwrap();
    let lines_max = 20 + keys + 2 * (9 + keys) * minutes;
    assert!(after.0 - before.0 <= lines_max, "{} lines", after.0 - before.0);
    let entries = after.1.unwrap_or(0) - before.1.unwrap_or(0);
    assert!(entries <= lines_max + 10, "{entries} entries in the log");
    cluster.stop().await;
}

#[tokio::test]
async fn a_tenant_sees_its_own_lines_and_can_prove_them() {
    let cluster = Cluster::start().await;
    cluster.invite("web1").await;
    let eve = auditor_of(&cluster, "acme").await;
    cluster.create_key("acme", Role::Viewer, &[]).await;
    let lines = list(&eve, v1::AuditListRequest { limit: 1_000, ..Default::default() }).await;
    assert!(lines.iter().all(|line| line.tenant.as_str() == "acme"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.object.contains("web1")));
    let verify = |channel| async move { audit_client(channel).verify(v1::AuditVerifyRequest {}).await };
    assert_eq!(kind(eve.call(PATIENCE, verify).await), Some(FailureKind::Denied));
    let export = |all_tenants| {
        move |channel| async move { audit_client(channel).export(v1::AuditExportRequest { all_tenants }).await }
    };
    assert_eq!(kind(eve.call(PATIENCE, export(true)).await), Some(FailureKind::Denied));
    let exported = async |way: &Coordinators| {
        let mut stream = way.call(PATIENCE, export(false)).await.unwrap();
        let mut text = String::new();
        while let Some(piece) = stream.message().await.unwrap() {
            text.push_str(std::str::from_utf8(&piece.lines).unwrap());
        }
        text
    };
    let text = exported(&eve).await;
    let (mut walk, mut checked) = (Walk::new(), Export::default());
    walk.begin("export", 1, None);
    text.lines().for_each(|line| checked.take(&mut walk, line));
    let (_, head) = checked.end(&mut walk);
    let verdict = walk.finish();
    assert!(verdict.is_intact() && verdict.lines == u64::try_from(lines.len()).unwrap(), "{verdict:?}");
    let head = head.unwrap();
    assert!(head.is_signed_by(&cluster.authority()) && head.tenant.is_some_and(|it| it.as_str() == "acme"));

    // Whatever others do meanwhile, she is told the very same: nothing of them, and not how much it is.
    let page = |limit, from: String| {
        let call = move |channel| {
            let request = v1::AuditListRequest { limit, from: from.clone(), ..Default::default() };
            async move { audit_client(channel).list(request).await }
        };
        async { eve.call(PATIENCE, call).await.unwrap() }
    };
    let before = page(1, String::new()).await;
    for number in 2..20 {
        cluster.invite(&format!("web{number}")).await;
    }
    let after = page(1, String::new()).await;
    assert_eq!(before.document, after.document);
    assert_eq!(before.next.len(), after.next.len());
    assert!(after.next.parse::<u64>().is_err(), "where the list goes on is a number: {}", after.next);
    let rest: Vec<Line> = serde_json::from_str(&page(100, after.next.clone()).await.document).unwrap();
    assert_eq!(rest, lines[1..], "the list goes on where it ended");
    let foreign = cluster.operator.call(PATIENCE, |channel| {
        let request = v1::AuditListRequest { from: after.next.clone(), ..Default::default() };
        async move { audit_client(channel).list(request).await }
    });
    assert_eq!(kind(foreign.await), Some(FailureKind::Invalid), "another tenant's place");
    let without_head = |text: &str| {
        text.lines().filter(|line| !line.contains("signature")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_head(&exported(&eve).await), without_head(&text));
    let answer = cluster.operator.call(PATIENCE, verify).await.unwrap();
    let view: AuditVerifyView = serde_json::from_str(&answer.document).unwrap();
    assert!(view.nodes.len() == 1 && view.nodes[0].findings.is_empty(), "{view:?}");
    cluster.stop().await;
}
