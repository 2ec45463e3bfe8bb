//! Floods, and what others notice of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::clock;
use common::failure::FailureKind;
use common::view::ClusterView;
use proto::channel::{access_client, audit_client, control_client};
use proto::v1;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket};

use crate::opening::Pair;
use crate::site::{PATIENCE, Site};
use crate::times::Times;

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(20);
/// Logins that are offered in a second.
const LOGINS_PER_SECOND: u32 = 200;
/// Addresses that they come from, so that the bucket of one address does not take the flood away.
const ADDRESSES: u8 = 64;
/// Connections of the flood of refusals, and the calls on each at once.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 64;

/// Opens a door on this machine that leads to the coordinator from another address of it.
async fn door(site: &Site, last: u8) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, tasks): (SocketAddr, _) = (site.address.parse().unwrap(), site.tasks.clone());
    site.tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = tasks.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((mut near, _)) = accepted else { return };
            let stop = tasks.token().clone();
            tasks.spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((Ipv4Addr::new(127, 0, 1, last), 0).into()).unwrap();
                let Ok(mut far) = socket.connect(target).await else { return };
                tokio::select! {
                    () = stop.cancelled() => {}
                    // How it ended is what its two ends know.
                    _ended = copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    address
}

/// What others do meanwhile: an operator who asks, and an agent that renews its lease.
#[derive(Default)]
struct Others {
    asked: Times,
    renewed: Times,
}

impl Others {
    async fn work(&mut self, site: &Site, pair: &mut Pair, time: Duration) {
        let end = clock::boot().after(time);
        while clock::boot() < end {
            let list = |way| async move {
                control_client(way).list_hosts(v1::PageRequest { from: String::new(), limit: 0 }).await
            };
            self.asked.awaited(async { site.operator.call(PATIENCE, list).await.unwrap() }).await;
            self.renewed.awaited(pair.renew()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn print(&self, when: &str) {
        self.asked.print(&format!("{when}: an operator's question"));
        self.renewed.print(&format!("{when}: an agent's renewal of its lease"));
    }
}

fn login(number: u64, certificate_request: Vec<u8>) -> v1::LoginRequest {
    v1::LoginRequest {
        tenant: "default".to_owned(),
        name: format!("user{number}"),
        password: "not the password at all".to_owned(),
        certificate_request,
    }
}

/// Offers logins, and prints what an operator and an agent notice of it.
pub(crate) async fn logins(site: &Site, pair: &mut Pair) {
    let mut before = Others::default();
    before.work(site, pair, FLOOD / 4).await;
    before.print("quiet");
    let mut ways = Vec::new();
    for last in 1..=ADDRESSES {
        ways.push(Arc::new(site.stranger(&door(site, last).await)));
    }
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let counts: Arc<[AtomicU64; 3]> = Arc::default();
    let flood = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / LOGINS_PER_SECOND);
        let end = clock::boot().after(FLOOD);
        let mut number = 0;
        while clock::boot() < end {
            ticks.tick().await;
            number += 1;
            let way = Arc::clone(&ways[usize::try_from(number).unwrap() % ways.len()]);
            let (counts, request) = (Arc::clone(&counts), login(number, request.clone()));
            site.tasks.spawn(async move {
                let call = |way| {
                    let request = request.clone();
                    async move { access_client(way).login(request).await }
                };
                let place = match way.call(PATIENCE, call).await.err().map(|failure| failure.kind) {
                    Some(FailureKind::Unauthenticated) => 0,
                    Some(FailureKind::Throttled) => 1,
                    _ => 2,
                };
                counts[place].fetch_add(1, Ordering::Relaxed);
            });
        }
        number
    };
    let mut during = Others::default();
    let (offered, ()) = tokio::join!(flood, during.work(site, pair, FLOOD));
    during.print("200 logins a second");
    let [compared, throttled, other] = [0, 1, 2].map(|place| counts[place].load(Ordering::Relaxed));
    println!(
        "  {offered} were offered from {ADDRESSES} addresses: {compared} compared, {throttled} throttled, {other} else"
    );
}

async fn lines_and_index(site: &Site) -> (u64, u64) {
    let list = |way| async move {
        audit_client(way).list(v1::AuditListRequest { limit: 1, ..Default::default() }).await
    };
    let page = site.operator.call(PATIENCE, list).await.unwrap();
    let lines: Vec<common::audit::line::Line> = serde_json::from_str(&page.document).unwrap();
    let status = |way| async move { control_client(way).get_cluster(v1::ClusterRequest {}).await };
    let view: ClusterView =
        serde_json::from_str(&site.operator.call(PATIENCE, status).await.unwrap().document).unwrap();
    (lines[0].number, view.applied_index)
}

/// Asks without end for what is refused, over few connections and many streams, and prints what it costs.
pub(crate) async fn refusals(site: &Site, pair: &mut Pair) {
    let mut viewers = Vec::new();
    for _ in 0..CONNECTIONS {
        viewers.push(Arc::new(site.keyed("viewer").await));
    }
    let before = lines_and_index(site).await;
    let refused = Arc::new(AtomicU64::new(0));
    let end = clock::boot().after(FLOOD);
    let mut floods = Vec::new();
    for way in viewers.iter().flat_map(|way| std::iter::repeat_n(way, STREAMS)) {
        let (way, refused) = (Arc::clone(way), Arc::clone(&refused));
        floods.push(site.tasks.spawn(async move {
            while clock::boot() < end {
                let revoke = |way| async move {
                    control_client(way).revoke_host(v1::HostRequest { host: "web1".to_owned() }).await
                };
                let kind = way.call(PATIENCE, revoke).await.err().map(|failure| failure.kind);
                assert_eq!(kind, Some(FailureKind::Denied));
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut during = Others::default();
    during.work(site, pair, FLOOD).await;
    for flood in floods {
        flood.await.unwrap();
    }
    during.print("a flood of refusals");
    let (refused, after) = (refused.load(Ordering::Relaxed), lines_and_index(site).await);
    let lines = after.0 - before.0;
    println!(
        "  {:.0} refusals a second, {refused} in all: {lines} lines of the audit, {} entries in the log",
        refused as f64 / FLOOD.as_secs_f64(),
        after.1 - before.1
    );
    // The first of each caller, and one more with each minute.
    let minutes = FLOOD.as_secs() / 60 + 2;
    assert!(lines <= 2 * minutes * u64::try_from(CONNECTIONS).unwrap() + 8, "{lines} lines");
}
