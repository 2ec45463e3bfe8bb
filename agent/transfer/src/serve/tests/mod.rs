//! A real source and a small destination over loopback, in one process.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
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
use sync::wire::hello::ScanRequest;
use sync::wire::manifest::Item;
use tokio::sync::watch;

use self::cluster::{Cluster, connected, peer};
use crate::peer::{ContentReceiver, Delivery, FetchSender, ManifestReceiver, Source};

pub(crate) mod cluster;

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn noise(bytes: u64, seed: u8) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(bytes).unwrap()];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut content);
    content
}

fn odd_tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    write(path, "index.php", b"<?php echo 1;");
    write(path, "empty", b"");
    write(path, "a/b/c/deep", b"deep");
    write(path, "a.b/x", b"sorted after a/");
    write(path, "new\nline \u{202e}", b"odd");
    write(path, "large", &noise(3 * RANGE_BYTES + 17, 1));
    write(path, "exactly", &noise(RANGE_BYTES, 2));
    write(path, "text", &b"all work and no play ".repeat(9_000));
    std::fs::create_dir(path.join("void")).unwrap();
    std::os::unix::fs::symlink("../../etc/passwd", path.join("link")).unwrap();
    std::fs::hard_link(path.join("index.php"), path.join("a/again")).unwrap();
    std::fs::set_permissions(path.join("index.php"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let sparse = std::fs::File::create(path.join("sparse")).unwrap();
    sparse.set_len(5 * RANGE_BYTES).unwrap();
    sparse.write_all_at(b"island", 2 * RANGE_BYTES + 4096).unwrap();
    let hole = std::fs::File::create(path.join("hole")).unwrap();
    hole.set_len(100_000).unwrap();
    for number in 0..1_100 {
        write(path, &format!("many/{number}"), format!("{number}").as_bytes());
    }
    for number in 0..40 {
        write(path, &format!("dirs/{number}/f"), b"f");
    }
    root
}

/// Everything below a root by a plain recursive walk.
fn walk(root: &Path) -> BTreeMap<RelPath, std::fs::Metadata> {
    fn descend(root: &Path, below: &RelPath, found: &mut BTreeMap<RelPath, std::fs::Metadata>) {
        use std::os::unix::ffi::OsStrExt;
        for entry in std::fs::read_dir(root).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name().as_bytes()).unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                descend(&entry.path(), &path, found);
            }
            found.insert(path, metadata);
        }
    }
    let mut found = BTreeMap::new();
    descend(root, &RelPath::root(), &mut found);
    found
}

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
    let (sender, mut receiver) = open.content(3).await.unwrap();
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
    let (sender, receiver) = open.content(1).await.unwrap();
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
async fn tickets_for_anything_else_are_refused() {
    let (cluster, foreign, tree) = (Cluster::new(), Cluster::new(), odd_tree());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let good = cluster.ticket(tree.path());
    let mut cases = Vec::new();
    let mut case =
        |name, ticket: &common::ticket::Ticket, kind| cases.push((name, cluster.sign(ticket), kind));
    let mut ticket = good.clone();
    ticket.destination = "web3".parse().unwrap();
    case("another destination", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.source = "web3".parse().unwrap();
    case("another source", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.tenant = "other".parse().unwrap();
    case("another tenant", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.expires = common::clock::WallMs(1);
    case("expired", &ticket, FailureKind::Timeout);
    ticket = good.clone();
    ticket.source_root = "relative".to_owned();
    case("no absolute root", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.source_root = tree.path().join("absent").to_str().unwrap().to_owned();
    case("absent root", &ticket, FailureKind::Invalid);
    ticket.source_root = tree.path().join("index.php").to_str().unwrap().to_owned();
    case("a file as root", &ticket, FailureKind::Invalid);
    cases.push(("forged", foreign.sign(&good), FailureKind::Denied));
    cases.push(("garbage", vec![7; 300], FailureKind::Denied));
    cases.push(("nothing", Vec::new(), FailureKind::Denied));
    for (name, ticket, kind) in cases {
        let (peer, _tickets) = peer(&source, ticket);
        let refused = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap_err();
        assert_eq!(refused.kind, kind, "{name}: {refused:?}");
        assert!(refused.hint.is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_through_the_handshake() {
    let (cluster, foreign, tree) = (Cluster::new(), Cluster::new(), odd_tree());
    let source = cluster.endpoint("web1");
    let stranger = foreign.endpoint("web2");
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    let refused = Source::open(&stranger, &peer, watch::channel(None).1).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unreachable);
    // The other way round: who answers is not who was called.
    let other = cluster.endpoint("web3");
    let destination = cluster.endpoint("web2");
    let (mut peer, _tickets) = cluster::peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    peer.addresses = vec![other.local_address().unwrap()];
    let refused = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_harms_nobody() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, _destination, open) = connected(&cluster, tree.path()).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [1, 20, 300, 1_200, 6_000] {
        for seed in 0..20 {
            let mut datagram = noise(length, seed);
            // Half of them look like the first packet of a connection.
            if seed % 2 == 0 {
                datagram[0] = 0xc0;
            }
            socket.send_to(&datagram, source.local_address().unwrap()).await.unwrap();
        }
    }
    let seen = entries(listings(open.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_state_is_told_as_such() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1).await.unwrap();
    let large = tree.path().join("large");
    // Its time is never long ago, whenever this is asked, so that the source looks twice.
    let later = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    std::fs::File::options().write(true).open(&large).unwrap().set_modified(later).unwrap();
    let before = stamp(&large);
    let fetch = |what| Fetch { id: 1, path: rel("large"), stamp: before, what };
    let answers = ask(&sender, &receiver, vec![fetch(What::Confirm)], 1).await;
    assert!(
        matches!(&answers[0].reply, Reply::Confirmed(confirmed) if confirmed.is_reread && confirmed.stamp == before)
    );
    // It grows: the ranges below the old size are read again and are the same.
    let content = std::fs::read(&large).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&large).unwrap();
    file.write_all_at(b"one more line", before.size).unwrap();
    let answers = ask(&sender, &receiver, vec![fetch(What::Confirm)], 1).await;
    let values = &answers[0].second_read;
    assert_eq!(range::root(before.size, values).unwrap().as_bytes(), blake3::hash(&content).as_bytes());
    assert!(
        matches!(&answers[0].reply, Reply::Confirmed(confirmed) if confirmed.is_reread && confirmed.stamp == stamp(&large))
    );
    // It is written to inside: the second read tells which range.
    file.write_all_at(b"!", RANGE_BYTES + 5).unwrap();
    let answers = ask(&sender, &receiver, vec![fetch(What::Confirm)], 1).await;
    let again = &answers[0].second_read;
    let differs: Vec<usize> = (0..4).filter(|index| again[*index] != values[*index]).collect();
    assert_eq!(differs, [1]);
    // It is cut, and then replaced.
    file.set_len(RANGE_BYTES).unwrap();
    let answers =
        ask(&sender, &receiver, vec![fetch(What::Range { index: 2 }), fetch(What::Confirm)], 1).await;
    assert_eq!(failed(&answers[0]), vec![(1, Why::Changed { stamp: Some(stamp(&large)) }); 2]);
    std::fs::write(tree.path().join("other"), b"x").unwrap();
    std::fs::rename(tree.path().join("other"), &large).unwrap();
    let answers = ask(&sender, &receiver, vec![fetch(What::Confirm)], 1).await;
    assert_eq!(failed(&answers[0]), [(1, Why::Changed { stamp: Some(stamp(&large)) })]);
    // A small file that became large is asked for again in ranges.
    write(tree.path(), "text", &noise(RANGE_BYTES + 1, 3));
    let small = Fetch { id: 2, path: rel("text"), stamp: before_text(), what: What::Whole };
    let answers = ask(&sender, &receiver, vec![small], 1).await;
    assert_eq!(failed(&answers[0]), [(2, Why::Changed { stamp: Some(stamp(&tree.path().join("text"))) })]);
}

fn before_text() -> Stamp {
    Stamp { ino: 1, size: 3, mtime: Time::default(), ctime: Time::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_told_without_content() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1).await.unwrap();
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
async fn a_ticket_that_runs_out_ends_the_connection_and_a_fresh_one_does_not() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let mut ticket = cluster.ticket(tree.path());
    // Two handshakes and a renewal take a small part of this, also on a busy machine.
    ticket.expires = common::clock::WallMs(common::clock::wall().0 + 8_000);
    let (renewed, renewals) = peer(&source, cluster.sign(&ticket));
    let (left, _tickets) = peer(&source, cluster.sign(&ticket));
    let kept = Source::open(&destination, &renewed, watch::channel(None).1).await.unwrap();
    let lost = Source::open(&destination, &left, watch::channel(None).1).await.unwrap();
    renewals.send(cluster.sign(&cluster.ticket(tree.path()))).unwrap();
    let wait = async {
        while lost.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
    assert_eq!(lost.failure().unwrap().kind, FailureKind::Timeout);
    assert!(lost.manifest(ScanRequest::default()).await.is_err());
    let seen = entries(listings(kept.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
    // A fresh ticket for another tree is no renewal.
    let other = tempfile::tempdir().unwrap();
    renewals.send(cluster.sign(&cluster.ticket(other.path()))).unwrap();
    let wait = async {
        while kept.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
    assert_eq!(kept.failure().unwrap().kind, FailureKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_says_so() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, mut receiver) = open.content(2).await.unwrap();
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
    let (sender, receiver) = stalled.content(1).await.unwrap();
    let stamp = stamp(&tree.path().join("huge"));
    let fetch = |index| Fetch { id: index, path: rel("huge"), stamp, what: What::Range { index } };
    sender.send((0..64).map(fetch).collect()).await.unwrap();
    // Nobody takes the answers; another migration is served all the same.
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    let second = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    let seen = entries(listings(second.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
    drop((sender, receiver, stalled));
    tokio::time::timeout(Duration::from_secs(20), source.shutdown()).await.unwrap();
}

/// Asks for a whole file and returns its size and digest, or why there is none.
async fn whole(
    sender: &FetchSender,
    receiver: &ContentReceiver,
    path: &str,
    stamp: Stamp,
) -> Result<(u64, [u8; 32]), Why> {
    let answers =
        ask(sender, receiver, vec![Fetch { id: 1, path: rel(path), stamp, what: What::Whole }], 1).await;
    match &answers[0].reply {
        Reply::Pack(pack) => Ok((pack.files[0].stamp.size, pack.files[0].digest)),
        Reply::Failed(failed) => Err(failed[0].why.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_that_changes_under_the_read_is_never_a_mixture() {
    const SIZE: usize = 320_000;
    let (cluster, tree) = (Cluster::new(), tempfile::tempdir().unwrap());
    let path = tree.path().join("busy");
    std::fs::write(&path, vec![0; SIZE]).unwrap();
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1).await.unwrap();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&is_over);
    // From its start on the file gets the next letter, piece by piece, then the one after that.
    let writer = std::thread::spawn(move || {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        for state in (1..=250).cycle() {
            for piece in 0..16 {
                file.write_all_at(&[state; SIZE / 16], piece * SIZE as u64 / 16).unwrap();
            }
            if told.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
        }
    });
    let busy = || Fetch { id: 1, path: rel("busy"), stamp: before_text(), what: What::Whole };
    // As often as it takes for the writer to get a turn on a busy machine.
    let (mut changed, mut asked) = (0, 0);
    while asked < 60 || (changed == 0 && asked < 100_000) {
        asked += 1;
        let answer = ask(&sender, &receiver, vec![busy()], 1).await.remove(0);
        match &answer.reply {
            // What is believed is what stood there at one moment: one letter, then the one before it.
            Reply::Pack(_) => {
                let switches = answer.content.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(switches <= 1, "a mixture of several states was believed");
            }
            Reply::Failed(failed) if matches!(failed[0].why, Why::Changed { stamp: Some(_) }) => changed += 1,
            other => panic!("{other:?}"),
        }
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(changed > 0, "the file never changed under the read");
    assert_eq!(whole(&sender, &receiver, "busy", before_text()).await.unwrap().0, SIZE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_log_that_grows_is_copied_as_an_earlier_state() {
    let (cluster, tree) = (Cluster::new(), tempfile::tempdir().unwrap());
    let path = tree.path().join("log");
    let line = b"0123456789abcdef";
    std::fs::write(&path, line.repeat(5_000)).unwrap();
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1).await.unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        for _ in 0..20_000 {
            file.write_all(line).unwrap();
        }
    });
    let mut sizes = Vec::new();
    while !writer.is_finished() || sizes.len() < 3 {
        let (size, digest) = whole(&sender, &receiver, "log", before_text()).await.unwrap();
        let lines = usize::try_from(size).unwrap() / line.len();
        assert_eq!(size % line.len() as u64, 0);
        assert_eq!(digest, *blake3::hash(&line.repeat(lines)).as_bytes());
        sizes.push(size);
    }
    writer.join().unwrap();
    assert!(sizes.is_sorted());
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
    let (sender, receiver) = open.content(1).await.unwrap();
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
