//! What others do to the destination while a pass runs.

use std::os::unix::fs::symlink;
use std::path::Path;

use common::finding::Rule;

use super::{bytes, rules, write};
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_at_the_destination_meanwhile_is_compared_again_and_kept() {
    let mut pair = Pair::new();
    for number in 0..5 {
        write(&pair.source_root, &format!("a-{number}"), &bytes(1024 * 1024, number), 0o600);
    }
    write(&pair.source_root, "z", b"of the source", 0o600);
    std::fs::create_dir(&pair.destination_root).unwrap();
    write(&pair.destination_root, "z", b"older", 0o600);
    let destination = pair.destination_root.join("z");
    let edit = || write(destination.parent().unwrap(), "z", b"somebody's edit meanwhile", 0o640);
    let (output, findings, ()) = pair.copy_meanwhile(edit).await;
    assert!(!output.unwrap().is_partial);
    assert_eq!(findings, []);
    assert_eq!(std::fs::read(&destination).unwrap(), b"of the source");
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_eq!(std::fs::read(&destination).unwrap(), b"somebody's edit meanwhile");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_appears_at_the_destination_meanwhile_is_compared_again_and_kept() {
    let mut pair = Pair::new();
    write(&pair.source_root, "file", b"of the source", 0o600);
    write(&pair.source_root, "directory/below", b"below", 0o600);
    std::fs::create_dir(pair.source_root.join("taken")).unwrap();
    symlink("of the source", pair.source_root.join("link")).unwrap();
    write(&pair.source_root, "stays-a-directory", b"cannot be brought", 0o600);
    std::fs::create_dir(&pair.destination_root).unwrap();
    let root = pair.destination_root.clone();
    let appear = || {
        write(&root, "file", b"somebody's", 0o640);
        write(&root, "directory/theirs", b"somebody's too", 0o640);
        write(&root, "taken", b"a file where a directory shall be", 0o640);
        symlink("somebody's", root.join("link")).unwrap();
        write(&root, "stays-a-directory/within", b"it must not be lost", 0o640);
        snapshot(&root)
    };
    let (output, findings, meanwhile) = pair.copy_meanwhile(appear).await;
    assert!(output.unwrap().is_partial);
    assert_eq!(rules(&findings), [(Rule::Conflict, "stays-a-directory")]);
    assert_eq!(std::fs::read(root.join("file")).unwrap(), b"of the source");
    assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("of the source"));
    assert_eq!(std::fs::read(root.join("directory/below")).unwrap(), b"below");
    assert_eq!(std::fs::read(root.join("directory/theirs")).unwrap(), b"somebody's too");
    assert!(root.join("taken").is_dir());
    assert_eq!(pair.undo().await.0, Ok(0));
    let mut undone = snapshot(&root);
    let mut expected = meanwhile;
    // The times of directories are of the moment before somebody wrote to them.
    for one in [&mut undone, &mut expected] {
        one.retain(|_path, line| !line.starts_with('4'));
    }
    assert_same(&undone, &expected, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mounted_while_a_pass_runs_is_brought_where_it_belongs() {
    let mut pair = Pair::new();
    for number in 0..5 {
        write(&pair.source_root, &format!("a-{number}"), &bytes(1024 * 1024, number), 0o600);
    }
    for name in ["late/old", "late/new", "late/large"] {
        let size = if name == "late/large" { 6 * 1024 * 1024 } else { 3000 };
        write(&pair.source_root, name, &bytes(size, 9), 0o600);
    }
    write(&pair.destination_root, "late/old", b"older", 0o600);
    let late = pair.destination_root.join("late");
    let mount = || {
        let flags = rustix::mount::MountFlags::empty();
        let mounted = rustix::mount::mount("none", &late, "tmpfs", flags, None);
        mounted.inspect_err(|errno| crate::mounted_test::skipped(&format!("cannot mount: {errno}"))).is_ok()
    };
    let (output, findings, is_mounted) = pair.copy_meanwhile(mount).await;
    let device =
        |name: &str| std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(late.join(name)).unwrap());
    let devices = ["old", "new", "large"].map(device);
    let content = std::fs::read(late.join("large")).unwrap();
    if is_mounted {
        assert!(devices.iter().all(|found| *found == device("")), "{devices:?}");
        rustix::mount::unmount(&late, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(std::fs::read(late.join("old")).unwrap(), b"older");
    }
    assert!(!output.unwrap().is_partial);
    assert_eq!(findings, []);
    assert_eq!(content, bytes(6 * 1024 * 1024, 9));
    pair.close().await;
}
