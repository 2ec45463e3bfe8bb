//! Patterns judged by others: rsync and git decide what is left out of random trees.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::filter::Filter;
use crate::rel_path::RelPath;

/// Directories of a tree in which every component is one of a few words, so that patterns meet them.
const WORDS: [&str; 5] = ["a", "b", "ab", "a-b", "b1"];

/// Makes a tree: all words as files and directories, three levels deep, names of files with a dot.
fn grow(root: &Path, levels: u32) {
    for word in WORDS {
        std::fs::write(root.join(format!("{word}.x")), "").unwrap();
        std::fs::write(root.join(format!("f{word}")), "").unwrap();
        if levels > 0 {
            let below = root.join(word);
            std::fs::create_dir(&below).unwrap();
            grow(&below, levels - 1);
        }
    }
}

/// Returns what is not left out, by the filter; directories end with `/`.
fn kept(root: &Path, filter: &Filter) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    let mut waiting = vec![RelPath::root()];
    while let Some(directory) = waiting.pop() {
        let path = root.join(std::str::from_utf8(directory.as_bytes()).unwrap());
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_encoded_bytes();
            let is_directory = entry.file_type().unwrap().is_dir();
            if filter.leaves_out(&directory, &name, is_directory) {
                continue;
            }
            let path = directory.join(&name).unwrap();
            kept.insert(format!("{path}{}", if is_directory { "/" } else { "" }));
            if is_directory {
                waiting.push(path);
            }
        }
    }
    kept
}

/// Returns what rsync would send by these rules, of which the first that matches counts.
fn kept_by_rsync(root: &Path, rules: impl Iterator<Item = String>) -> BTreeSet<String> {
    let listed = Command::new("rsync")
        .args(["-a", "--list-only", "--no-motd"])
        .args(rules)
        .arg(format!("{}/", root.display()))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines = String::from_utf8(listed.stdout).unwrap();
    let path = |line: &str| {
        let path = line.split_whitespace().last().unwrap();
        format!("{path}{}", if line.starts_with('d') { "/" } else { "" })
    };
    lines.lines().map(path).filter(|path| path != "./").collect()
}

/// Returns which of these paths git ignores by this file of patterns.
fn kept_by_git(root: &Path, rules: &str) -> BTreeSet<String> {
    let (all, file) = (kept(root, &Filter::default()), root.parent().unwrap().join("ignored"));
    std::fs::write(&file, rules).unwrap();
    let mut git = Command::new("git")
        .args([
            "-c",
            &format!("core.excludesFile={}", file.display()),
            "check-ignore",
            "--no-index",
            "--stdin",
        ])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // git looks itself what is a directory, and takes a `/` at the end for part of the path.
    let paths: Vec<&str> = all.iter().map(|path| path.trim_end_matches('/')).collect();
    let mut stdin = git.stdin.take().unwrap();
    let text = paths.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = git.wait_with_output().unwrap();
    writer.join().unwrap();
    let ignored: BTreeSet<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    all.into_iter().filter(|path| !ignored.contains(path.trim_end_matches('/'))).collect()
}

/// A component of a pattern: words, stars, sets.
fn component() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("f"),
        Just("*"),
        Just("?"),
        Just("1"),
        Just(".x"),
        Just("-"),
        Just("[ab]"),
        Just("[!a]"),
        Just("[^b]"),
        Just("[a-f]"),
        Just("[]a]"),
        Just("[[:digit:]]"),
        Just("[![:alpha:]]"),
    ];
    proptest::collection::vec(part, 1..4)
        .prop_map(|parts| parts.concat())
        // Two stars side by side mean more than one does.
        .prop_filter("one star", |text| !text.contains("**"))
}

