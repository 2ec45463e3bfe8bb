//! The way back: cancelling and rolling back give the destination as it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::cluster::Cluster;
use tests::{judge, tree};

/// Copies a tree with everything, to compare with later.
fn keep(tree: &Path, copy: &Path) {
    let status = Command::new("cp").arg("-a").args([tree, copy]).status().unwrap();
    assert!(status.success());
}

/// Makes a destination that differs from the plain source in every way that a copy can change.
fn make_old_destination(destination: &Path) {
    tree::odd(destination).unwrap();
    tree::plain(destination, 150, 3000).unwrap();
    fs::write(destination.join("d000/e00/f000003.php"), "an older state").unwrap();
    fs::create_dir_all(destination.join("only-here/below")).unwrap();
    fs::write(destination.join("only-here/below/file"), "only here").unwrap();
}

#[test]
fn a_rollback_gives_the_destination_as_it_was() {
    let cluster = Cluster::start(2, 1);
    let (source, destination, before) = (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
    tree::plain(&source, 800, 6000).unwrap();
    fs::write(source.join("large"), tree::bytes(5, 4 << 20)).unwrap();
    make_old_destination(&destination);
    keep(&destination, &before);

    let flags = ["--delete", "--max-delete", "100%", "--rollback-window", "1h"];
    let (code, migration) = cluster.migrate(&source, &destination, &flags);
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!(migration["rollback_available"], true);
    judge::assert_equal(&source, &destination);

    let id = migration["id"].as_str().unwrap();
    let (code, migration) = cluster.json(&["rollback", id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"rolled_back".into()), "{migration:#}");
    judge::assert_equal(&before, &destination);
    let (code, again) = cluster.json(&["rollback", id, "--yes"]);
    assert_eq!(
        (code, &again["rollback_available"]),
        (Some(0), &false.into()),
        "it is rolled back: nothing to do"
    );
    judge::assert_equal(&before, &destination);
}

#[test]
fn what_changed_since_the_commit_is_kept_aside() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 50, 6000).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    fs::write(destination.join("d000/e00/f000007.php"), "a customer's order").unwrap();
    fs::write(destination.join("d000/e00/added"), "an upload").unwrap();
    let id = migration["id"].as_str().unwrap();
    let (code, migration) = cluster.json(&["rollback", id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"rolled_back".into()), "{migration:#}");
    let findings = migration["findings"].to_string();
    assert!(findings.contains("kept_aside") && findings.contains("f000007.php"), "{migration:#}");
    let kept = Command::new("grep").args(["-rl", "a customer's order"]).arg(&destination).output().unwrap();
    assert!(String::from_utf8_lossy(&kept.stdout).contains("/after/"), "{kept:?}");
    assert!(!destination.join("d000/e00/f000007.php").exists());
}

#[test]
fn cancelling_in_the_middle_gives_the_destination_as_it_was() {
    let cluster = Cluster::start(2, 1);
    let (source, destination, before) = (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
    tree::noise(&source, 6000, 8000).unwrap();
    make_old_destination(&destination);
    keep(&destination, &before);
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "512KiB"]);
    cluster.wait_for(&id, "some files to land", |migration| {
        migration["status"] == "running" && migration["files_done"].as_u64() > Some(200)
    });
    let (code, migration) = cluster.json(&["cancel", &id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"cancelled".into()), "{migration:#}");
    judge::assert_equal(&before, &destination);
    let names: Vec<_> = fs::read_dir(&destination).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".drover-")), "{names:?}");
}
