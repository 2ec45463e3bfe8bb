//! Everything that a tree can hold arrives as it was.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::cluster::Cluster;
use tests::{judge, skip, tree};

#[test]
fn the_odd_tree_arrives_whole() {
    if !skip::unless_root("moving owners, devices and trusted attributes") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("odd"), cluster.path("moved"));
    tree::odd(&source).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!(migration["verified"], true, "{migration:#}");
    judge::assert_equal(&source, &destination);

    let (code, again) = cluster.migrate(&source, &destination, &["--delete", "--numeric-ids"]);
    assert_eq!((code, again["files_sent"].as_u64()), (Some(0), Some(0)), "{again:#}");
    judge::assert_equal(&source, &destination);
}

#[test]
fn an_odd_tree_over_another_one_arrives_whole() {
    if !skip::unless_root("moving owners, devices and trusted attributes") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("odd"), cluster.path("moved"));
    tree::odd(&source).unwrap();
    tree::odd(&destination).unwrap();
    // Every sort of difference in metadata and links.
    std::os::unix::fs::lchown(destination.join("owners/www-data"), Some(7), Some(7)).unwrap();
    fs::remove_file(destination.join("links/z/third")).unwrap();
    fs::copy(destination.join("links/a/first"), destination.join("links/z/third")).unwrap();
    fs::hard_link(destination.join("files/one"), destination.join("files/extra-link")).unwrap();
    rustix::fs::removexattr(destination.join("attributes/user"), "user.long").unwrap();
    fs::write(destination.join("files/large"), "short").unwrap();
    fs::remove_dir_all(destination.join("links/a/b")).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--delete"]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("live"), cluster.path("moved"));
    tree::plain(&source, 200, 9000).unwrap();
    fs::write(source.join("access.log"), vec![b'x'; 6 << 20]).unwrap();
    fs::write(source.join("torn.db"), vec![0; 8 << 20]).unwrap();
    let is_done = AtomicBool::new(false);
    let (code, migration) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = OpenOptions::new().append(true).open(source.join("access.log")).unwrap();
            let database = OpenOptions::new().write(true).open(source.join("torn.db")).unwrap();
            let mut round = 0_u64;
            while !is_done.load(Ordering::Relaxed) {
                round += 1;
                // A log that grows faster than it is copied would never be done.
                if round.is_multiple_of(1_000) {
                    log.write_all(b"one more line\n").unwrap();
                }
                // No two rounds write the same bytes, so no two reads of the whole are equal.
                let page = round.to_le_bytes().repeat(8);
                std::os::unix::fs::FileExt::write_all_at(&database, &page, round % 256 * 30_000).unwrap();
            }
        });
        let result = cluster.migrate(&source, &destination, &["--bandwidth", "20MiB"]);
        is_done.store(true, Ordering::Relaxed);
        result
    });
    assert_eq!(code, Some(7), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &false.into()));
    let findings = migration["findings"].as_array().unwrap();
    let torn: Vec<_> = findings.iter().filter(|finding| finding["object"] == "torn.db").collect();
    assert_eq!((torn.len(), &torn[0]["rule"]), (1, &"changed".into()), "{findings:?}");
    // A log that only grew is an earlier whole state: a prefix of what stands there now.
    assert!(!findings.iter().any(|finding| finding["object"] == "access.log"), "{findings:?}");
    let (now, moved) =
        (fs::read(source.join("access.log")).unwrap(), fs::read(destination.join("access.log")).unwrap());
    assert!(moved.len() >= 6 << 20 && now.starts_with(&moved));
    judge::assert_equal(&source.join("d000"), &destination.join("d000"));
}

#[test]
fn source_and_destination_may_be_on_one_agent() {
    let cluster = Cluster::start(1, 1);
    let (source, destination) = (cluster.path("here"), cluster.path("there"));
    tree::plain(&source, 300, 5000).unwrap();
    let (from, to) = (format!("agent-1:{}", source.display()), format!("agent-1:{}", destination.display()));
    let (code, migration) = cluster.json(&["migrate", &from, &to, "--yes"]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);
}