/// A pattern on whose meaning Drover and rsync agree: all but a `**/` between two slashes.
fn for_rsync() -> impl Strategy<Value = String> {
    let ends = (
        prop_oneof![Just(""), Just("/"), Just("**/")],
        prop_oneof![Just(""), Just("/"), Just("/**"), Just("/***")],
    );
    (ends, proptest::collection::vec(component(), 1..4))
        .prop_map(|((first, last), components)| format!("{first}{}{last}", components.join("/")))
}

/// A pattern on whose meaning Drover and git agree: what has a slash inside begins at the root for git.
fn for_git() -> impl Strategy<Value = String> {
    let between = prop_oneof![Just("/"), Just("/**/")];
    let several = (component(), between, component(), prop_oneof![Just(""), Just("/"), Just("/**")])
        .prop_map(|(first, between, last, end)| format!("/{first}{between}{last}{end}"));
    let one = (prop_oneof![Just(""), Just("/"), Just("**/")], component(), prop_oneof![Just(""), Just("/")])
        .prop_map(|(first, name, end)| format!("{first}{name}{end}"));
    (prop_oneof![Just(""), Just("!")], prop_oneof![one, several])
        .prop_map(|(not, pattern)| format!("{not}{pattern}"))
}

/// Each case starts a process. No file of failed cases is kept beside the source.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn what_is_left_out_is_what_rsync_leaves_out() {
    let root = tempfile::tempdir().unwrap();
    grow(root.path(), 2);
    let rules = (proptest::collection::vec(for_rsync(), 1..4), proptest::collection::vec(for_rsync(), 0..3));
    proptest!(config(), |((exclude, include) in rules)| {
        let filter = Filter::new(&exclude, &include).unwrap();
        // Includes count more than excludes, so they come first.
        let rules = include.iter().map(|pattern| format!("--include={pattern}"));
        let rules = rules.chain(exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        let (kept, judged) = (kept(root.path(), &filter), kept_by_rsync(root.path(), rules));
        let differing: Vec<_> = kept.symmetric_difference(&judged).collect();
        prop_assert!(differing.is_empty(), "{:?}", differing);
    });
}

#[test]
fn a_list_with_exceptions_is_one_of_rsync_from_its_end() {
    let root = tempfile::tempdir().unwrap();
    grow(root.path(), 2);
    let rules = proptest::collection::vec((any::<bool>(), for_rsync()), 1..6);
    proptest!(config(), |(rules in rules)| {
        let not = |is_kept: bool| if is_kept { "!" } else { "" };
        let exclude: Vec<_> =
            rules.iter().map(|(is_kept, pattern)| format!("{}{pattern}", not(*is_kept))).collect();
        let filter = Filter::new::<String>(&exclude, &[]).unwrap();
        let reversed = rules.iter().rev().map(|(is_kept, pattern)| {
            let flag = if *is_kept { "include" } else { "exclude" };
            format!("--{flag}={pattern}")
        });
        let (kept, judged) = (kept(root.path(), &filter), kept_by_rsync(root.path(), reversed));
        let differing: Vec<_> = kept.symmetric_difference(&judged).collect();
        prop_assert!(differing.is_empty(), "{:?}", differing);
    });
}

#[test]
fn what_is_left_out_is_what_git_ignores() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    grow(&root, 2);
    assert!(Command::new("git").args(["init", "-q"]).arg(&root).status().unwrap().success());
    // Its own folder is no part of the tree.
    let git = folder.path().join("git");
    std::fs::rename(root.join(".git"), &git).unwrap();
    std::fs::write(root.join(".git"), format!("gitdir: {}", git.display())).unwrap();
    let rules = proptest::collection::vec(for_git(), 1..5);
    proptest!(config(), |(rules in rules)| {
        let filter = Filter::new(&rules, &[]).unwrap();
        let mut kept = kept(&root, &filter);
        let mut judged = kept_by_git(&root, &rules.join("\n"));
        kept.remove(".git");
        judged.remove(".git");
        let differing: Vec<_> = kept.symmetric_difference(&judged).collect();
        prop_assert!(differing.is_empty(), "{:?}", differing);
    });
}
