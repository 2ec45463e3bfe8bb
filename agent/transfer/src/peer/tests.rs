//! Sources that do not keep to the protocol: whatever they send is an error here, and soon.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::TenantId;
use common::rel_path::RelPath;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::tls::{self, Clients};
use common::transport::TransportChoice;
use quinn::crypto::rustls::QuicServerConfig;
use sync::codec;
use sync::entry::{Entry, Kind};
use sync::frame::{FrameKind, Header};
use sync::listing::{Listing, ListingEnd};
use sync::only::{LOOKS_MAX, Look};
use sync::range::{ChainingValue, RANGE_BYTES};
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Coding, Confirmed, Fetch, Layout, RangeReply, Reply, Values, What};
use sync::wire::control::{Bye, Counters, Opened, ToDestination};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, PROTOCOL_VERSION, ScanRequest, Watch};
use sync::wire::manifest::{End, Head, Item, LOOKS_IN_ITEM_MAX};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::context::{Peer, PeerNews};
use crate::lane::Lane;
use crate::link::Link;
use crate::patience::Patience;
use crate::peer::Source;
use crate::serve::tests::cluster::{Cluster, peer, relayed};
use crate::window::{Role, WindowBudget};
use sync::wire::control::Sparing;

/// A source with a good certificate and bad intentions.
pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    _quic: quinn::Endpoint,
}

/// Lets a destination in, and goes on as told with the control lane.
fn hostile_doing<A, F>(cluster: &Cluster, act: A) -> Hostile
where
    A: FnOnce(Link, Lane) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    hostile_of(&cluster.authority, &cluster.shutdown, act)
}

/// The same for any cluster.
pub(crate) fn hostile_of<A, F>(authority: &Authority, shutdown: &Shutdown, act: A) -> Hostile
where
    A: FnOnce(Link, Lane) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let tls = tls::server_config(
        authority.identity("web1"),
        &authority.certificate,
        Clients::Certified,
        tls::ALPN_DATA,
    );
    let crypto = QuicServerConfig::try_from(tls.unwrap()).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let quic = quinn::Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (address, accepting) = (quic.local_addr().unwrap(), quic.clone());
    shutdown.spawn(async move {
        let connection = accepting.accept().await.unwrap().await.unwrap();
        let share = WindowBudget::default().share(&connection, Role::Source);
        let link = Link::of_quic(connection, share).unwrap();
        let mut control = link.accept_lane().await.unwrap();
        control.receiver.message::<Hello>(&mut Vec::new()).await.unwrap();
        control.sender.message(&ToDestination::Opened(opened())).await.unwrap();
        act(link, control).await;
    });
    Hostile { address, _quic: quic }
}

/// A source that sends these bytes on the first lane after the control lane.
fn hostile(cluster: &Cluster, bytes: Vec<u8>) -> Hostile {
    hostile_doing(cluster, |link, control| async move {
        let _control = control;
        if let Ok(Lane { mut sender, receiver: _receiver }) = link.accept_lane().await {
            // It may be cut off in the middle.
            sender.bytes(bytes.into()).await.ok();
            sender.finish().await;
            link.closed().await;
        }
    })
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
        sparing: watch::channel(Sparing::default()).1,
        was_reached: false,
        compression: Compression::Auto,
        transport: TransportChoice::Auto,
        relay: None,
    };
    let destination = cluster.endpoint("web2");
    Source::open(&destination, &peer, watch::channel(None).1).await.unwrap()
}

