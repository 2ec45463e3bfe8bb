//! Sources that do not keep to the protocol: whatever they send is an error here, and soon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::TenantId;
use common::rel_path::RelPath;
use common::tls::{self, Clients};
use quinn::crypto::rustls::QuicServerConfig;
use sync::codec;
use sync::entry::{Entry, Kind};
use sync::frame::{FrameKind, Header};
use sync::listing::{Listing, ListingEnd};
use sync::range::ChainingValue;
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Coding, Confirmed, Fetch, Layout, RangeReply, Reply, Values, What};
use sync::wire::control::{Bye, Counters, Opened, ToDestination};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, PROTOCOL_VERSION, ScanRequest};
use sync::wire::manifest::{End, Head, Item};
use tokio::sync::watch;

use crate::context::{Peer, PeerNews};
use crate::lane::Lane;
use crate::link::Link;
use crate::peer::Source;
use crate::serve::tests::cluster::Cluster;
use crate::window::{Role, WindowBudget};

/// A source with a good certificate that sends these bytes on the first lane after the control lane.
struct Hostile {
    address: SocketAddr,
    _quic: quinn::Endpoint,
}

fn hostile(cluster: &Cluster, bytes: Vec<u8>) -> Hostile {
    let tls = tls::server_config(
        cluster.authority.identity("web1"),
        &cluster.authority.certificate,
        Clients::Certified,
        tls::ALPN_DATA,
    );
    let crypto = QuicServerConfig::try_from(tls.unwrap()).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let quic = quinn::Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (address, accepting) = (quic.local_addr().unwrap(), quic.clone());
    cluster.shutdown.spawn(async move {
        let connection = accepting.accept().await.unwrap().await.unwrap();
        let share = WindowBudget::default().share(&connection, Role::Source);
        let link = Link::new(connection, share).unwrap();
        let mut control = link.accept_lane().await.unwrap();
        control.receiver.message::<Hello>(&mut Vec::new()).await.unwrap();
        control.sender.message(&ToDestination::Opened(opened())).await.unwrap();
        if let Ok(Lane { mut sender, receiver: _receiver }) = link.accept_lane().await {
            // It may be cut off in the middle.
            sender.bytes(bytes.into()).await.ok();
            sender.finish();
            link.closed().await;
        }
    });
    Hostile { address, _quic: quic }
}

fn opened() -> Opened {
    Opened {
        version: PROTOCOL_VERSION,
        now: Time::default(),
        boot_id: String::new(),
        root_dev: 1,
        root_ino: 2,
        fs_type: "ext4".to_owned(),
        is_network_fs: false,
    }
}

async fn connect(cluster: &Cluster, hostile: &Hostile) -> Source {
    let peer = Peer {
        tenant: TenantId::default_tenant(),
        host: "web1".parse().unwrap(),
        addresses: vec![hostile.address],
        token: FencingToken { epoch: 1, index: 9 },
        ticket: watch::channel(vec![1]).1,
        news: watch::channel(PeerNews::default()).1,
        was_reached: false,
    };
    let destination = cluster.endpoint("web2");
    Source::open(&destination, &peer, watch::channel(None).1).await.unwrap()
}

fn entry(name: &[u8], kind: Kind) -> Entry {
    Entry {
        name: name.to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        ctime: Time::default(),
        dev: 1,
        ino: 2,
        nlink: 1,
        xattrs: Vec::new(),
    }
}

fn head() -> Item {
    Item::Head(Head { started: Time::default(), root: entry(b"", Kind::Directory) })
}

fn listing(path: &str, entries: Vec<Entry>) -> Item {
    let path = RelPath::try_from(path.as_bytes().to_vec()).unwrap();
    let (problems, stages) = (Vec::new(), Vec::new());
    Item::Listing(Listing { path, part: 0, entries, problems, stages, end: ListingEnd::Complete })
}

fn block_of(raw_bytes: usize, compressed: &[u8]) -> Vec<u8> {
    let header = Header { kind: FrameKind::ManifestBlock, body_bytes: 4 + compressed.len() };
    let raw_bytes = u32::try_from(raw_bytes).unwrap().to_le_bytes();
    [&header.to_bytes().unwrap()[..], &raw_bytes, compressed].concat()
}

fn block(items: &[Item]) -> Vec<u8> {
    let mut raw = Vec::new();
    for item in items {
        codec::encode(item, &mut raw).unwrap();
    }
    block_of(raw.len(), &zstd::bulk::compress(&raw, 1).unwrap())
}

