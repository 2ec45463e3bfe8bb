//! What a dry run lists, judged by what `rsync -n -i` lists, on random trees.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::step::file::ListQuestion;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr};

use crate::mounted_test::{run, skipped};
use crate::pair::Pair;

/// One entry of a random tree.
#[derive(Clone, Debug)]
struct Thing {
    kind: u8,
    content: u8,
    mode: u8,
    owner: u8,
    second: u8,
    attribute: u8,
}

/// A file for each number: so both trees have much in common.
const NAMES: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f"];
const DIRECTORIES: [&str; 2] = ["d", "d/e"];

fn thing() -> impl Strategy<Value = Option<Thing>> {
    let made = (0..4_u8, 0..3_u8, 0..2_u8, 0..2_u8, 0..2_u8, 0..3_u8).prop_map(
        |(kind, content, mode, owner, second, attribute)| Thing {
            kind,
            content,
            mode,
            owner,
            second,
            attribute,
        },
    );
    proptest::option::weighted(0.8, made)
}

fn tree() -> impl Strategy<Value = Vec<Option<Thing>>> {
    proptest::collection::vec(thing(), NAMES.len())
}

/// Makes a tree; directories are always there.
fn grow(root: &Path, tree: &[Option<Thing>]) {
    std::fs::create_dir_all(root).unwrap();
    for (name, thing) in NAMES.iter().zip(tree) {
        let path = root.join(name);
        if DIRECTORIES.contains(name) {
            std::fs::create_dir_all(&path).unwrap();
            continue;
        }
        let Some(thing) = thing else { continue };
        match thing.kind {
            0 => symlink(format!("target{}", thing.content), &path).unwrap(),
            _ => std::fs::write(&path, vec![b'x'; 1 + usize::from(thing.content)]).unwrap(),
        }
    }
    for (name, thing) in NAMES.iter().zip(tree).rev() {
        let path = root.join(name);
        let Some(thing) = thing.as_ref().filter(|_thing| path.symlink_metadata().is_ok()) else { continue };
        let is_link = path.is_symlink();
        if !is_link {
            std::os::unix::fs::lchown(&path, Some(u32::from(thing.owner)), Some(u32::from(thing.owner)))
                .unwrap();
            let mode = [0o755, 0o700][usize::from(thing.mode)];
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        match thing.attribute {
            1 if !is_link => lsetxattr(&path, "user.note", b"x", XattrFlags::empty()).unwrap(),
            2 if !is_link => assert!(run("setfacl", &["-m", "u:9:r"], &[&path])),
            _ => {}
        }
        set_time(&path, i64::from(thing.second));
    }
    for name in [DIRECTORIES[1], DIRECTORIES[0], ""] {
        set_time(&root.join(name), 7);
    }
}

fn set_time(path: &Path, second: i64) {
    let time = Timespec { tv_sec: 1_600_000_000 + second, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What is done to a path, and why: letters of rsync's `-i`.
type Items = BTreeMap<String, String>;

/// Returns what rsync lists.
fn of_rsync(pair: &Pair) -> Items {
    let output = Command::new("rsync")
        .args(["-n", "-i", "-aHAX", "--modify-window=-1", "--numeric-ids", "--delete"])
        .arg(pair.source_root.join(""))
        .arg(pair.destination_root.join(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let (letters, path) = line.split_once(' ')?;
        let path = path.trim().split(" -> ").next()?.trim_end_matches('/');
        let what = match letters {
            "*deleting" => "delete".to_owned(),
            letters if letters.ends_with("+++") => "create".to_owned(),
            // The first two say how and what; the rest is a letter or a dot for each reason.
            letters => letters[2..].chars().filter(|letter| letter.is_alphabetic()).collect(),
        };
        Some((path.to_owned(), what))
    };
    String::from_utf8(output.stdout).unwrap().lines().filter_map(line).collect()
}

/// Returns what the dry run lists.
async fn of_drover(pair: &mut Pair) -> Items {
    let list_file = pair.copy().await.0.unwrap().list_file.unwrap();
    let question = ListQuestion { migration: "m1".parse().unwrap(), list_file };
    let list = crate::way_back::open_list(&pair.state_dir, &question).unwrap();
    let text = std::io::read_to_string(list).unwrap();
    let letter = |word: &str| match word {
        "size" => 's',
        // rsync says of a link that its content is another one.
        "target" => 'c',
        "time" => 't',
        "mode" => 'p',
        "owner" => 'o',
        "group" => 'g',
        "acl" => 'a',
        "attributes" => 'x',
        // What is of another kind is compared by its path only.
        "kind" => 'k',
        other => panic!("{other}"),
    };
    let item = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let what = match text("action").as_str() {
            action @ ("create" | "delete") => action.to_owned(),
            _ => line["why"].as_array().unwrap().iter().map(|why| letter(why.as_str().unwrap())).collect(),
        };
        (text("path"), what)
    };
    text.lines().map(item).collect()
}

#[test]
fn a_dry_run_lists_what_rsync_lists() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    if chown(probe.path(), Some(1), None).is_err() {
        return skipped("giving files to others needs root");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() });
    let judged = runner.run(&(tree(), tree()), |(source, destination)| {
        let (mine, judge) = runtime.block_on(async {
            let mut pair = Pair::new();
            grow(&pair.source_root, &source);
            grow(&pair.destination_root, &destination);
            (pair.params.dry_run, pair.params.delete) = (true, true);
            let lists = (of_drover(&mut pair).await, of_rsync(&pair));
            pair.close().await;
            lists
        });
        // What becomes of another kind is made anew by rsync, which lists it as created.
        let is_other_kind = |path: &String| {
            let kind = |tree: &[Option<Thing>]| {
                let at = NAMES.iter().position(|name| name == path)?;
                Some(tree[at].as_ref()?.kind == 0)
            };
            kind(&source) != kind(&destination)
        };
        let differing: Vec<_> = mine
            .keys()
            .chain(judge.keys())
            .filter(|path| mine.get(*path) != judge.get(*path) && !is_other_kind(path))
            .map(|path| (path, mine.get(path), judge.get(path)))
            .collect();
        prop_assert!(differing.is_empty(), "{:?}", differing);
        prop_assert_eq!(mine.keys().collect::<Vec<_>>(), judge.keys().collect::<Vec<_>>());
        Ok(())
    });
    judged.unwrap();
}