pub(crate) fn entry(name: &[u8], kind: Kind) -> Entry {
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

pub(crate) fn head() -> Item {
    Item::Head(Head { started: Time::default(), root: entry(b"", Kind::Directory) })
}

pub(crate) fn listing(path: &str, entries: Vec<Entry>) -> Item {
    let path = RelPath::try_from(path.as_bytes().to_vec()).unwrap();
    let (problems, stages) = (Vec::new(), Vec::new());
    Item::Listing(Listing { path, part: 0, entries, problems, stages, end: ListingEnd::Complete })
}

fn block_of(raw_bytes: usize, compressed: &[u8]) -> Vec<u8> {
    let header = Header { kind: FrameKind::ManifestBlock, body_bytes: 4 + compressed.len() };
    let raw_bytes = u32::try_from(raw_bytes).unwrap().to_le_bytes();
    [&header.to_bytes().unwrap()[..], &raw_bytes, compressed].concat()
}

pub(crate) fn block(items: &[Item]) -> Vec<u8> {
    let mut raw = Vec::new();
    for item in items {
        codec::encode(item, &mut raw).unwrap();
    }
    block_of(raw.len(), &zstd::bulk::compress(&raw, 1).unwrap())
}

/// Returns how many items came before the manifest failed, and how it failed.
async fn receive(bytes: Vec<u8>) -> (usize, Failure) {
    receive_asked(bytes, Watch::No).await
}

async fn receive_asked(bytes: Vec<u8>, watch: Watch) -> (usize, Failure) {
    let cluster = Cluster::new();
    let hostile = hostile(&cluster, bytes);
    let source = connect(&cluster, &hostile).await;
    let mut manifest = source.manifest(ScanRequest { watch, ..ScanRequest::default() }).await.unwrap();
    let drain = move || {
        let mut count = 0;
        if watch != Watch::No
            && let Err(failure) = manifest.begin()
        {
            return (count, failure);
        }
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
async fn what_a_source_looks_at_is_bounded_and_kept_to() {
    let path = |text: String| RelPath::try_from(text.into_bytes()).unwrap();
    let look = |text: &str| Look { path: path(text.to_owned()), is_deep: false };
    let only = |text: &str| Item::Only(vec![look(text)]);
    let file = entry(b"b", Kind::File { size: 1, allocated_bytes: 0 });
    let many = (0..=LOOKS_MAX / LOOKS_IN_ITEM_MAX).map(|part| {
        let name = |number| Look { path: path(format!("{part}-{number}")), is_deep: false };
        Item::Only((0..LOOKS_IN_ITEM_MAX).map(name).collect())
    });
    let many: Vec<u8> = [Item::Watched(1)].into_iter().chain(many).flat_map(|item| block(&[item])).collect();
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("names without a watch", 0, block(&[only("a"), head()])),
        ("two watches", 0, block(&[Item::Watched(1), Item::Watched(2), head()])),
        (
            "less than everything, and why everything",
            0,
            block(&[Item::Unwatched("so".to_owned()), Item::Watched(1), only("a")]),
        ),
        ("names behind the beginning", 1, block(&[Item::Watched(1), only("a"), head(), only("b")])),
        (
            "a name that is not looked at",
            1,
            block(&[Item::Watched(1), only("a"), head(), listing("", vec![file.clone()])]),
        ),
        (
            "a directory that is not gone into",
            2,
            block(&[
                Item::Watched(1),
                only("b"),
                head(),
                listing("", vec![entry(b"b", Kind::Directory)]),
                listing("b", vec![file]),
            ]),
        ),
        ("too many names", 0, many),
    ];
    for (name, items, bytes) in cases {
        let (count, failure) = receive_asked(bytes, Watch::Begin).await;
        assert_eq!(count, items, "{name}: {failure:?}");
        assert_eq!(failure.kind, FailureKind::Bug, "{name}: {failure:?}");
    }
    let (count, failure) = receive(block(&[Item::Watched(1), head()])).await;
    assert_eq!((count, failure.kind), (0, FailureKind::Bug), "nobody asked: {failure:?}");
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
        let (sender, mut receiver) = source.content(1, None).await.unwrap();
        let path = RelPath::try_from(b"f".to_vec()).unwrap();
        sender.send(vec![Fetch { id: 1, path, stamp, what: What::Range { index: 0 } }]).await.unwrap();
        let waiting = tokio::task::spawn_blocking(move || receiver.blocking_next().map(|_| ()));
        let refused =
            tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused.kind, FailureKind::Bug | FailureKind::Unreachable), "{name}: {refused:?}");
    }
}

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Short, and long enough for a busy host: silence is five beats that were looked at.
const HASTE: Patience = Patience {
    beat: Duration::from_millis(300),
    stall: Duration::from_secs(2),
    second: Duration::from_secs(1),
};

