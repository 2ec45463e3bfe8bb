//! Groups of hard links in passes.

use std::os::unix::fs::MetadataExt;

use common::finding::Rule;

use super::{rules, write};
use crate::pair::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_name_leads_when_the_first_one_vanished() {
    let mut pair = Pair::new();
    write(&pair.source_root, "a", b"linked", 0o600);
    for name in ["b", "c"] {
        std::fs::hard_link(pair.source_root.join("a"), pair.source_root.join(name)).unwrap();
    }
    // Another one takes the place of its first name.
    write(&pair.source_root, "m", b"renamed over", 0o600);
    std::fs::hard_link(pair.source_root.join("m"), pair.source_root.join("n")).unwrap();
    write(&pair.source_root, "other", b"holds the links back until it has landed", 0o600);
    let root = pair.source_root.clone();
    // The links wait for the content, which is held.
    let vanish = || {
        std::fs::remove_file(root.join("a")).unwrap();
        write(&root, "new", b"another file", 0o600);
        std::fs::rename(root.join("new"), root.join("m")).unwrap();
    };
    let (output, findings, ()) = pair.copy_meanwhile(vanish).await;
    assert_eq!(rules(&findings), [(Rule::Vanished, "a")]);
    assert!(!output.unwrap().is_partial);
    let read = |name: &str| std::fs::read(pair.destination_root.join(name)).unwrap();
    assert_eq!([read("b"), read("m"), read("n")].map(|read| read.len()), [6, 12, 12]);
    assert_eq!(read("m"), b"another file");
    let inode = |name: &str| std::fs::metadata(pair.destination_root.join(name)).unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
    assert_ne!(inode("m"), inode("n"));
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_names_take_more_than_a_record_is_compared() {
    let mut pair = Pair::new();
    // 8 MiB of paths; the file system allows no path of more than 4 KiB.
    let deep = vec!["d".repeat(240); 13].join("/");
    let name = |number: u32| format!("{deep}/{number:0>240}");
    write(&pair.source_root, &name(0), b"linked", 0o600);
    for number in 1..2_400 {
        std::fs::hard_link(pair.source_root.join(name(0)), pair.source_root.join(name(number))).unwrap();
    }
    pair.copy().await.0.unwrap();
    pair.params.checksum = true;
    let (output, findings) = pair.copy().await;
    assert_eq!((output.map(|output| output.files_sent), findings), (Ok(0), Vec::new()));
    assert_eq!(std::fs::metadata(pair.destination_root.join(name(0))).unwrap().nlink(), 2_400);
    pair.close().await;
}
