//! What happens to the destination after the commit is noticed by the proof.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use tests::cluster::Cluster;
use tests::{judge, mount, skip, tree};

#[test]
fn an_ordinary_write_is_a_conflict_and_unwinds_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 100, 9000).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    fs::write(destination.join("d000/e00/f000042.php"), "somebody's edit").unwrap();
    let (code, migration) = cluster.json(&["verify", migration["id"].as_str().unwrap()]);
    assert_eq!(code, Some(5), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &false.into()));
    let findings = migration["findings"].as_array().unwrap();
    assert!(
        findings.iter().any(|finding| finding["rule"] == "conflict"
            && finding["object"].as_str().is_some_and(|object| object.ends_with("f000042.php"))),
        "{findings:?}"
    );
    assert_eq!(fs::read_to_string(destination.join("d000/e00/f000042.php")).unwrap(), "somebody's edit");
}

#[test]
fn a_byte_that_rots_on_the_device_is_corruption_and_unwinds() {
    if !skip::unless_root("damaging a block device") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, image, point) = (cluster.path("shop"), cluster.path("image"), cluster.path("disk"));
    tree::plain(&source, 100, 9000).unwrap();
    let marked = b"this very sentence stands nowhere else on the device".repeat(400);
    fs::write(source.join("precious"), &marked).unwrap();
    fs::create_dir(&point).unwrap();
    let Some(mounted) = mount::small_ext4(&image, &point, 64) else { return };
    let destination = point.join("site");
    fs::create_dir(&destination).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);

    // Beneath the file system: the image's byte changes, no inode does, and the cache is dropped by a new mount.
    let before = fs::metadata(destination.join("precious")).unwrap();
    rustix::fs::sync();
    let disk = fs::read(&image).unwrap();
    let at = disk.windows(52).position(|window| window == &marked[..52]).expect("the file is on the device");
    let device = fs::OpenOptions::new().write(true).open(&image).unwrap();
    device.write_all_at(b"T", at as u64 + 1000).unwrap();
    device.sync_all().unwrap();
    mounted.remount(&image);
    let after = fs::metadata(destination.join("precious")).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));

    let (code, migration) = cluster.json(&["verify", migration["id"].as_str().unwrap()]);
    assert_eq!(code, Some(8), "{migration:#}");
    assert_eq!(migration["status"], "rolled_back", "{migration:#}");
    assert!(migration["errors"].to_string().contains("precious"), "{migration:#}");
    assert_eq!(fs::read_dir(&destination).unwrap().count(), 0, "the destination is as it was: empty");
}
