//! Earlier versions that are kept: where, with what, and that an undo still gives everything back.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::failure::FailureKind;
use common::rules::{BackupDir, Rules};
use common::spec::MaxDelete;

use crate::mounted_test::{Mounted, run};
use crate::pair::{Pair, assert_same};
use crate::snapshot::{Snapshot, snapshot};

fn keeping(path: &str) -> Pair {
    let mut pair = Pair::new();
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    pair.params.rules = Rules { backup_dir: Some(path.parse::<BackupDir>().unwrap()), ..Rules::default() };
    pair
}

fn write(root: &Path, name: &str, content: &str) {
    std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    std::fs::write(root.join(name), content).unwrap();
}

/// A source and a destination with something to create, to replace, to remove and to leave.
fn differing(pair: &Pair) {
    let (source, destination) = (&pair.source_root, &pair.destination_root);
    for name in ["new", "d/replaced", "same"] {
        write(source, name, "of the source");
    }
    for name in ["d/replaced", "extra/deep/removed", "twin"] {
        write(destination, name, "as it was");
    }
    std::fs::hard_link(destination.join("twin"), destination.join("extra/twin")).unwrap();
    symlink("nowhere", destination.join("extra/link")).unwrap();
    std::fs::set_permissions(destination.join("d/replaced"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(destination.join("extra"), PermissionsExt::from_mode(0o751)).unwrap();
    write(destination, "old/kept/earlier", "of an earlier run");
}

/// What stands below a directory, directories left out, as their times are those of the backup.
fn files(root: &Path) -> Snapshot {
    snapshot(root).into_iter().filter(|(path, _line)| !root.join(path).is_dir()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replaced_or_removed_is_kept_under_its_path() {
    let mut pair = keeping("old/kept");
    differing(&pair);
    let before = pair.state_dir.join("before");
    assert!(run("cp", &["-a"], &[&pair.destination_root, &before]));
    let whole = snapshot(&pair.destination_root);
    let root = pair.destination_root.clone();
    // Until the way back ends nothing is there, and an undo gives everything back.
    pair.copy().await.0.unwrap();
    assert_eq!(std::fs::read_dir(root.join("old/kept")).unwrap().count(), 1);
    pair.undo().await.0.unwrap();
    assert_same(&snapshot(&root), &whole, "undone");

    pair.copy().await.0.unwrap();
    assert!(pair.verify().await.0.unwrap().is_verified);
    let time = std::fs::metadata(&root).unwrap().modified().unwrap();
    pair.settle();
    assert_eq!(std::fs::metadata(&root).unwrap().modified().unwrap(), time);
    let kept = files(&root.join("old/kept"));
    let mut expected = files(&before);
    // What was there before stays under its own name.
    let earlier = expected.remove(Path::new("old/kept/earlier")).unwrap();
    expected.insert("earlier".into(), earlier.replace("old/kept/", ""));
    assert_same(&kept, &expected, "kept");
    assert_eq!(std::fs::metadata(root.join("old/kept/extra")).unwrap().mode() & 0o7777, 0o751);
    assert!(!root.join("extra").exists() && root.join("new").exists());
    assert!(pair.verify().await.0.unwrap().is_verified);

    // A later run neither removes nor replaces what is kept.
    write(&pair.source_root, "d/replaced", "of the source, later");
    write(&root, "extra/deep/removed", "there again");
    write(&pair.source_root, "old/kept/mine", "of the source, and no part of the tree");
    pair.copy().await.0.unwrap();
    pair.settle();
    let kept = root.join("old/kept");
    let read = |name: &str| std::fs::read_to_string(kept.join(name)).unwrap();
    assert_eq!(
        (read("d/replaced"), read("d/replaced.~1~")),
        ("as it was".to_owned(), "of the source".to_owned())
    );
    assert_eq!(
        (read("extra/deep/removed"), read("extra/deep/removed.~1~")),
        ("as it was".to_owned(), "there again".to_owned())
    );
    assert_eq!(read("earlier"), "of an earlier run");
    assert!(!kept.join("mine").exists());
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_version_could_be_kept_nothing_is_changed() {
    let mut pair = keeping("kept");
    differing(&pair);
    let root = pair.destination_root.clone();
    write(&root, "kept", "a file");
    let before = snapshot(&root);
    let refused = pair.copy().await.0.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid, "{refused}");
    assert_same(&snapshot(&root), &before, "refused");
    std::fs::remove_file(root.join("kept")).unwrap();

    let Some(_disk) = Mounted::tmpfs(&root.join("mounted"), "size=1m") else { return };
    write(&root, "mounted/file", "as it was");
    write(&pair.source_root, "mounted/file", "of the source");
    let (output, findings) = pair.copy().await;
    assert!(output.unwrap().is_partial);
    assert!(findings.iter().any(|finding| finding.object == "mounted/file"), "{findings:?}");
    assert_eq!(std::fs::read_to_string(root.join("mounted/file")).unwrap(), "as it was");
    pair.settle();
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settling_that_was_killed_goes_on() {
    let mut pair = keeping("kept");
    differing(&pair);
    pair.copy().await.0.unwrap();
    // Somebody put something that is no directory where one is needed: the settling ends there.
    let root = pair.destination_root.clone();
    write(&root, "kept/extra/deep", "in the way");
    let settled = pair.try_settle();
    assert!(settled.is_err());
    assert_eq!(std::fs::read_to_string(root.join("kept/d/replaced")).unwrap(), "as it was");
    std::fs::remove_file(root.join("kept/extra/deep")).unwrap();
    pair.settle();
    assert_eq!(std::fs::read_to_string(root.join("kept/extra/deep/removed")).unwrap(), "as it was");
    assert!(!root.join("kept/d/replaced.~1~").exists());
    pair.close().await;
}
