//! Bad input, and what it gets: one clear sentence, the object's name, a hint, the right exit code, nothing changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, tree};

/// Asserts that an answer is a refusal with this exit code, naming `object`, with a hint.
fn assert_refused(case: &str, (code, document): &(Option<i32>, Value), expected: i32, object: &str) {
    assert_eq!(*code, Some(expected), "{case}: {document:#}");
    let error = if document["error"].is_object() { &document["error"] } else { &document["errors"][0] };
    let said = error.to_string();
    assert!(said.contains(object), "{case}: {object} is not named: {document:#}");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{case}: no hint: {document:#}");
}

#[test]
fn roots_that_cannot_be_used_are_refused() {
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("shop");
    tree::plain(&source, 5, 100).unwrap();
    fs::write(cluster.path("file"), "x").unwrap();
    symlink(&source, cluster.path("alias")).unwrap();
    let at = |host: &str, name: &str| format!("{host}:{}", cluster.path(name).display());

    let cases = [
        ("unknown source host", "nobody:/x".to_owned(), at("agent-2", "to"), 4, "nobody"),
        ("unknown destination host", at("agent-1", "shop"), "nobody:/x".to_owned(), 4, "nobody"),
        ("missing source", at("agent-1", "absent"), at("agent-2", "to"), 4, "absent"),
        ("source is a file", at("agent-1", "file"), at("agent-2", "to"), 2, "file"),
        ("destination is a file", at("agent-1", "shop"), at("agent-2", "file"), 2, "file"),
        ("same folder", at("agent-1", "shop"), at("agent-2", "shop"), 2, "shop"),
        ("same folder under another name", at("agent-1", "shop"), at("agent-2", "alias"), 2, "alias"),
        ("destination inside source", at("agent-1", "shop"), at("agent-2", "shop/d000/in"), 2, "in"),
        ("inside through a link", at("agent-1", "shop"), at("agent-2", "alias/in"), 2, "in"),
        ("source inside destination", at("agent-1", "shop/d000"), at("agent-2", "shop"), 2, "shop"),
        ("relative path", "agent-1:shop".to_owned(), at("agent-2", "to"), 2, "agent-1:shop"),
        ("no host", "/shop".to_owned(), at("agent-2", "to"), 2, "/shop"),
        ("read-only destination", at("agent-1", "shop"), "agent-2:/proc/drover".to_owned(), 3, "/proc"),
    ];
    for (case, from, to, code, object) in cases {
        let answer = cluster.json(&["migrate", &from, &to, "--yes"]);
        assert_refused(case, &answer, code, object);
    }
    assert!(!cluster.path("to").exists(), "a refused migration makes nothing");
}

#[test]
fn a_root_is_taken_while_its_migration_lives() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 3000, 9000).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "1MiB"]);
    let second = cluster.migrate(&source, &destination, &[]);
    assert_refused("second migration onto one root", &second, 5, &id);
    let below = cluster.migrate(&source, &destination.join("d000"), &[]);
    assert_refused("a migration below a taken root", &below, 5, &id);
    let (code, migration) = cluster.json(&["cancel", &id, "--yes"]);
    assert_eq!(code, Some(0), "{migration:#}");
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(0), "{migration:#}");
}

#[test]
fn what_does_not_exist_is_not_found() {
    let cluster = Cluster::start(1, 1);
    for words in [["status", "zzzz"], ["cancel", "zzzz"], ["report", "zzzz"], ["retry", "zzzz"]] {
        let answer = cluster.json(&[&words[..], &["--yes"][..usize::from(words[0] == "cancel")]].concat());
        assert_refused(words[0], &answer, 4, "zzzz");
    }
    let answer = cluster.json(&["host", "show", "nobody"]);
    assert_refused("host show", &answer, 4, "nobody");
}

#[test]
fn a_full_disk_loses_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, image, mount) = (cluster.path("shop"), cluster.path("image"), cluster.path("small"));
    tree::plain(&source, 2000, 20_000).unwrap();
    fs::create_dir(&mount).unwrap();
    let Some(_mounted) = tests::mount::small_ext4(&image, &mount, 12) else { return };
    let destination = mount.join("site");
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(9), "{migration:#}");
    assert_eq!(migration["errors"][0]["kind"], "exhausted", "{migration:#}");
    // The undo gave back what was there before: nothing.
    let left: Vec<_> = fs::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name == "site") || fs::read_dir(&destination).unwrap().next().is_none(),
        "{left:?}"
    );
    let processes = cluster.processes();
    assert_eq!(processes.len(), 3, "every daemon lives: {processes:?}");
}

/// What may be in flight fits, so nothing is refused by a write.
#[test]
fn what_will_not_fit_is_refused_before_anything_lands() {
    let cluster = Cluster::start(2, 1);
    let (image, mount, before) = (cluster.path("image"), cluster.path("small"), cluster.path("before"));
    fs::create_dir(&mount).unwrap();
    let Some(_mounted) = tests::mount::small_ext4(&image, &mount, 64) else { return };
    let destination = mount.join("site");
    tree::plain(&destination, 300, 9000).unwrap();
    fs::write(destination.join("only-here"), "only here").unwrap();
    assert!(Command::new("cp").arg("-a").args([&destination, &before]).status().unwrap().success());
    // 16 384 inodes, and blocks of 1 KiB.
    let cases: [(&str, usize, usize, &str); 2] =
        [("large", 300, 300 << 10, "are still to come and"), ("many", 20_000, 1, "inodes are free")];
    for (name, count, size, expected) in cases {
        let source = cluster.path(name);
        fs::create_dir(&source).unwrap();
        for number in 0..count {
            fs::write(source.join(format!("f{number}")), tree::bytes(7, size)).unwrap();
        }
        let (code, migration) = cluster.migrate(&source, &destination, &[]);
        let error = &migration["errors"][0];
        assert_eq!((code, &error["kind"]), (Some(9), &"exhausted".into()), "{migration:#}");
        assert!(error["message"].as_str().unwrap().contains(expected), "{migration:#}");
        assert!(error["hint"].as_str().unwrap().contains("Make room"), "{migration:#}");
        assert_eq!(migration["files_sent"], 0, "{migration:#}");
        judge::assert_equal(&before, &destination);
    }
}

#[test]
fn a_revoked_host_is_shut_out() {
    let cluster = Cluster::start(2, 1);
    let (code, _) = cluster.json(&["host", "revoke", "agent-2", "--yes"]);
    assert_eq!(code, Some(0));
    tests::wait::until("the session to be cut", std::time::Duration::from_secs(10), || {
        let (_, host) = cluster.json(&["host", "show", "agent-2"]);
        (host["connected"] == false && host["status"] == "revoked").then_some(())
    });
    tree::plain(&cluster.path("shop"), 5, 100).unwrap();
    let (code, document) = cluster.migrate(&cluster.path("shop"), &cluster.path("to"), &[]);
    assert_eq!(code, Some(3), "{document:#}");
}
