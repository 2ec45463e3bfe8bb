//! Whole requests to a real coordinator, and what of them is policy and audit.

use proto::channel::{Coordinators, access_client, control_client};
use proto::v1;
use proto::v1::raft_service_client::RaftServiceClient;

use crate::site::{PATIENCE, Site};
use crate::times::Times;

/// Requests of each kind.
const REQUESTS: usize = 2_000;
/// Changes, each of which waits for the disk.
const CHANGES: usize = 300;

/// A call that this port does not have: the way there and back, TLS and HTTP, and nothing else.
async fn way_only(way: &Coordinators) {
    let call = |way| async move { RaftServiceClient::new(way).append(v1::RaftMessage::default()).await };
    assert!(way.call(PATIENCE, call).await.is_err(), "the port of agents speaks raft");
}

async fn who(way: &Coordinators) {
    let call = |way| async move { access_client(way).who_am_i(v1::WhoRequest {}).await };
    way.call(PATIENCE, call).await.unwrap();
}

async fn refused(way: &Coordinators) {
    let call = |way| async move {
        let request = v1::DrainRequest { host: "web1".to_owned(), drain: true };
        control_client(way).drain_host(request).await
    };
    assert!(way.call(PATIENCE, call).await.is_err(), "a viewer drains hosts");
}

/// Measures them in turns.
pub(crate) async fn run(site: &Site) {
    let (operator, viewer) = (&site.operator, site.keyed("viewer").await);
    site.join("web1").await;
    let mut floor = [Times::default(), Times::default()];
    let (mut by_certificate, mut by_key, mut no) = (Times::default(), Times::default(), Times::default());
    for _ in 0..REQUESTS {
        floor[0].awaited(way_only(operator)).await;
        by_certificate.awaited(who(operator)).await;
        floor[1].awaited(way_only(&viewer)).await;
        by_key.awaited(who(&viewer)).await;
        no.awaited(refused(&viewer)).await;
    }
    floor[0].print("the way alone");
    for (times, floor, what) in [
        (&by_certificate, &floor[0], "a request by certificate"),
        (&by_key, &floor[1], "a request by API key"),
        (&no, &floor[1], "a refused request, which is counted for the audit"),
    ] {
        times.print(what);
        println!("  of which not the way: {:.1} us, allowed 1000 us", times.median() - floor.median());
    }
    let mut changes = Times::default();
    for number in 0..CHANGES {
        let call = |way| async move {
            let labels = vec![format!("turn={number}")];
            access_client(way).label_host(v1::LabelHostRequest { host: "web1".to_owned(), labels }).await
        };
        changes.awaited(async { operator.call(PATIENCE, call).await.unwrap() }).await;
    }
    changes.print("a change with its line, through raft and to the disk");
}
