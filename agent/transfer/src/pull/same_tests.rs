//! Trees in which much is the same: sent once, and never believed.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::finding::Rule;
use common::step::file::FileOutput;
use sync::codec;
use sync::entry::Kind;
use sync::wire::content::{Coding, Fetch, Layout, Pack, PackedFile, Reply, Request, Same, What};
use sync::wire::hello::Hello;
use sync::wire::manifest::{End, Item};

use super::tests::{rules, write};
use crate::kill_point::KillPoint;
use crate::lane::{LaneReceiver, LaneSender};
use crate::pair::{Pair, assert_same};
use crate::peer::tests::{block, entry, head, hostile_of, listing};
use crate::snapshot::snapshot;

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(size: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

const SITES: u64 = 20;

/// Makes sites of one core with a file of their own each; returns how much the core and what is not shared has.
fn sites(root: &Path) -> (u64, u64) {
    for site in 0..SITES {
        for number in 0..30 {
            let content = noise(600 + 400 * number, &format!("core {number}"));
            write(root, &format!("site{site:02}/core/class-{number}.php"), &content, 0o644);
        }
        write(root, &format!("site{site:02}/core/archive"), &noise(1024 * 1024, "archive"), 0o600);
        write(root, &format!("site{site:02}/own"), &noise(5_000, &format!("own {site}")), 0o640);
        // What is shorter than its digest and its name is sent each time.
        write(root, &format!("site{site:02}/tiny"), b"the same", 0o640);
        let sparse = std::fs::File::create(root.join(format!("site{site:02}/core/sparse"))).unwrap();
        sparse.set_len(600_000).unwrap();
        sparse.write_all_at(&noise(5_000, "sparse"), 300_000).unwrap();
    }
    let core = (0..30).map(|number| 600 + 400 * number).sum::<u64>() + 1024 * 1024 + 600_000;
    (core, SITES * (5_000 + 8))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_that_share_a_core_send_it_once() {
    let mut pair = Pair::new();
    let (core, own) = sites(&pair.source_root);
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    assert_eq!(output.bytes_total, SITES * core + own);
    assert_eq!((output.bytes_sent, output.bytes_deduplicated), (core + own, (SITES - 1) * core));
    assert_eq!((output.files_sent, output.bytes_resent), (SITES * 34, 0));
    assert!(output.bytes_on_wire < core + own + 500_000, "{} bytes on the wire", output.bytes_on_wire);
    let inode = |site: u64, name: &str| {
        let path = pair.destination_root.join(format!("site{site:02}/core/{name}"));
        std::fs::metadata(path).unwrap().ino()
    };
    for name in ["class-7.php", "archive", "sparse"] {
        let inodes: BTreeSet<u64> = (0..SITES).map(|site| inode(site, name)).collect();
        assert_eq!(inodes.len() as u64, SITES, "each {name} is an inode of its own");
    }
    let blocks = std::fs::metadata(pair.destination_root.join("site19/core/sparse")).unwrap().blocks();
    assert!(blocks * 512 < 300_000, "holes stay holes, with {blocks} blocks");

    let (verified, findings) = pair.verify().await;
    assert_eq!(findings, []);
    let verified = verified.unwrap();
    assert!(verified.is_verified);
    assert_eq!(verified.source_digest, verified.destination_digest);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert!(!pair.destination_root.exists());
    pair.close().await;
}

/// Copies are made from the live tree, where somebody else may be at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_since_it_came_is_not_what_others_are_made_from() {
    let mut pair = Pair::new();
    // Larger than what is held in memory, and with so much between them that the first one has landed.
    let content = noise(400_000, "shared");
    write(&pair.source_root, "a/shared", &content, 0o644);
    for number in 0..24 {
        write(&pair.source_root, &format!("b/{number}"), &noise(1024 * 1024, &number.to_string()), 0o644);
    }
    write(&pair.source_root, "c/shared", &content, 0o644);
    let (mut context, mut findings) = pair.context();
    let (first, is_changed) = (pair.destination_root.join("a/shared"), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&is_changed);
    context.lease = context.lease.with_kill_point(KillPoint::watched(move |_number| {
        if let Ok(file) = std::fs::File::options().write(true).open(&first)
            && !told.swap(true, SeqCst)
        {
            // The same inode, size and time.
            let times = std::fs::FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
            file.write_all_at(b"somebody's", 200_000).unwrap();
            file.set_times(times).unwrap();
        }
    }));
    let output = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await.unwrap();
    assert!(is_changed.load(SeqCst), "the first one was never seen");
    assert_eq!(findings.try_recv().ok(), None);
    assert_eq!(std::fs::read(pair.destination_root.join("c/shared")).unwrap(), content);
    assert_eq!((output.bytes_deduplicated, output.bytes_sent), (0, 800_000 + 24 * 1024 * 1024));
    pair.close().await;
}

/// What earlier attempts copied was not sent, and counts as such for the whole step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_stay_true_over_attempts() {
    let mut pair = Pair::new();
    for site in 0..40 {
        for number in 0..3 {
            let content = noise(200_000, &format!("core {number}"));
            write(&pair.source_root, &format!("site{site:02}/{number}"), &content, 0o644);
        }
    }
    let mut outputs = Vec::new();
    for attempt in 1..=2 {
        let (mut context, _findings) = pair.context();
        context.attempt = attempt;
        if attempt == 1 {
            context.lease = context.lease.with_kill_point(KillPoint::at(100));
        }
        outputs.push(crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await);
    }
    assert!(outputs[0].is_err(), "it was stopped");
    let output = outputs[1].as_ref().unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    assert_eq!(output.bytes_sent + output.bytes_deduplicated, 40 * 600_000);
    // Each attempt sends the core once; of the group that was stopped nobody knows what was copied.
    assert!((600_000..=4_200_000).contains(&output.bytes_sent), "{} bytes were sent", output.bytes_sent);
    assert!(output.bytes_resent <= 600_000, "{} bytes were sent again", output.bytes_resent);
    pair.close().await;
}

