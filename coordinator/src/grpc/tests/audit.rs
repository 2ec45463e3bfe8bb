//! What the audit holds of callers, and how much of those who knock without end.

use std::net::Ipv4Addr;

use common::audit::line::{Entry, Line};
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
use proto::channel::{Coordinators, audit_client, control_client};
use proto::v1;

use super::fixture::*;
use crate::audit::refusals::Refused;
use crate::state::{Command, access};

/// Calls of one flood over real connections; the bound of lines does not depend on it.
const FLOOD: usize = 1_600;
/// Refusals of the flood that are counted without a connection, as fast as they can be, each from its own address.
const FLOOD_COUNTED: u32 = 200_000;
/// Callers of it beside each other.
const FLOODERS: usize = 16;

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

#[tokio::test]
async fn a_flood_of_refusals_costs_a_few_lines_and_harms_nobody() {
    let cluster = Cluster::start().await;
    let hub = cluster.node.hub();
    let before = (hub.state().audit().count(), hub.proposer.read().applied.map(|applied| applied.index));
    let nobody = tls::enrolling_client_config(Digest::of(&cluster.authority()), ALPN_GRPC).unwrap();
    let ways: Vec<Coordinators> = (0..FLOODERS).map(|_| cluster.way(nobody.clone())).collect();
    let begun = clock::boot();
    let flood = async {
        let mut flooders = tokio::task::JoinSet::new();
        for way in ways {
            flooders.spawn(async move {
                for _ in 0..FLOOD / FLOODERS {
                    let call = |channel| async move {
                        control_client(channel).list_hosts(v1::PageRequest::default()).await
                    };
                    assert_eq!(kind(way.call(PATIENCE, call).await), Some(FailureKind::Unauthenticated));
                }
            });
        }
        let counted = clock::boot();
        for number in 0..FLOOD_COUNTED {
            hub.audit.refusals.note(Refused {
                principal: None,
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
        "{FLOOD} refusals in {took:?}: {} lines, {:?} to {:?} in the log",
        after.0 - before.0,
        before.1,
        after.1
    );
    let minutes = took.as_secs() / 60 + 2;
    // Eight addresses are told apart, the others are others; twice a minute each.
    let lines_max = 20 + 2 * 9 * minutes;
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
    let lines = list(&eve, v1::AuditListRequest { limit: 1_000, ..Default::default() }).await;
    assert!(lines.iter().all(|line| line.tenant.as_str() == "acme"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.object.contains("web1")));
    let verify = |channel| async move { audit_client(channel).verify(v1::AuditVerifyRequest {}).await };
    assert_eq!(kind(eve.call(PATIENCE, verify).await), Some(FailureKind::Denied));
    let export = |all_tenants| {
        move |channel| async move { audit_client(channel).export(v1::AuditExportRequest { all_tenants }).await }
    };
    assert_eq!(kind(eve.call(PATIENCE, export(true)).await), Some(FailureKind::Denied));
    let mut stream = eve.call(PATIENCE, export(false)).await.unwrap();
    let mut text = String::new();
    while let Some(piece) = stream.message().await.unwrap() {
        text.push_str(std::str::from_utf8(&piece.lines).unwrap());
    }
    // What others did is in no form there that could be read, and the chain holds all the same.
    assert!(!text.contains("web1") && !text.contains("host.invite"), "{text}");
    let (mut walk, mut checked) = (Walk::new(), Export::default());
    walk.begin("export", 1, None);
    text.lines().for_each(|line| checked.take(&mut walk, line));
    let (_, head) = checked.end(&mut walk);
    let verdict = walk.finish();
    assert!(verdict.is_intact() && verdict.lines > 2, "{verdict:?}");
    assert!(head.unwrap().is_signed_by(&cluster.authority()));
    let own = text.lines().filter_map(Entry::parse).filter(|entry| matches!(entry, Entry::Line(_)));
    assert_eq!(own.count(), lines.len());
    let answer = cluster.operator.call(PATIENCE, verify).await.unwrap();
    let view: AuditVerifyView = serde_json::from_str(&answer.document).unwrap();
    assert!(view.nodes.len() == 1 && view.nodes[0].findings.is_empty(), "{view:?}");
    cluster.stop().await;
}
