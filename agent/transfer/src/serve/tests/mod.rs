//! A real source and a small destination over loopback, in one process.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::failure::FailureKind;
use common::rel_path::RelPath;
use sync::byte_string::ByteString;
use sync::entry::{Entry, Kind};
use sync::listing::{Listing, ListingEnd};
use sync::pack;
use sync::range::{self, RANGE_BYTES};
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Fetch, Reply, What, Why};
use sync::wire::control::{Cost, Sparing};
use sync::wire::hello::ScanRequest;
use sync::wire::manifest::Item;
use tokio::sync::watch;

use self::cluster::{Cluster, connected, peer};
use self::odd_tree::{noise, odd_tree, walk, write};
use crate::context::Peer;
use crate::peer::{ContentReceiver, Delivery, FetchSender, ManifestReceiver, Source};
use crate::remote::Remote;
use crate::standing::look_at_self;

pub(crate) mod cluster;
mod crowd;
mod motion;
pub(crate) mod odd_tree;
mod refusal;

async fn listings(mut manifest: ManifestReceiver) -> Vec<Listing> {
    let receive = move || {
        let mut listings = Vec::new();
        while let Some(item) = manifest.blocking_next().unwrap() {
            if let Item::Listing(listing) = item {
                listings.push(listing);
            }
        }
        listings
    };
    tokio::task::spawn_blocking(receive).await.unwrap()
}

fn entries(listings: Vec<Listing>) -> BTreeMap<RelPath, Entry> {
    let mut found = BTreeMap::new();
    for listing in listings {
        for entry in listing.entries {
            found.insert(listing.path.join(&entry.name).unwrap(), entry);
        }
    }
    found
}

