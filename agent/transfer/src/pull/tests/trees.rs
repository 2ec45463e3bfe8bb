//! Trees of every kind, brought and given back.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::finding::Rule;
use common::spec::MaxDelete;
use common::transport::Transport;
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags};

use super::{bytes, rules, set_mtime, write};
use crate::mounted_test::Mounted;
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

/// Everything that a file system can hold.
fn odd_tree(root: &Path) {
    write(root, "empty", b"", 0o644);
    write(root, "small", b"small", 0o4755);
    write(root, "exactly-a-range", &bytes(1024 * 1024, 1), 0o600);
    write(root, "one-more", &bytes(1024 * 1024 + 1, 2), 0o600);
    write(root, "large", &bytes(9 * 1024 * 1024 + 4321, 3), 0o640);
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 * 1024 * 1024).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes(5000, 4), 20 * 1024 * 1024 + 77).unwrap();
    std::fs::File::create(root.join("all-hole")).unwrap().set_len(100_000).unwrap();
    for name in ["a\nb", "\u{202e}txt", "-rf", "sp ace", "..."] {
        write(root, &format!("names/{name}"), name.as_bytes(), 0o644);
    }
    let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"names/\xff\xfe");
    std::fs::write(root.join(raw), "raw").unwrap();
    write(root, &format!("names/{}", "n".repeat(255)), b"long", 0o644);
    write(root, "group/one", &bytes(3000, 5), 0o644);
    std::fs::create_dir_all(root.join("other/deep")).unwrap();
    std::fs::hard_link(root.join("group/one"), root.join("group/two")).unwrap();
    std::fs::hard_link(root.join("group/one"), root.join("other/deep/three")).unwrap();
    write(root, "group/big-one", &bytes(2 * 1024 * 1024 + 5, 6), 0o644);
    std::fs::hard_link(root.join("group/big-one"), root.join("other/big-two")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink("group", root.join("to-directory")).unwrap();
    set_mtime(&root.join("dangling"), 55, 66);
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    rustix::fs::chown(root.join("small"), Some(Uid::from_raw(1234)), Some(Gid::from_raw(4321))).unwrap();
    std::fs::set_permissions(root.join("small"), PermissionsExt::from_mode(0o6751)).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("small", "user.note", b"kept");
    set("group", "user.directory", b"too");
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
    ];
    let acl = [&acl[..], &[16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255]].concat();
    set("exactly-a-range", "system.posix_acl_access", &acl);
    set("other", "system.posix_acl_default", &acl);
    std::fs::set_permissions(root.join("other"), PermissionsExt::from_mode(0o2711)).unwrap();
    for directory in ["other/deep", "other", "group", "names", ""] {
        set_mtime(&root.join(directory), 800_000_000, 123);
    }
}

