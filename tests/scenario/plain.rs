//! The main job on plain trees.

use std::fs;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, tree};

/// Asserts that a finished migration did everything that was asked for.
fn assert_whole(code: Option<i32>, migration: &Value) {
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!(migration["status"], "completed");
    assert_eq!(migration["verified"], true);
    assert_eq!(migration["progress"], 100.0);
    assert_eq!(migration["findings_total"], 0, "{:#}", migration["findings"]);
    assert_eq!(migration["source_digest"], migration["destination_digest"]);
    assert!(migration["source_digest"].is_string());
}

#[test]
fn a_tree_moves_whole_and_again_without_sending() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 3000, 20_000).unwrap();
    fs::write(source.join("large.bin"), tree::bytes(1, 12 << 20)).unwrap();

    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &migration);
    assert_eq!(migration["files_total"], 3001);
    assert_eq!(migration["files_sent"], 3001);
    assert_eq!(migration["bytes_resent"], 0);
    assert!(migration["bytes_on_wire"].as_u64().unwrap() > 12 << 20);
    judge::assert_equal(&source, &destination);
    assert_eq!(leftovers(&destination), Vec::<String>::new(), "a migration of flags only settles at once");

    let (code, again) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &again);
    assert_eq!(again["files_total"], 3001);
    assert_eq!(again["files_sent"], 0);
    judge::assert_equal(&source, &destination);
}

/// Returns the names of stages in a root.
fn leftovers(root: &std::path::Path) -> Vec<String> {
    let names =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".drover-")).collect()
}

#[test]
fn changes_move_and_nothing_else() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 500, 9000).unwrap();
    let (code, first) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &first);

    fs::write(source.join("d000/e00/f000007.php"), "changed").unwrap();
    fs::write(source.join("new"), "new").unwrap();
    fs::remove_file(source.join("d000/e01/f000101.php")).unwrap();
    fs::rename(source.join("d000/e02"), source.join("d000/renamed")).unwrap();
    // A directory takes a file's place and the reverse.
    fs::remove_file(source.join("d000/e03/f000301.php")).unwrap();
    fs::create_dir(source.join("d000/e03/f000301.php")).unwrap();
    fs::write(source.join("d000/e03/f000301.php/inside"), "inside").unwrap();
    fs::remove_dir_all(source.join("d000/e04")).unwrap();
    fs::write(source.join("d000/e04"), "a file now").unwrap();

    let (code, second) = cluster.migrate(&source, &destination, &["--delete"]);
    assert_whole(code, &second);
    assert_eq!(second["files_sent"], 104, "the renamed directory, three changes and one inside");
    judge::assert_equal(&source, &destination);
}

#[test]
fn without_delete_nothing_goes() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 50, 900).unwrap();
    fs::create_dir_all(destination.join("own")).unwrap();
    fs::write(destination.join("own/file"), "mine").unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &migration);
    assert_eq!(fs::read_to_string(destination.join("own/file")).unwrap(), "mine");
}

#[test]
fn the_guard_stops_a_delete_of_too_much() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 10, 900).unwrap();
    tree::plain(&destination, 200, 900).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--delete"]);
    assert_ne!(code, Some(0), "{migration:#}");
    assert!(destination.join("d000/e01/f000199.php").exists(), "nothing was deleted");
    let findings = migration["findings"].to_string();
    assert!(findings.contains("not_deleted") && findings.contains("--max-delete"), "{migration:#}");

    let (code, migration) = cluster.migrate(&source, &destination, &["--delete", "--max-delete", "100%"]);
    assert_whole(code, &migration);
    judge::assert_equal(&source, &destination);
}

#[test]
fn excluded_entries_stay_where_they_are() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 20, 900).unwrap();
    fs::create_dir_all(source.join("cache/deep")).unwrap();
    fs::write(source.join("cache/deep/junk"), "junk").unwrap();
    fs::write(source.join("debug.log"), "log").unwrap();
    fs::create_dir_all(destination.join("cache")).unwrap();
    fs::write(destination.join("cache/local"), "kept").unwrap();
    let flags = ["--delete", "--max-delete", "100%", "--exclude", "cache/**", "--exclude", "*.log"];
    let (code, migration) = cluster.migrate(&source, &destination, &flags);
    assert_eq!(code, Some(0), "{migration:#}");
    assert!(!destination.join("cache/deep").exists());
    assert!(!destination.join("debug.log").exists());
    assert_eq!(fs::read_to_string(destination.join("cache/local")).unwrap(), "kept");
    assert!(destination.join("d000/e00/f000019.php").exists());
}

#[test]
fn a_dry_run_lists_and_changes_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, destination, before) = (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
    tree::plain(&source, 20, 900).unwrap();
    tree::plain(&destination, 5, 100).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&destination, &before]).status().unwrap();
    assert!(copied.success());
    let (code, migration) =
        cluster.migrate(&source, &destination, &["--dry-run", "--delete", "--max-delete", "100%"]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&before, &destination);
    let items = migration["items"].as_array().unwrap();
    let item = |path: &str| items.iter().find(|item| item["path"] == path).unwrap();
    assert_eq!(item("d000/e00/f000019.php")["action"], "create", "{migration:#}");
    let replaced = item("d000/e00/f000003.php");
    assert_eq!((&replaced["action"], &replaced["why"][0]), (&"replace".into(), &"size".into()), "{replaced}");

    let (from, to) = (format!("agent-1:{}", source.display()), format!("agent-2:{}", destination.display()));
    let outcome = cluster.ctl(&["migrate", &from, &to, "--dry-run"], &[]).expect_code(0);
    assert!(outcome.stdout.contains("f000019.php"), "{}", outcome.stdout);
}

#[test]
fn a_checksum_run_finds_what_times_hide() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 30, 900).unwrap();
    fs::write(source.join("data"), "aaaa").unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &migration);
    let time = fs::metadata(source.join("data")).unwrap().modified().unwrap();
    fs::write(destination.join("data"), "bbbb").unwrap();
    fs::File::options().write(true).open(destination.join("data")).unwrap().set_modified(time).unwrap();
    let root_time = fs::metadata(&source).unwrap().modified().unwrap();
    fs::File::open(&destination).unwrap().set_modified(root_time).unwrap();

    let (code, migration) = cluster.migrate(&source, &destination, &["--checksum"]);
    assert_whole(code, &migration);
    assert_eq!(migration["files_sent"], 1);
    assert_eq!(fs::read_to_string(destination.join("data")).unwrap(), "aaaa");
}

#[test]
fn an_empty_tree_and_a_missing_destination_are_fine() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("empty"), cluster.path("a/b/c"));
    fs::create_dir(&source).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_whole(code, &migration);
    judge::assert_equal(&source, &destination);
}
