//! The rules of the house that a program can check.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file, its tests not counted.
const FILE_LINES_MAX: usize = 500;

/// Returns the repository's root.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A source file: its path from the root, and its text up to the tests.
struct Source {
    path: String,
    code: String,
}

/// Returns every Rust file of the members, without what `target` holds.
fn sources() -> Vec<Source> {
    let root = repository();
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = ["agent", "common", "coordinator", "ctl", "proto", "tests"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("\n#[cfg(test)]").next().unwrap_or_default().to_owned();
                let path = path.strip_prefix(&root).unwrap().display().to_string();
                found.push(Source { path, code });
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// Whether a file holds only what tests use.
fn is_test_only(path: &str) -> bool {
    const FIXTURES: [&str; 6] = [
        "agent/transfer/src/authority.rs",
        "agent/transfer/src/pair.rs",
        "agent/transfer/src/pull/power_cut.rs",
        "agent/transfer/src/snapshot.rs",
        "agent/tree/src/scratch.rs",
        "agent/src/link/fixture.rs",
    ];
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("tests.rs")
        || path.ends_with("_test.rs")
        || FIXTURES.contains(&path)
}

/// Returns every file that is part of a binary.
fn shipped() -> Vec<Source> {
    sources().into_iter().filter(|source| !is_test_only(&source.path)).collect()
}

/// Returns the lines of code that are no comment and hold `pattern`, as `path:line`.
fn lines_with(source: &Source, pattern: &str) -> Vec<String> {
    let lines = source.code.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//") && line.contains(pattern))
        .map(|(at, line)| format!("{}:{}: {}", source.path, at + 1, line.trim()))
        .collect()
}

/// Fails with every offence at once.
fn assert_none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = shipped()
        .iter()
        .filter(|source| source.code.lines().count() > FILE_LINES_MAX)
        .map(|source| format!("{}: {} lines", source.path, source.code.lines().count()))
        .collect();
    assert_none(&long, "a file holds at most 500 lines without its tests");
}

#[test]
fn names_say_what_a_thing_is() {
    let forbidden = ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "misc.rs", "types.rs", "prelude.rs"];
    let bad: Vec<String> = sources()
        .iter()
        .filter(|source| forbidden.iter().any(|name| source.path.ends_with(&format!("/{name}"))))
        .map(|source| source.path.clone())
        .collect();
    assert_none(&bad, "a file is named for its noun");
}

#[test]
fn pure_modules_do_nothing() {
    let pure =
        ["agent/sync/src/", "coordinator/src/state/", "coordinator/src/saga/", "coordinator/src/planner/"];
    let effects = [
        "tokio::",
        "quinn::",
        "tonic::",
        "std::fs",
        "std::net",
        "std::env",
        "getrandom",
        "clock::wall()",
        "clock::boot()",
    ];
    let sources = shipped();
    for prefix in pure {
        assert!(sources.iter().any(|source| source.path.starts_with(prefix)), "{prefix} is gone");
    }
    let offences: Vec<String> = sources
        .iter()
        .filter(|source| pure.iter().any(|prefix| source.path.starts_with(prefix)))
        .flat_map(|source| effects.iter().flat_map(|effect| lines_with(source, effect)))
        .collect();
    assert_none(
        &offences,
        "a pure module neither waits, reads a clock, draws a random number nor touches a file",
    );
}

#[test]
fn only_tree_touches_paths_below_a_root() {
    let calls = ["std::fs", "tokio::fs", "rustix::fs", "OpenOptions"];
    // Each of these touches the agent's own state directory, or `/proc`, and nothing below a root.
    let doors = ["cost", "dry_run", "spill", "findings", "memory", "way_back", "scan/feeder", "scan/names"];
    let is_door = |path: &str| doors.iter().any(|name| path == format!("agent/transfer/src/{name}.rs"));
    let is_judged =
        |path: &str| path.starts_with("agent/transfer/src/") || path.starts_with("agent/src/step/");
    let offences: Vec<String> = shipped()
        .iter()
        .filter(|source| is_judged(&source.path) && !is_door(&source.path))
        .flat_map(|source| calls.iter().flat_map(|call| lines_with(source, call)))
        .collect();
    assert_none(&offences, "below a root, only the crate `tree` makes path system calls");
}