/// Asks and takes as many answers as it says.
async fn ask(
    sender: &FetchSender,
    receiver: &ContentReceiver,
    fetches: Vec<Fetch>,
    answers: usize,
) -> Vec<Delivery> {
    let (sender, mut receiver) = (sender.clone(), receiver.clone());
    let talk = move || {
        sender.blocking_send(fetches).unwrap();
        (0..answers).map(|_| receiver.blocking_next().unwrap()).collect()
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).unwrap();
    let time = |seconds, nanos| Time { seconds, nanos: u32::try_from(nanos).unwrap() };
    Stamp {
        ino: metadata.ino(),
        size: metadata.len(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::try_from(path.as_bytes().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_is_what_a_walk_sees() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    assert_eq!(open.opened().root_ino, std::fs::metadata(tree.path()).unwrap().ino());
    let listings = listings(open.manifest(ScanRequest::default()).await.unwrap()).await;
    assert!(listings.iter().all(|listing| matches!(listing.end, ListingEnd::Complete | ListingEnd::More)));
    let (seen, expected) = (entries(listings), walk(tree.path()));
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, metadata) in &expected {
        let entry = &seen[path];
        assert_eq!(entry.kind.is_directory(), metadata.is_dir(), "{path}");
        assert_eq!(matches!(entry.kind, Kind::Symlink { .. }), metadata.is_symlink(), "{path}");
        assert_eq!(
            (entry.mode, entry.ino, u64::from(entry.nlink)),
            (metadata.mode() & 0o7777, metadata.ino(), metadata.nlink()),
            "{path}"
        );
        assert_eq!(
            (entry.mtime.seconds, i64::from(entry.mtime.nanos)),
            (metadata.mtime(), metadata.mtime_nsec()),
            "{path}"
        );
        if metadata.is_file() {
            assert_eq!(entry.size(), metadata.len(), "{path}");
        }
    }
    let target = Kind::Symlink { target: b"../../etc/passwd".to_vec() };
    assert_eq!(seen[&rel("link")].kind, target);
    let (wire_bytes, _counters) = open.finish().await;
    assert!(wire_bytes > 10_000, "{wire_bytes}");
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_work_at_the_source() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let request = ScanRequest {
        exclude: vec![ByteString(b"/many/".to_vec()), ByteString(b"*e*".to_vec())],
        include: vec![ByteString(b"deep".to_vec())],
        ..ScanRequest::default()
    };
    let seen = entries(listings(open.manifest(request).await.unwrap()).await);
    assert!(seen.contains_key(&rel("a/b/c/deep")) && seen.contains_key(&rel("dirs/7/f")));
    assert!(!seen.keys().any(|path| path.as_bytes().starts_with(b"many")));
    assert!(!seen.contains_key(&rel("text")));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_arrives_with_its_digests() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let seen = entries(listings(open.manifest(ScanRequest::default()).await.unwrap()).await);
    let files: Vec<(&RelPath, &Entry)> = seen.iter().filter(|(_, entry)| entry.kind.is_file()).collect();
    let mut fetches = Vec::new();
    let mut wanted = BTreeMap::new();
    for (number, (path, entry)) in files.iter().enumerate() {
        let mut push = |what, index: u64| {
            let id = number as u64 * 1_000 + index;
            wanted.insert(id, (*path, *entry));
            fetches.push(Fetch { id, path: (*path).clone(), stamp: entry.stamp(), what });
        };
        match range::count(entry.size()) {
            0 => push(What::Whole, 0),
            count => (0..count).for_each(|index| push(What::Range { index }, index)),
        }
    }
    let (sender, mut receiver) = open.content(3, None).await.unwrap();
    let root = tree.path().to_owned();
    let expected: BTreeMap<u64, (PathBuf, u64)> = wanted
        .iter()
        .map(|(id, (path, entry))| {
            use std::os::unix::ffi::OsStrExt;
            (*id, (root.join(std::ffi::OsStr::from_bytes(path.as_bytes())), entry.size()))
        })
        .collect();
    let receive = move || {
        sender.blocking_send(fetches).unwrap();
        let (mut left, mut data_bytes) = (expected.len(), 0);
        while left > 0 {
            let Delivery { reply, content, .. } = receiver.blocking_next().unwrap();
            data_bytes += content.len();
            match &reply {
                Reply::Pack(packed) => {
                    for (file, data) in pack::split(packed, &content).unwrap() {
                        let original = std::fs::read(&expected[&file.id].0).unwrap();
                        assert_eq!(file.digest, *blake3::hash(&original).as_bytes());
                        assert_eq!(pack::content_digest(&file.layout, original.len(), data), file.digest);
                        left -= 1;
                    }
                }
                Reply::Range(range) => {
                    assert_eq!(pack::range_value(range, &content), range.value);
                    let original = std::fs::read(&expected[&range.id].0).unwrap();
                    let bounds = range::bounds(original.len() as u64, range.index).unwrap();
                    let bounds = usize::try_from(bounds.start).unwrap()..usize::try_from(bounds.end).unwrap();
                    assert_eq!(range::chaining_value(range.index, &original[bounds]), range.value);
                    left -= 1;
                }
                other => panic!("{other:?}"),
            }
        }
        data_bytes
    };
    let data_bytes = tokio::task::spawn_blocking(receive).await.unwrap() as u64;
    // The holes of `sparse` and `hole` stayed at home.
    assert!(data_bytes < 5 * RANGE_BYTES + 400_000, "{data_bytes}");
    let (_wire, counters) = open.finish().await;
    assert_eq!(counters.content_bytes, data_bytes);
}

fn failed(delivery: &Delivery) -> Vec<(u64, Why)> {
    match &delivery.reply {
        Reply::Failed(failed) => failed.iter().map(|failed| (failed.id, failed.why.clone())).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_the_root_is_read() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", b"secret");
    let (cluster, tree) = (Cluster::new(), odd_tree());
    std::os::unix::fs::symlink(outside.path(), tree.path().join("way-out")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), tree.path().join("file-out")).unwrap();
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1, None).await.unwrap();
    let fetch = |id: u64, path: &str| {
        let (path, stamp) = (rel(path), stamp(&tree.path().join("index.php")));
        Fetch { id, path, stamp, what: What::Whole }
    };
    let fetches = vec![
        fetch(0, "way-out/secret"),
        fetch(1, "file-out"),
        fetch(2, "void"),
        fetch(3, "absent"),
        fetch(4, ""),
    ];
    let answers = ask(&sender, &receiver, fetches, 1).await;
    assert_eq!(failed(&answers[0]), (0..5).map(|id| (id, Why::Vanished)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_told_without_content() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1, None).await.unwrap();
    let fetch = |id: u64, path: &str| Fetch {
        id,
        path: rel(path),
        stamp: stamp(&tree.path().join(path)),
        what: What::Digest,
    };
    let answers =
        ask(&sender, &receiver, vec![fetch(1, "large"), fetch(2, "sparse"), fetch(3, "empty")], 1).await;
    let Reply::Digests(digests) = &answers[0].reply else { panic!("{:?}", answers[0].reply) };
    for (digested, path) in digests.iter().zip(["large", "sparse", "empty"]) {
        let content = std::fs::read(tree.path().join(path)).unwrap();
        assert_eq!(digested.digest, *blake3::hash(&content).as_bytes(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_says_so() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, mut receiver) = open.content(2, None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), source.shutdown()).await.unwrap();
    let told =
        tokio::task::spawn_blocking(move || receiver.blocking_next().map(|_| ()).unwrap_err()).await.unwrap();
    assert_eq!(told.kind, FailureKind::Unreachable, "{told:?}");
    assert_eq!(told.retry, common::failure::Retry::Later);
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_does_not_stop_the_source() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    write(tree.path(), "huge", &noise(64 * RANGE_BYTES, 9));
    let (source, destination, stalled) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = stalled.content(1, None).await.unwrap();
    let stamp = stamp(&tree.path().join("huge"));
    let fetch = |index| Fetch { id: index, path: rel("huge"), stamp, what: What::Range { index } };
    sender.send((0..64).map(fetch).collect()).await.unwrap();
    // Nobody takes the answers; another migration is served all the same.
    let mut ticket = cluster.ticket(tree.path());
    ticket.token.index += 1;
    let (mut peer, _tickets) = peer(&source, cluster.sign(&ticket));
    peer.token = ticket.token;
    let second = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    let seen = entries(listings(second.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
    drop((sender, receiver, stalled));
    tokio::time::timeout(Duration::from_secs(20), source.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_be_its_own_peer() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let both = cluster.endpoint("web1");
    let mut ticket = cluster.ticket(tree.path());
    ticket.destination = ticket.source.clone();
    let (peer, _tickets) = peer(&both, cluster.sign(&ticket));
    let open = Source::open(&both, &peer, watch::channel(None).1).await.unwrap();
    let seen = entries(listings(open.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
    open.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_can_be_lifted_while_content_waits() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    // At a byte a second the file would take a month.
    let (limit, bandwidth) = watch::channel(Some(1));
    let open = Source::open(&destination, &peer, bandwidth).await.unwrap();
    let (sender, receiver) = open.content(1, None).await.unwrap();
    let stamp = stamp(&tree.path().join("large"));
    let fetch = |index| Fetch { id: index, path: rel("large"), stamp, what: What::Range { index } };
    sender.send(vec![fetch(0), fetch(1)]).await.unwrap();
    limit.send(None).unwrap();
    let mut receiver = receiver;
    let taken = tokio::task::spawn_blocking(move || {
        (0..2).map(|_| receiver.blocking_next().unwrap().content.len()).sum::<usize>()
    });
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(20), taken).await.unwrap().unwrap() as u64,
        2 * RANGE_BYTES
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_too_high_holds_the_source_back_until_it_may_be_higher() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    // Any load is above this one.
    let (wish, sparing) = watch::channel(Sparing { max_load: Some(0), is_idle: true });
    let peer = Peer { sparing, ..peer };
    let open = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    let mut cost = open.cost();
    let is_held = |cost: &Option<Cost>| cost.is_some_and(|cost| cost.is_throttled);
    cost.wait_for(is_held).await.unwrap();
    let (sender, receiver) = open.content(1, None).await.unwrap();
    let stamp = stamp(&tree.path().join("large"));
    let fetch = |index| Fetch { id: index, path: rel("large"), stamp, what: What::Range { index } };
    sender.send(vec![fetch(0), fetch(1)]).await.unwrap();
    for _second in 0..2 {
        cost.changed().await.unwrap();
        assert!(is_held(&cost.borrow_and_update()));
        assert_eq!(open.counters().content_bytes, 0, "something was read");
    }
    wish.send(Sparing::default()).unwrap();
    let mut receiver = receiver;
    let taken = tokio::task::spawn_blocking(move || {
        (0..2).map(|_| receiver.blocking_next().unwrap().content.len()).sum::<usize>()
    });
    assert_eq!(taken.await.unwrap() as u64, 2 * RANGE_BYTES);
    cost.wait_for(|cost| !is_held(cost)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_paths_travel_in_several_requests() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (_source, _destination, open) = connected(&cluster, root.path()).await;
    let content = open.content(2, None).await.unwrap();
    let deep = RelPath::try_from(vec!["d".repeat(200); 40].join("/").into_bytes()).unwrap();
    let paths: Vec<_> = (0..512).map(|number| deep.join(number.to_string().as_bytes()).unwrap()).collect();
    let entry = look_at_self(&tree::Root::open(root.path()).unwrap().dir()).unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        let files: Vec<_> = paths.iter().map(|path| (path, &entry)).collect();
        Remote::new(content).digests(&files)
    });
    assert_eq!(asked.await.unwrap(), Ok(vec![None; 512]));
    drop(open);
    cluster.shutdown.finish().await;
}