async fn failure_of(source: &Source) -> Failure {
    let gone = async {
        loop {
            match source.failure() {
                Some(failure) => return failure,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap()
}

/// A destination whose disk stands still: it asked for much more than its windows hold, and takes nothing of it.
struct Stuck {
    cluster: Cluster,
    source: Source,
    content: crate::peer::ContentReceiver,
    tickets: watch::Sender<Vec<u8>>,
    cut: CancellationToken,
    root: tempfile::TempDir,
    _serving: crate::endpoint::Endpoint,
    _behind: watch::Sender<SocketAddr>,
}

/// Makes one that asks so often for a mebibyte of the file at this path, and waits until not even the counters have
/// come through for longer than silence may last.
async fn stuck(path: &str, wishes: u64) -> Stuck {
    let (mut cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    cluster.patience = HASTE;
    let file = root.path().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, crate::serve::tests::odd_tree::noise(2 * RANGE_BYTES, 5)).unwrap();
    let metadata = std::fs::metadata(&file).unwrap();
    let time = |seconds, nanos: i64| Time { seconds, nanos: u32::try_from(nanos).unwrap() };
    let stamp = Stamp {
        ino: metadata.ino(),
        size: metadata.size(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
    };
    let (serving, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (behind, target) = watch::channel(serving.local_address().unwrap());
    let (address, cut) = relayed(&cluster, target).await;
    let (peer, tickets) = peer(&serving, cluster.sign(&cluster.ticket(root.path())));
    let peer = Peer { addresses: vec![address], ..peer };
    let source = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    let (fetches, content) = source.content(4, None).await.unwrap();
    let path = RelPath::try_from(path.as_bytes().to_vec()).unwrap();
    cluster.shutdown.spawn(async move {
        for id in 0..wishes {
            let fetch = Fetch { id, path: path.clone(), stamp, what: What::Range { index: 0 } };
            // The connection may end before all is asked for.
            if fetches.send(vec![fetch]).await.is_err() {
                return;
            }
        }
    });
    let silence = HASTE.beat * 10;
    let starved = async {
        loop {
            let told = source.counters();
            tokio::time::sleep(silence).await;
            if told == source.counters() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, starved).await.unwrap();
    Stuck { cluster, source, content, tickets, cut, root, _serving: serving, _behind: behind }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_stands_still_keeps_its_source() {
    let asked = 40;
    let Stuck { cluster, source, content, .. } = &stuck("f", asked).await;
    assert_eq!(source.failure(), None);
    let told = source.counters();
    let mut content = content.clone();
    let taken =
        tokio::task::spawn_blocking(move || (0..asked).map(|_| content.blocking_next().unwrap()).count());
    assert_eq!(
        tokio::time::timeout(PATIENCE, taken).await.unwrap().unwrap(),
        usize::try_from(asked).unwrap()
    );
    let counted = async {
        while source.counters() == told {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(source.failure(), None);
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_ticket_reaches_a_source_that_is_kept_waiting() {
    // Wishes of several times the source's window.
    let path = format!("{0}/{0}/{0}/{0}/f", "d".repeat(200));
    let Stuck { cluster, source, tickets, root, .. } = &stuck(&path, 4_000).await;
    assert_eq!(source.failure(), None);
    // One that it does not take, so that its answer shows that it came.
    let mut other = cluster.ticket(root.path());
    other.step = "file.copy-2".parse().unwrap();
    tickets.send(cluster.sign(&other)).unwrap();
    let failure = failure_of(source).await;
    assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_falls_silent_is_given_up_even_by_who_stands_still() {
    let stuck = stuck("f", 40).await;
    assert_eq!(stuck.source.failure(), None);
    stuck.cut.cancel();
    let failure = failure_of(&stuck.source).await;
    assert_eq!((failure.kind, failure.retry), (FailureKind::Unreachable, common::failure::Retry::Later));
    assert!(failure.message.starts_with("nothing was heard"), "{}", failure.message);
    stuck.cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lives_and_brings_nothing_is_given_up() {
    let mut cluster = Cluster::new();
    cluster.patience = HASTE;
    let hostile = hostile_doing(&cluster, |link, mut control| async move {
        let mut counters = Counters::default();
        loop {
            // It boasts of work that nobody asked for.
            counters.digest_bytes += 1 << 20;
            let told = control.sender.message(&ToDestination::Counters(counters)).await;
            if told.is_err() {
                return;
            }
            tokio::select! {
                _gone = link.closed() => return,
                () = tokio::time::sleep(HASTE.beat) => {}
            }
        }
    });
    let source = connect(&cluster, &hostile).await;
    let mut manifest = source.manifest(ScanRequest::default()).await.unwrap();
    let waiting = tokio::task::spawn_blocking(move || manifest.blocking_next().map(|_| ()));
    let failure = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((failure.kind, failure.retry), (FailureKind::Timeout, common::failure::Retry::Later));
    assert!(failure.message.contains("the source's agent lives"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("stall_limit"));
    assert_eq!(failure_of(&source).await.message, failure.message);
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_dialled_opens_nothing() {
    let cluster = Cluster::new();
    let (tried, opens) = tokio::sync::oneshot::channel();
    let hostile = hostile_doing(&cluster, |link, mut control| async move {
        let opening = link.open_lane();
        tokio::pin!(opening);
        // As long as the destination is there.
        let opened = loop {
            let counters = ToDestination::Counters(Counters::default());
            tokio::select! {
                opened = &mut opening => break opened.is_ok(),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            control.sender.message(&counters).await.ok();
        };
        tried.send(opened).unwrap();
    });
    let source = connect(&cluster, &hostile).await;
    let told = async {
        while source.wire_bytes() < 10_000 && source.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(source.failure(), None);
    drop(source);
    assert!(!opens.await.unwrap(), "it opened a lane that nobody asked for");
    cluster.shutdown.finish().await;
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
