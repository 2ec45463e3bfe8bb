//! Rules and verification, as an operator meets them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, skip, tree};

/// Returns the rules and objects of the findings.
fn found(migration: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = migration["findings"].as_array().unwrap();
    findings.iter().map(|finding| (text(finding, "rule"), text(finding, "object"))).collect()
}

#[test]
fn rules_of_one_run_all_hold() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 40, 900).unwrap();
    tree::plain(&destination, 10, 100).unwrap();
    fs::write(source.join("large"), vec![1; 5000]).unwrap();
    fs::write(source.join("a.log"), "").unwrap();
    fs::write(source.join("keep.log"), "").unwrap();
    fs::write(source.join("patterns"), "# logs\n*.log\n!keep.log\npatterns\n").unwrap();
    symlink("d000/e00/f000003.php", source.join("link")).unwrap();
    fs::write(destination.join("extra"), "as it was").unwrap();
    let replaced = fs::read(destination.join("d000/e00/f000003.php")).unwrap();
    let patterns = source.join("patterns").display().to_string();
    let (code, migration) = cluster.migrate(
        &source,
        &destination,
        &[
            "--exclude-from",
            &patterns,
            "--max-size",
            "2000",
            "--copy-links",
            "--backup-dir",
            "old/1",
            "--delete",
            "--max-delete",
            "100%",
        ],
    );
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!(found(&migration), [("left_out".to_owned(), ".".to_owned())], "{migration:#}");
    let stands = |name: &str| destination.join(name).symlink_metadata().is_ok();
    assert!(stands("keep.log") && !stands("a.log") && !stands("large") && !stands("extra"));
    assert!(destination.join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(destination.join("old/1/extra")).unwrap(), "as it was");
    assert_eq!(fs::read(destination.join("old/1/d000/e00/f000003.php")).unwrap(), replaced);

    // A pattern that cannot be read is refused by `ctl`, and by the coordinator in a spec that came another way.
    let (code, refused) = cluster.migrate(&source, &destination, &["--exclude", "["]);
    assert_eq!(code, Some(2), "{refused:#}");
}

#[test]
fn damage_is_found_by_whoever_asks_and_says_what_differs() {
    if !skip::unless_root("giving files to others") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 40, 900).unwrap();
    fs::create_dir(&destination).unwrap();
    // It stands there already, so nothing but its content tells of a change behind its back.
    fs::write(source.join("present"), "aaaa").unwrap();
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .args([source.join("present"), destination.clone()])
            .status()
            .unwrap()
            .success()
    );
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    let id = migration["id"].as_str().unwrap();
    assert_eq!(cluster.json(&["verify", id, "--deep"]).0, Some(0));

    let path = destination.join("present");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "aaba").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(cluster.json(&["verify", id]).0, Some(0), "only the content tells");
    let (code, deep) = cluster.json(&["verify", id, "--deep"]);
    assert_eq!(
        (code, found(&deep)),
        (Some(7), vec![("differs".to_owned(), "present".to_owned())]),
        "{deep:#}"
    );

    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let (code, shallow) = cluster.json(&["verify", id]);
    assert!(matches!(code, Some(5 | 7)), "{shallow:#}");
    let message = shallow["findings"][0]["message"].as_str().unwrap();
    assert!(message.contains("its mode is 600 instead of 644"), "{shallow:#}");

    // After the way back has ended both sides are read.
    assert_eq!(cluster.ctl(&["settle", id, "--yes"], &[]).code, Some(0));
    let (code, settled) = cluster.json(&["verify", id]);
    assert_eq!((code, found(&settled)[0].1.as_str()), (Some(7), "present"), "{settled:#}");
    fs::remove_file(&path).unwrap();
    fs::write(source.join("later"), "").unwrap();
    let (code, both) = cluster.json(&["verify", id]);
    let objects: Vec<String> = found(&both).into_iter().map(|(_rule, object)| object).collect();
    assert_eq!(code, Some(7), "{both:#}");
    assert!(objects.contains(&"present".to_owned()) && objects.contains(&"later".to_owned()), "{both:#}");

    let (code, mended) = cluster.migrate(&source, &destination, &["--chown", "1234:0"]);
    assert_eq!(code, Some(0), "{mended:#}");
    assert_eq!(fs::metadata(destination.join("later")).unwrap().uid(), 1234);
    let (code, mended) = cluster.migrate(&source, &destination, &["--checksum"]);
    assert_eq!(code, Some(0), "{mended:#}");
    judge::assert_equal(&source, &destination);
}
