//! What is seen of a cluster that runs, and of one that does not.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::cluster::Cluster;
use tests::tree;

/// Returns the one document of a run that must end well.
fn document(cluster: &Cluster, words: &[&str]) -> Value {
    let (code, document) = cluster.json(words);
    assert_eq!(code, Some(0), "{words:?}: {document}");
    document
}

fn tables(cluster: &Cluster) {
    let hosts = cluster.ctl(&["host", "list"], &[]).expect_code(0);
    let mut lines = hosts.stdout.lines();
    let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["HOST", "STATUS", "STEPS", "SYSTEM", "AGENT", "LAST", "SEEN"]);
    assert!(lines.next().unwrap().starts_with("agent-1  connected"), "{}", hosts.stdout);
    assert_eq!(hosts.stderr, "");
    assert!(!hosts.stdout.contains('\u{1b}'), "not on a terminal, and coloured");
    let verbose = cluster.ctl(&["-v", "host", "list"], &[]).expect_code(0);
    assert!(verbose.stderr.contains("coordinators: 127.0.0.1:"), "{}", verbose.stderr);
    assert_eq!(verbose.stdout.lines().count(), 3);
    for words in [&["host", "list"][..], &["cluster", "status"], &["list"], &["host", "show", "agent-1"]] {
        document(cluster, words);
    }
}

fn absent(cluster: &Cluster) {
    for words in [&["status", "b7k2m9x4qz"][..], &["host", "show", "nobody"], &["cancel", "b7k2m9x4qz"]] {
        let person = cluster.ctl(words, &[]).expect_code(4);
        assert!(person.stdout.is_empty() && person.stderr.contains("hint: "), "{words:?}: {person:?}");
        let (code, document) = cluster.json(words);
        assert_eq!((code, document["exit_code"].as_i64()), (Some(4), Some(4)), "{words:?}");
        assert_eq!(document["error"]["kind"], "not_found", "{words:?}");
    }
}

/// An interrupt ends the watching and not the move, and says so.
fn interrupt(cluster: &Cluster) {
    let source = cluster.path("shop");
    tree::noise(&source, 400, 22_000).unwrap();
    // So slow that it cannot end before it is cancelled.
    let id = cluster.migrate_detached(&source, &cluster.path("moved"), &["--bandwidth", "20KiB"]);
    let mut watching =
        cluster.command().args(["watch", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stderr.take().unwrap()).lines();
    // What is told of the progress shows that it watches.
    let first = lines.next().unwrap().unwrap();
    assert!(!first.contains('\u{1b}'), "not on a terminal: {first:?}");
    let pid = Pid::from_raw(i32::try_from(watching.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(watching.wait().unwrap().code(), Some(130), "{rest:?}");
    let said = rest.join("\n");
    assert!(said.contains("goes on") && said.contains(&format!("ctl watch {id}")), "{said}");
    assert_eq!(cluster.status(&id)["status"], "running");
    document(cluster, &["cancel", &id]);
    assert_eq!(cluster.wait_for_end(&id)["status"], "cancelled");
}

/// A move that ends well: quiet gives the answer alone, a script gets one document.
fn quiet(cluster: &Cluster) {
    let source = cluster.path("small");
    tree::plain(&source, 20, 2_000).unwrap();
    let (from, to) =
        (format!("agent-1:{}", source.display()), format!("agent-2:{}", cluster.path("q").display()));
    let run = cluster.ctl(&["-q", "migrate", &from, &to, "--yes"], &[]).expect_code(0);
    assert!(run.stdout.starts_with("completed  ") && run.stderr.is_empty(), "the answer alone: {run:?}");
    let (code, moved) = cluster.migrate(&source, &cluster.path("j"), &[]);
    assert_eq!((code, &moved["status"], &moved["verified"]), (Some(0), &"completed".into(), &true.into()));
    let report =
        cluster.ctl(&["report", moved["id"].as_str().unwrap(), "--format", "markdown"], &[]).expect_code(0);
    assert!(!report.stdout.contains("| - |"), "a step that has ended has figures:\n{}", report.stdout);
}

#[test]
fn a_cluster_is_seen_and_missed() {
    let cluster = Cluster::start(2, 1);
    tables(&cluster);
    absent(&cluster);
    quiet(&cluster);
    interrupt(&cluster);
    cluster.kill("coordinator-1");
    let missed = cluster.ctl(&["list"], &[]).expect_code(11);
    assert!(missed.stdout.is_empty() && missed.stderr.contains("hint: "), "{missed:?}");
    let (code, document) = cluster.json(&["list"]);
    assert_eq!((code, &document["error"]["kind"]), (Some(11), &"unreachable".into()));
}

#[test]
fn every_error_names_whom_to_ask() {
    let cluster = Cluster::start(2, 1);
    cluster.kill("coordinator-1");
    let settings = cluster.cluster_directory().join("coordinator-1/settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("support_contact = \"ops@example.com\"\n{text}")).unwrap();
    cluster.up();
    let person = cluster.ctl(&["status", "b7k2m9x4qz"], &[]).expect_code(4);
    assert!(person.stderr.contains("ops@example.com"), "{}", person.stderr);
    let (_, document) = cluster.json(&["cancel", "b7k2m9x4qz"]);
    assert_eq!(document["support_contact"], "ops@example.com");
    assert!(document["error"]["context"].as_array().is_none_or(Vec::is_empty), "{document}");
}
