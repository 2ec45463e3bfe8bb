//! Whole passes over large files of which the destination has an older version.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::tests::{bytes, write};
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

const MIB: usize = 1024 * 1024;

/// Writes both versions, the newer one with another time.
fn both(pair: &Pair, name: &str, old: &[u8], new: &[u8]) {
    write(&pair.destination_root, name, old, 0o600);
    write(&pair.source_root, name, new, 0o640);
    touch(&pair.source_root.join(name));
}

fn touch(path: &Path) {
    let later = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
}

/// A content with one page of a hundred rewritten.
fn repaged(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    for (number, page) in new.chunks_exact_mut(16 * 1024).enumerate() {
        if number % 100 == 7 {
            page.copy_from_slice(&bytes(16 * 1024, 99));
        }
    }
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_costs_its_changes_and_the_way_back_stays() {
    let mut pair = Pair::new();
    let old = bytes(24 * MIB + 4321, 1);
    both(&pair, "database", &old, &repaged(&old));
    let inserted = [&old[..10 * MIB + 5], b"inserted".as_slice(), &old[10 * MIB + 5..]].concat();
    both(&pair, "below/image", &old, &inserted);
    let grown = [&old[..], &bytes(MIB, 7)].concat();
    both(&pair, "below/log", &old, &grown);
    // A group of hard links is brought by its first name, which stands there by itself.
    both(&pair, "a-group", &old, &repaged(&old));
    std::fs::hard_link(pair.source_root.join("a-group"), pair.source_root.join("b-group")).unwrap();
    let before = snapshot(&pair.destination_root);
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    let total = output.bytes_total;
    assert!(output.bytes_on_wire < total / 20, "{} of {total}", output.bytes_on_wire);
    assert!(output.bytes_deduplicated > total - total / 20, "{} of {total}", output.bytes_deduplicated);
    assert_eq!(output.bytes_resent, 0);
    assert!(pair.verify().await.0.unwrap().is_verified);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &before, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_with_nothing_in_common_costs_no_more_than_none() {
    let mut pair = Pair::new();
    both(&pair, "other", &bytes(20 * MIB, 1), &bytes(20 * MIB, 2));
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    assert_eq!((output.bytes_deduplicated, output.bytes_resent), (0, 0));
    assert!(output.bytes_on_wire < output.bytes_total + output.bytes_total / 10);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_stay_holes_whatever_stood_there() {
    let mut pair = Pair::new();
    std::fs::create_dir(&pair.destination_root).unwrap();
    let (old, data) = (bytes(12 * MIB, 1), 3 * MIB + 128 * 1024);
    for (root, holes) in [(&pair.destination_root, false), (&pair.source_root, true)] {
        let file = std::fs::File::create(root.join("image")).unwrap();
        if holes {
            file.set_len(12 * MIB as u64).unwrap();
            file.write_all_at(&old[..data], 0).unwrap();
            file.write_all_at(b"changed", 2 * MIB as u64).unwrap();
        } else {
            file.write_all_at(&old, 0).unwrap();
        }
    }
    touch(&pair.source_root.join("image"));
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert!(output.unwrap().bytes_deduplicated > 2 * MIB as u64);
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    let copied = std::fs::metadata(pair.destination_root.join("image")).unwrap();
    assert!(copied.blocks() * 512 < 5 * MIB as u64, "{} blocks", copied.blocks());
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_file_comes_masked_whatever_stood_there() {
    let mut pair = Pair::new();
    let text = "name=alice@example.com and more of it\n".repeat(80_000);
    both(&pair, "dump.sql", text.as_bytes(), format!("first\n{text}").as_bytes());
    let rules = r#"{"files":[{"match":["*.sql"],"action":{"mask":{"find":["email"],"with":"filler"}}}]}"#;
    pair.params.sanitize = Some(serde_json::from_str(rules).unwrap());
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(output.unwrap().bytes_deduplicated, 0);
    let copied = std::fs::read_to_string(pair.destination_root.join("dump.sql")).unwrap();
    assert!(!copied.contains("alice"));
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_renamed_or_moved_finds_its_old_body() {
    let mut pair = Pair::new();
    let old = bytes(12 * MIB + 99, 1);
    for (before, now) in [("image-1.raw", "image-2.raw"), ("z/moved.raw", "a/moved.raw")] {
        write(&pair.destination_root, before, &old, 0o600);
        write(&pair.source_root, now, &repaged(&old), 0o600);
        touch(&pair.source_root.join(now));
    }
    write(&pair.destination_root, "a/small", b"older", 0o600);
    let before = snapshot(&pair.destination_root);
    (pair.params.delete, pair.params.max_delete) = (true, common::spec::MaxDelete::Percent(100));
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    assert!(output.bytes_on_wire < output.bytes_total / 10, "{}", output.bytes_on_wire);
    assert!(output.bytes_deduplicated > output.bytes_total / 10 * 9);
    assert_eq!(output.bytes_resent, 0);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &before, "undone");
    pair.close().await;
}