#[test]
fn only_the_endpoint_knows_quic() {
    let doors = ["congestion", "endpoint", "lane", "link", "reset_key", "window"];
    let is_door = |path: &str| doors.iter().any(|name| path == format!("agent/transfer/src/{name}.rs"));
    let offences: Vec<String> = shipped()
        .iter()
        .filter(|source| source.path.starts_with("agent/") && !is_door(&source.path))
        .flat_map(|source| lines_with(source, "quinn"))
        .collect();
    assert_none(&offences, "above the endpoint nothing knows QUIC");
}

#[test]
fn only_the_endpoint_knows_tcp() {
    let is_door =
        |path: &str| path.starts_with("agent/transfer/src/tcp/") || path == "agent/transfer/src/endpoint.rs";
    let offences: Vec<String> = shipped()
        .iter()
        .filter(|source| source.path.starts_with("agent/transfer/") && !is_door(&source.path))
        .flat_map(|source| ["tokio_rustls", "tokio::net"].iter().flat_map(|what| lines_with(source, what)))
        .collect();
    assert_none(&offences, "above the endpoint nothing knows TCP");
}

#[test]
fn openraft_and_sled_stay_behind_their_doors() {
    let sources = sources();
    let outside = |crate_name: &'static str, doors: &'static [&'static str]| {
        sources
            .iter()
            .filter(move |source| !source.path.starts_with("tests/"))
            .filter(move |source| !doors.iter().any(|door| source.path.starts_with(door)))
            .flat_map(move |source| lines_with(source, crate_name))
            .collect::<Vec<String>>()
    };
    assert_none(&outside("openraft::", &["coordinator/src/raft/"]), "openraft appears only under raft/");
    assert_none(
        &outside("sled::", &["coordinator/src/raft/", "agent/src/journal/"]),
        "sled stays behind its doors",
    );
}

#[test]
fn members_depend_in_one_direction() {
    let forbidden = [
        ("common", &["proto", "coordinator", "agent", "ctl", "tonic", "quinn", "openraft"][..]),
        ("proto", &["coordinator", "agent", "ctl", "quinn", "openraft"]),
        ("coordinator", &["agent", "ctl", "quinn", "tree", "sync", "transfer"]),
        ("ctl", &["agent", "coordinator", "quinn", "openraft", "tree", "sync", "transfer"]),
        ("agent", &["coordinator", "ctl", "openraft"]),
        ("agent/tree", &["proto", "coordinator", "ctl", "transfer", "sync", "tokio"]),
        ("agent/sync", &["proto", "coordinator", "ctl", "transfer", "tree", "tokio", "rustix"]),
        ("agent/transfer", &["proto", "coordinator", "ctl", "agent", "tonic"]),
    ];
    for (member, names) in forbidden {
        let manifest = fs::read_to_string(repository().join(member).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for name in names {
            let is_there = dependencies.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name));
            assert!(!is_there, "{member} must not depend on {name}");
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two halves, so that this file does not offend itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
    ];
    let offences: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            let text = fs::read_to_string(repository().join(&source.path)).unwrap();
            let whole = Source { path: source.path.clone(), code: text };
            marks
                .iter()
                .flat_map(|mark| {
                    whole
                        .code
                        .lines()
                        .enumerate()
                        .filter(|(_, line)| line.contains(mark))
                        .map(|(at, _)| format!("{}:{}", whole.path, at + 1))
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none(&offences, "what is not done is not in the code");
}

#[test]
fn no_second_crypto_provider_is_locked() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    for name in ["openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name} is locked");
    }
}
