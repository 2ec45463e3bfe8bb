//! Files that change while they are read.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use sync::range::{self, RANGE_BYTES};
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Fetch, Reply, What, Why};

use super::cluster::{Cluster, connected};
use super::odd_tree::{noise, odd_tree, write};
use super::{ask, failed, rel, stamp};
use crate::peer::{ContentReceiver, FetchSender};

fn before_text() -> Stamp {
    Stamp { ino: 1, size: 3, mtime: Time::default(), ctime: Time::default() }
}

/// Asks for a whole file and returns its size and digest, or why there is none.
async fn whole(
    sender: &FetchSender,
    receiver: &ContentReceiver,
    path: &str,
    stamp: Stamp,
) -> Result<(u64, [u8; 32]), Why> {
    let answers =
        ask(sender, receiver, vec![Fetch { id: 1, path: rel(path), stamp, what: What::Bytes }], 1).await;
    match &answers[0].reply {
        Reply::Pack(pack) => Ok((pack.files[0].stamp.size, pack.files[0].digest)),
        Reply::Failed(failed) => Err(failed[0].why.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_state_is_told_as_such() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1, None).await.unwrap();
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
    let small = Fetch { id: 2, path: rel("text"), stamp: before_text(), what: What::Bytes };
    let answers = ask(&sender, &receiver, vec![small], 1).await;
    assert_eq!(failed(&answers[0]), [(2, Why::Changed { stamp: Some(stamp(&tree.path().join("text"))) })]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_that_changes_under_the_read_is_never_a_mixture() {
    const SIZE: usize = 320_000;
    let (cluster, tree) = (Cluster::new(), tempfile::tempdir().unwrap());
    let path = tree.path().join("busy");
    std::fs::write(&path, vec![0; SIZE]).unwrap();
    let (_source, _destination, open) = connected(&cluster, tree.path()).await;
    let (sender, receiver) = open.content(1, None).await.unwrap();
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
    let busy = || Fetch { id: 1, path: rel("busy"), stamp: before_text(), what: What::Bytes };
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
    let (sender, receiver) = open.content(1, None).await.unwrap();
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
