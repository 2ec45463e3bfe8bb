//! Whole passes with rules, between two endpoints, judged by rsync where it has the same rule.

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::clock::WallMs;
use common::failure::FailureKind;
use common::finding::Rule;
use common::rules::Rules;
use common::spec::MaxDelete;

use crate::mounted_test::{Mounted, run, skipped};
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

/// Writes a file of a size that was last changed at a second.
fn write(root: &Path, name: &str, size: usize, seconds: u64) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, vec![b'x'; size]).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    path
}

fn with_rules(rules: Rules) -> Pair {
    let mut pair = Pair::new();
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    pair.params.rules = rules;
    pair
}

/// A source and a destination that differ in all that limits could be asked about.
fn differing(pair: &Pair) {
    let (source, destination) = (&pair.source_root, &pair.destination_root);
    for (name, size) in [("small", 10), ("exact", 1000), ("large", 1001), ("d/large", 5000), ("d/small", 1)] {
        write(source, name, size, 1_700_000_000);
    }
    std::fs::hard_link(source.join("large"), source.join("d/second")).unwrap();
    write(destination, "large", 7, 1_600_000_000);
    write(destination, "d/small", 2, 1_600_000_000);
    write(destination, "d/large", 5000, 1_600_000_000);
    write(destination, "extra-large", 9000, 1_600_000_000);
    write(destination, "gone/extra", 9, 1_600_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_by_size_is_what_rsync_leaves_out_and_stays() {
    for (min, max) in [(None, Some(1000)), (Some(10), None), (Some(10), Some(1000))] {
        let mut pair = with_rules(Rules { min_size: min, max_size: max, ..Rules::default() });
        differing(&pair);
        let judge = pair.state_dir.join("judge");
        assert!(run("cp", &["-a"], &[&pair.destination_root, &judge]));
        let limits: Vec<String> = [("min", min), ("max", max)]
            .into_iter()
            .filter_map(|(word, size)| Some(format!("--{word}-size={}", size?)))
            .collect();
        let words: Vec<&str> = ["-aHAX", "--delete", "--modify-window=-1"]
            .into_iter()
            .chain(limits.iter().map(String::as_str))
            .collect();
        assert!(run("rsync", &words, &[&pair.source_root.join(""), &judge]));

        pair.params.dry_run = true;
        let (planned, told) = pair.copy().await;
        pair.params.dry_run = false;
        let (output, findings) = pair.copy().await;
        let output = output.unwrap();
        assert_eq!(planned.unwrap().files_sent, output.files_sent);
        assert_same(&snapshot(&pair.destination_root), &snapshot(&judge), &format!("{limits:?}"));
        for findings in [told, findings] {
            let left_out: Vec<_> = findings.iter().filter(|finding| finding.rule == Rule::LeftOut).collect();
            assert!(left_out.len() == 1 && left_out[0].message.contains("for their size"), "{findings:?}");
        }
        assert!(!output.is_partial);
        assert!(pair.verify().await.0.unwrap().is_verified);
        pair.settle();
        assert!(pair.verify().await.0.unwrap().is_verified);
        pair.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_or_too_new_stays_as_it_is() {
    let (since, before) = (1_700_000_000, 1_700_009_000);
    let at = |seconds: u64| Some(WallMs(seconds * 1000));
    let mut pair =
        with_rules(Rules { changed_since: at(since), changed_before: at(before), ..Rules::default() });
    for (name, seconds) in [("old", since - 1), ("first", since), ("last", before - 1), ("new", before)] {
        write(&pair.source_root, name, 3, seconds);
        write(&pair.destination_root, name, 5, 1_600_000_000);
    }
    let (output, findings) = pair.copy().await;
    assert_eq!(output.unwrap().files_sent, 2);
    let sizes = ["old", "first", "last", "new"]
        .map(|name| std::fs::metadata(pair.destination_root.join(name)).unwrap().len());
    assert_eq!(sizes, [5, 3, 3, 5]);
    assert!(findings.iter().any(|finding| finding.message.contains("2 files for their age")), "{findings:?}");
    assert!(pair.verify().await.0.unwrap().is_verified);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_file_systems_are_neither_entered_nor_emptied() {
    let mut pair = with_rules(Rules { one_file_system: true, ..Rules::default() });
    let (source, destination) = (pair.source_root.clone(), pair.destination_root.clone());
    for root in [&source, &destination] {
        write(root, "own/file", 1, 1_700_000_000);
    }
    write(&destination, "both/below", 4, 1_700_000_000);
    let Some(_first) = Mounted::tmpfs(&source.join("both"), "size=1m") else { return };
    let Some(_second) = Mounted::tmpfs(&destination.join("extra/deep"), "size=1m") else { return };
    write(&source, "both/mounted", 1, 1_700_000_000);
    write(&destination, "extra/deep/kept", 1, 1_700_000_000);
    write(&destination, "extra/goes", 1, 1_700_000_000);
    pair.params.dry_run = true;
    let planned = pair.copy().await.0.unwrap();
    pair.params.dry_run = false;
    let output = pair.copy().await.0.unwrap();
    assert_eq!((planned.files_sent, planned.deleted), (output.files_sent, output.deleted + 1));
    assert!(!destination.join("both/mounted").exists() && destination.join("both/below").exists());
    assert!(destination.join("extra/deep/kept").exists() && !destination.join("extra/goes").exists());
    assert!(pair.verify().await.0.unwrap().is_verified);

    pair.params.rules.one_file_system = false;
    pair.copy().await.0.unwrap();
    assert!(destination.join("both/mounted").exists() && !destination.join("both/below").exists());
    assert!(!destination.join("extra/deep/kept").exists());
    pair.settle();
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_decide_whose_everything_is_and_the_proof_knows_them() {
    let mut pair = with_rules(Rules { usermap: "1000-1999:4321,*:77".parse().unwrap(), ..Rules::default() });
    let owners = [("first", 1500, 5), ("second", 7, 6)];
    for (name, user, group) in owners {
        let path = write(&pair.source_root, name, 1, 1_700_000_000);
        if chown(path, Some(user), Some(group)).is_err() {
            skipped("giving files to others needs root");
            return;
        }
    }
    assert!(run("setfacl", &["-m", "u:1600:r,u:8:w"], &[&pair.source_root.join("first")]));
    pair.copy().await.0.unwrap();
    let owner = |name: &str| {
        let metadata = std::fs::metadata(pair.destination_root.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!([owner("first"), owner("second")], [(4321, 5), (77, 6)]);
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(
        pair.destination_root.join("first"),
        "system.posix_acl_access",
        value.as_mut_slice(),
    )
    .unwrap();
    let owners = sync::acl::owners(&value[..length]).unwrap();
    assert_eq!(owners, [sync::acl::Owner::User(77), sync::acl::Owner::User(4321)]);
    assert!(pair.verify().await.0.unwrap().is_verified);
    pair.settle();
    assert!(pair.verify().await.0.unwrap().is_verified);

    pair.params.rules.groupmap = "*:no-such-group-here".parse().unwrap();
    let before = snapshot(&pair.destination_root);
    write(&pair.source_root, "third", 1, 1_700_000_000);
    let refused = pair.copy().await.0.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert_same(&snapshot(&pair.destination_root), &before, "refused");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_links_bring_what_rsync_brings_and_nothing_from_outside() {
    let mut pair = with_rules(Rules { copy_links: true, ..Rules::default() });
    let source = pair.source_root.clone();
    write(&source, "d/e/file", 5, 1_700_000_000);
    write(&source, "d/large", 20 << 20, 1_700_000_000);
    write(&source, "d/first", 5, 1_700_000_000);
    std::fs::hard_link(source.join("d/first"), source.join("d/second")).unwrap();
    for (name, text) in
        [("to-file", "d/e/file"), ("d/to-dir", "e"), ("chain", "d/to-dir/file"), ("large", "d/large")]
    {
        symlink(text, source.join(name)).unwrap();
    }
    let judge = pair.state_dir.join("judge");
    assert!(run("rsync", &["-aLHAX", "--modify-window=-1"], &[&source.join(""), &judge]));
    pair.copy().await.0.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&judge), "followed");
    pair.params.checksum = true;
    assert!(pair.verify().await.0.unwrap().is_verified);
    pair.params.checksum = false;
    pair.settle();
    assert!(pair.verify().await.0.unwrap().is_verified);
    let again = pair.copy().await.0.unwrap();
    assert_eq!((again.files_sent, again.deleted), (0, 0));

    // A followed link is a file of its own, also where rsync would make it one more name of what it leads to.
    symlink("d/first", source.join("to-first")).unwrap();
    pair.copy().await.0.unwrap();
    let links = |name: &str| std::fs::metadata(pair.destination_root.join(name)).unwrap().nlink();
    assert_eq!([links("to-first"), links("d/first")], [1, 2]);
    pair.settle();

    let secret = write(&pair.state_dir, "secret", 7, 1_700_000_000);
    for (name, text) in
        [("out", secret.to_str().unwrap()), ("up", "../state/secret"), ("circle", "."), ("d/back", "../d")]
    {
        symlink(text, source.join(name)).unwrap();
    }
    symlink("none", source.join("dangling")).unwrap();
    let (output, findings) = pair.copy().await;
    assert!(output.unwrap().is_partial);
    for name in ["out", "up", "circle", "d/back", "dangling"] {
        assert!(pair.destination_root.join(name).symlink_metadata().is_err(), "{name}");
        assert!(findings.iter().any(|finding| finding.object == name), "{name}: {findings:?}");
    }
    pair.settle();
    pair.close().await;
}