/// Returns how many items came before the manifest failed, and how it failed.
async fn receive(bytes: Vec<u8>) -> (usize, Failure) {
    let cluster = Cluster::new();
    let hostile = hostile(&cluster, bytes);
    let source = connect(&cluster, &hostile).await;
    let mut manifest = source.manifest(ScanRequest::default()).await.unwrap();
    let drain = move || {
        let mut count = 0;
        loop {
            match manifest.blocking_next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("a broken manifest was taken for whole"),
                Err(failure) => return (count, failure),
            }
        }
    };
    let drained = tokio::task::spawn_blocking(drain);
    tokio::time::timeout(Duration::from_secs(20), drained).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_manifests_are_refused() {
    let file = |name: &[u8]| entry(name, Kind::File { size: 1, allocated_bytes: 0 });
    let end = |entries, directories| Item::End(End { entries, directories });
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("no beginning", 0, block(&[listing("", Vec::new())])),
        ("two beginnings", 1, block(&[head(), head()])),
        ("not the root first", 1, block(&[head(), listing("a", Vec::new())])),
        ("not announced", 2, block(&[head(), listing("", vec![file(b"a")]), listing("a", Vec::new())])),
        ("a name that climbs", 1, block(&[head(), listing("", vec![entry(b"..", Kind::Directory)])])),
        ("a name with a slash", 1, block(&[head(), listing("", vec![file(b"a/b")])])),
        ("an absolute name", 1, block(&[head(), listing("", vec![file(b"/etc")])])),
        ("an empty name", 1, block(&[head(), listing("", vec![file(b"")])])),
        ("twice the same name", 1, block(&[head(), listing("", vec![file(b"a"), file(b"a")])])),
        ("out of order", 1, block(&[head(), listing("", vec![file(b"b"), file(b"a")])])),
        (
            "a directory is missing",
            2,
            block(&[head(), listing("", vec![entry(b"a", Kind::Directory)]), end(1, 1)]),
        ),
        ("wrong totals", 2, block(&[head(), listing("", Vec::new()), end(7, 1)])),
        ("cut off between blocks", 2, block(&[head(), listing("", Vec::new())])),
        ("cut off in a block", 0, block(&[head(), listing("", Vec::new())])[..20].to_vec()),
        ("garbage", 0, vec![0x5a; 100]),
        ("a huge frame", 0, vec![FrameKind::ManifestBlock.number(), 1, 0xff, 0xff, 0xff, 0xff]),
        ("a huge block", 0, block_of(u32::MAX as usize, b"x")),
        ("more than it says", 0, block_of(3, &zstd::bulk::compress(&vec![0; 1 << 22], 1).unwrap())),
        ("not compressed", 0, block_of(3, b"abc")),
    ];
    for (name, items, bytes) in cases {
        let (count, failure) = receive(bytes).await;
        assert_eq!(count, items, "{name}: {failure:?}");
        assert!(matches!(failure.kind, FailureKind::Bug | FailureKind::Unreachable), "{name}: {failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_it_says_is_refused() {
    let stamp = Stamp { ino: 1, size: 2 << 20, mtime: Time::default(), ctime: Time::default() };
    let range = |stored_bytes| RangeReply {
        id: 1,
        index: 0,
        stamp,
        length: 1 << 20,
        layout: Layout::Dense,
        value: ChainingValue([0; 32]),
        coding: Coding::Zstd,
        stored_bytes,
    };
    let reply = |stored: &[u8]| {
        let mut bytes = Vec::new();
        codec::encode(&Reply::Range(range(stored.len())), &mut bytes).unwrap();
        [&bytes, stored].concat()
    };
    let frame = |reply: &Reply| {
        let mut bytes = Vec::new();
        codec::encode(reply, &mut bytes).unwrap();
        bytes
    };
    let values = Values { id: 1, first: 0, values: vec![ChainingValue([0; 32]); 2] };
    let confirmed = Confirmed { id: 1, stamp, is_reread: true };
    let cases = [
        ("a second read that nobody asked for", frame(&Reply::Values(values))),
        ("a second read without values", frame(&Reply::Confirmed(confirmed))),
        ("not compressed", reply(b"garbage")),
        ("less than it says", reply(&zstd::bulk::compress(&[0; 1 << 19], 1).unwrap())),
        ("more than it says", reply(&zstd::bulk::compress(&vec![0; 1 << 21], 1).unwrap())),
        ("cut off", reply(&zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap())[..70].to_vec()),
        ("a request", vec![FrameKind::Request.number(), 1, 1, 0, 0, 0, 0]),
    ];
    for (name, bytes) in cases {
        let cluster = Cluster::new();
        let hostile = hostile(&cluster, bytes);
        let source = connect(&cluster, &hostile).await;
        let (sender, mut receiver) = source.content(1).await.unwrap();
        let path = RelPath::try_from(b"f".to_vec()).unwrap();
        sender.send(vec![Fetch { id: 1, path, stamp, what: What::Range { index: 0 } }]).await.unwrap();
        let waiting = tokio::task::spawn_blocking(move || receiver.blocking_next().map(|_| ()));
        let refused =
            tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused.kind, FailureKind::Bug | FailureKind::Unreachable), "{name}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_falls_silent_is_given_up() {
    let cluster = Cluster::new();
    let hostile = hostile(&cluster, Vec::new());
    let source = connect(&cluster, &hostile).await;
    let gone = async {
        while source.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    let failure = source.failure().unwrap();
    assert_eq!((failure.kind, failure.retry), (FailureKind::Unreachable, common::failure::Retry::Later));
    assert_eq!(source.counters(), Counters::default());
}

#[test]
fn every_goodbye_is_a_failure_of_its_kind() {
    let numbers: std::collections::BTreeSet<u32> = ErrorCode::ALL.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), ErrorCode::ALL.len());
    for (code, number) in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(u64::from(number)), code);
        let bye = Bye { code, message: "why".to_owned(), hint: "do this".to_owned() };
        let failure = super::farewell(&bye);
        assert_eq!((failure.kind, failure.hint.as_deref()), (code.failure_kind(), Some("do this")));
    }
    assert_eq!(ErrorCode::from_number(u64::MAX), ErrorCode::Protocol);
}