/// A destination that has much of it already, in other forms.
fn other_tree(root: &Path) {
    write(root, "small", b"older", 0o600);
    write(root, "large", &bytes(77, 9), 0o640);
    write(root, "group", b"a file where a directory shall be", 0o600);
    write(root, "names/extra", b"only here", 0o600);
    std::fs::create_dir_all(root.join("dangling")).unwrap();
    write(root, "extra/deep/er", b"only here", 0o600);
    write(root, "fifo", b"a file where a fifo shall be", 0o600);
    write(root, "other/linked-here", b"five!", 0o644);
    std::fs::hard_link(root.join("other/linked-here"), root.join("one-more")).unwrap();
    write(root, "kept.cache", b"left out", 0o600);
    for directory in ["extra/deep", "extra", "names", "other", ""] {
        set_mtime(&root.join(directory), 700_000_000, 321);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_tree_arrives_whole_and_leaves_without_a_trace() {
    odd_tree_arrives(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_tree_arrives_whole_over_tcp_too() {
    odd_tree_arrives(Transport::Tcp).await;
}

async fn odd_tree_arrives(transport: Transport) {
    let mut pair = Pair::over(transport);
    odd_tree(&pair.source_root);
    let expected = snapshot(&pair.source_root);
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_eq!(output.transport, Some(transport));
    assert_same(&snapshot(&pair.destination_root), &expected, "copied");
    assert_same(&snapshot(&pair.source_root), &expected, "the source");
    assert_eq!(
        output.bytes_total,
        (5 + 1024 * 1024
            + 1024 * 1024
            + 1
            + 9 * 1024 * 1024
            + 4321
            + 40 * 1024 * 1024
            + 100_000
            + 3000
            + 2 * 1024 * 1024
            + 5
            + 3
            + 4
            + 3
            + 6
            + 3
            + 6
            + 3) as u64
    );
    let sparse = std::fs::metadata(pair.destination_root.join("sparse")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 4 * 1024 * 1024);
    let (verified, findings) = pair.verify().await;
    assert_eq!(findings, []);
    assert!(verified.unwrap().is_verified);

    let (again, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(again.unwrap().files_sent, 0);
    assert_same(&snapshot(&pair.destination_root), &expected, "copied again");
    assert_eq!(pair.undo().await.0, Ok(0));
    assert!(!pair.destination_root.exists());
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stood_there_is_replaced_removed_and_given_back() {
    let mut pair = Pair::new();
    odd_tree(&pair.source_root);
    std::fs::create_dir(&pair.destination_root).unwrap();
    other_tree(&pair.destination_root);
    let original = snapshot(&pair.destination_root);
    pair.params.exclude = vec!["*.cache".to_owned()];
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert!(!output.unwrap().is_partial);
    assert!(pair.destination_root.join("extra/deep/er").exists());

    pair.params.delete = true;
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(output.unwrap().deleted, 5);
    let mut expected = snapshot(&pair.source_root);
    expected.insert("kept.cache".into(), original[Path::new("kept.cache")].clone());
    assert_same(&snapshot(&pair.destination_root), &expected, "with deletes");
    assert!(pair.verify().await.0.unwrap().is_verified);

    let (undone, findings) = pair.undo().await;
    assert_eq!(rules(&findings), []);
    assert_eq!(undone, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &original, "undone");
    assert!(
        std::fs::read_dir(&pair.destination_root)
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with(".drover-") })
    );
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_directories_of_one_parent_make_room_with_all_that_is_in_them() {
    let mut pair = Pair::new();
    for name in ["a", "b", "c"] {
        write(&pair.source_root, name, b"a file now", 0o600);
        write(&pair.destination_root, &format!("{name}/below/deep"), b"older", 0o600);
        write(&pair.destination_root, &format!("{name}-extra/file"), b"goes", 0o600);
    }
    let before = snapshot(&pair.destination_root);
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert!(!output.unwrap().is_partial);
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &before, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_missed_whatever_size_and_time_say() {
    let mut pair = Pair::new();
    write(&pair.source_root, "same-look", b"content-1", 0o600);
    write(&pair.source_root, "group", b"linked-1", 0o600);
    std::fs::hard_link(pair.source_root.join("group"), pair.source_root.join("group-2")).unwrap();
    pair.copy().await.0.unwrap();
    write(&pair.source_root, "same-look", b"content-2", 0o600);
    write(&pair.source_root, "group", b"linked-2", 0o600);
    assert_eq!(pair.copy().await.0.unwrap().files_sent, 3);
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "second pass");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_links_are_noticed_in_a_tree_that_looks_the_same() {
    let mut pair = Pair::new();
    for name in ["a", "b", "c"] {
        write(&pair.source_root, name, b"same", 0o600);
    }
    std::fs::create_dir(&pair.destination_root).unwrap();
    write(&pair.destination_root, "a", b"same", 0o600);
    write(&pair.destination_root, "c", b"same", 0o600);
    std::fs::hard_link(pair.destination_root.join("a"), pair.destination_root.join("b")).unwrap();
    std::fs::remove_file(pair.source_root.join("c")).unwrap();
    std::fs::hard_link(pair.source_root.join("b"), pair.source_root.join("c")).unwrap();
    let original = snapshot(&pair.destination_root);
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "linked anew");
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &original, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_of_directories_are_set_after_what_has_no_content() {
    let mut pair = Pair::new();
    std::fs::create_dir(pair.source_root.join("below")).unwrap();
    for round in 0..3 {
        let link = pair.source_root.join("below/link");
        std::fs::remove_file(&link).ok();
        symlink(format!("target-{round}"), &link).unwrap();
        set_mtime(&link, 1_000_000_000 + round, 5);
        // The directory's time tells nothing of the change.
        set_mtime(&pair.source_root.join("below"), 900_000_000, 987_654_321);
        set_mtime(&pair.source_root, 900_000_000, 987_654_321);
        let (output, findings) = pair.copy().await;
        assert_eq!((output.map(|output| output.files_sent), findings), (Ok(1), Vec::new()));
        assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "after a change");
    }
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_file_system_cannot_take_is_a_finding_and_the_rest_comes() {
    let mut pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    let (image, point) = (folder.path().join("image"), folder.path().join("mounted"));
    // Blocks of 1 KiB: files of 16 GiB at most.
    let mkfs = ["mkfs.ext2", "-q", "-F", "-b", "1024"];
    let Some(mounted) = Mounted::made(&mkfs, 16, &image, &point) else { return pair.close().await };
    pair.params.destination_root = point.to_str().unwrap().to_owned();
    write(&pair.source_root, "small", b"comes", 0o600);
    std::fs::File::create(pair.source_root.join("huge")).unwrap().set_len(17 << 30).unwrap();
    let (output, findings) = pair.copy().await;
    let small = std::fs::read(point.join("small"));
    drop(mounted);
    assert_eq!(rules(&findings), [(Rule::Unwritable, "huge")]);
    assert!(output.unwrap().is_partial);
    assert_eq!(small.unwrap(), b"comes");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_of_many_entries_arrive_however_much_they_are() {
    let mut pair = Pair::new();
    // Files, directories and links of two names: together far more than may be on its way at once.
    for number in 0..2_500 {
        let path = |what: &str| pair.source_root.join(format!("{what}-{number}"));
        write(&pair.source_root, &format!("file-{number}"), b"content", 0o644);
        std::fs::hard_link(path("file"), path("link")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        for what in ["file", "directory"] {
            rustix::fs::lsetxattr(path(what), "user.much", &[7; 3_500], XattrFlags::empty()).unwrap();
        }
    }
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(output.unwrap().files_sent, 5_000);
    let (again, findings) = pair.copy().await;
    assert_eq!((again.unwrap().files_sent, findings), (0, Vec::new()));
    let much = |name: &str| {
        let mut value = [0; 4_000];
        rustix::fs::lgetxattr(pair.destination_root.join(name), "user.much", &mut value)
    };
    assert_eq!((much("link-2499"), much("directory-2499")), (Ok(3_500), Ok(3_500)));
    pair.close().await;
}