/// What a source that lies answers to a wish that comes first.
pub(super) type Lie = fn(&Fetch, &[u8], &[u64]) -> Reply;

/// Serves three files of one content, and says of each something else first.
async fn lying(mut sender: LaneSender, mut receiver: LaneReceiver, content: Vec<u8>, lie: Lie) {
    let mut known: Vec<u64> = Vec::new();
    while let Ok(Some(request)) = receiver.message::<Request>(&mut Vec::new()).await {
        known.extend(request.fetches.iter().map(|fetch| fetch.id));
        for fetch in &request.fetches {
            let reply = match fetch.what {
                What::Whole | What::Held { .. } => lie(fetch, &content, &known),
                _ => Reply::Pack(Pack {
                    files: vec![PackedFile {
                        id: fetch.id,
                        stamp: fetch.stamp,
                        layout: Layout::Dense,
                        digest: *blake3::hash(&content).as_bytes(),
                    }],
                    coding: Coding::Plain,
                    stored_bytes: content.len(),
                    content_bytes: content.len(),
                }),
            };
            let mut bytes = Vec::new();
            codec::encode(&reply, &mut bytes).unwrap();
            if reply.stored_bytes() > 0 {
                bytes.extend_from_slice(&content);
            }
            if sender.bytes(bytes.into()).await.is_err() {
                return;
            }
        }
    }
    sender.finish().await;
    sender.flushed().await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_says_the_same_of_what_never_came_is_asked_for_the_bytes() {
    let lies: [Lie; 4] = [
        |fetch, content, _known| told(fetch, content, u64::MAX),
        |fetch, content, _known| told(fetch, content, fetch.id),
        // Each waits for another one.
        |fetch, content, known| {
            let next = known.iter().find(|id| **id > fetch.id).unwrap_or(&known[0]);
            told(fetch, content, *next)
        },
        |fetch, _content, known| told(fetch, b"something else", known[0]),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut pair = Pair::new();
        let content = noise(3_000, "content");
        let output = copy_from_liar(&mut pair, &content, lie).await;
        // Where each waits for another one and they were not asked for together, one may have come by then.
        let copied = if number == 2 { output.bytes_deduplicated } else { 0 };
        assert_eq!((output.files_sent, output.bytes_sent + copied), (3, 9_000), "lie {number}");
        pair.close().await;
    }
}

/// Copies three files, `a`, `b` and `c`, from a source that lies, and sees that they are right all the same.
pub(super) async fn copy_from_liar(pair: &mut Pair, content: &[u8], lie: Lie) -> FileOutput {
    let (mut context, mut findings) = pair.context();
    let (served, tasks) = (content.to_vec(), pair.shutdown.clone());
    let hostile = hostile_of(&pair.authority, &pair.shutdown, move |link, control| async move {
        let _control = control;
        while let Ok(mut lane) = link.accept_lane().await {
            match lane.receiver.message::<Hello>(&mut Vec::new()).await.unwrap().unwrap() {
                Hello::Manifest(_) => {
                    let size = served.len() as u64;
                    let kind = || Kind::File { size, allocated_bytes: size };
                    let files = ["a", "b", "c"].map(|name| entry(name.as_bytes(), kind()));
                    let end = Item::End(End { entries: 3, directories: 1 });
                    let items = [head(), listing("", files.to_vec()), end];
                    lane.sender.bytes(block(&items).into()).await.unwrap();
                    lane.sender.finish().await;
                    lane.sender.flushed().await.ok();
                }
                _ => {
                    tasks.spawn(lying(lane.sender, lane.receiver, served.clone(), lie));
                }
            }
        }
    });
    context.peer.as_mut().unwrap().addresses = vec![hostile.address];
    let output = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await;
    let told: Vec<_> = std::iter::from_fn(|| findings.try_recv().ok()).collect();
    assert_eq!(rules(&told), Vec::<(Rule, &str)>::new());
    let output = output.unwrap();
    for name in ["a", "b", "c"] {
        let found = std::fs::read(Path::new(&pair.params.destination_root).join(name)).unwrap();
        assert_eq!(found, content, "{name}");
    }
    output
}

fn told(fetch: &Fetch, content: &[u8], of: u64) -> Reply {
    let digest = *blake3::hash(content).as_bytes();
    Reply::Same(vec![Same { id: fetch.id, stamp: fetch.stamp, layout: Layout::Dense, digest, of }])
}
