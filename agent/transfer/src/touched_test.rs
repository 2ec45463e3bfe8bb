//! What others do, at the destination, to what this migration left there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::failure::FailureKind;
use common::finding::{Finding, Rule};

use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

fn write(root: &Path, name: &str, content: &str) -> PathBuf {
    std::fs::create_dir_all(root).unwrap();
    let path = root.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn rules(findings: &[Finding]) -> Vec<(Rule, &str)> {
    findings.iter().map(|finding| (finding.rule, finding.object.as_str())).collect()
}

/// Returns what an undo kept aside.
fn kept_aside(pair: &Pair) -> Vec<String> {
    let stages = std::fs::read_dir(&pair.destination_root).unwrap().map(|entry| entry.unwrap().path());
    let after = stages.map(|stage| stage.join("after")).filter(|after| after.exists());
    let kept = after.flat_map(|after| std::fs::read_dir(after).unwrap());
    kept.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_a_file_of_two_names_is_a_conflict_and_no_damage() {
    let mut pair = Pair::new();
    let one = write(&pair.source_root, "one", "of both");
    std::fs::hard_link(&one, pair.source_root.join("two")).unwrap();
    pair.copy().await.0.unwrap();
    write(&pair.destination_root, "one", "of the destination's application");
    let (verified, findings) = pair.verify().await;
    assert!(!verified.unwrap().is_verified);
    assert_eq!(rules(&findings), [(Rule::Conflict, "one"), (Rule::Conflict, "two")]);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_place_of_ours_is_kept_though_it_has_its_number() {
    let mut pair = Pair::new();
    write(&pair.source_root, "replaced", "of the source");
    write(&pair.source_root, "edited", "of the source");
    pair.copy().await.0.unwrap();
    let ours = pair.destination_root.join("replaced");
    let number = std::fs::metadata(&ours).unwrap().ino();
    // Usually the first try gets it; where none does, the file is another one by its number, too.
    for _try in 0..20 {
        std::fs::remove_file(&ours).unwrap();
        write(&pair.destination_root, "replaced", "somebody's own");
        if std::fs::metadata(&ours).unwrap().ino() == number {
            break;
        }
    }
    write(&pair.destination_root, "edited", "somebody's edit");
    write(&pair.source_root, "replaced", "of the source, later");
    write(&pair.source_root, "edited", "of the source, later");
    pair.copy().await.0.unwrap();
    assert_eq!(std::fs::read_to_string(&ours).unwrap(), "of the source, later");
    assert_eq!(pair.undo().await.0, Ok(2));
    let mut kept = kept_aside(&pair);
    kept.sort();
    assert_eq!(kept, ["somebody's edit", "somebody's own"]);
    pair.settle();
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_gone_is_neither_undone_nor_begun_anew() {
    let mut pair = Pair::new();
    write(&pair.source_root, "file", "of the source");
    write(&pair.destination_root, "file", "as it was");
    let before = snapshot(&pair.destination_root);
    pair.copy().await.0.unwrap();
    let elsewhere = pair.destination_root.with_extension("unmounted");
    std::fs::rename(&pair.destination_root, &elsewhere).unwrap();
    for failure in [pair.undo().await.0.map(drop), pair.copy().await.0.map(drop)] {
        assert_eq!(failure.map_err(|failure| failure.kind), Err(FailureKind::Conflict));
    }
    assert!(!pair.destination_root.exists());
    std::fs::rename(&elsewhere, &pair.destination_root).unwrap();
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &before, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_with_an_older_token_clears_nothing() {
    let mut pair = Pair::new();
    write(&pair.source_root, "file", "of the source");
    pair.copy().await.0.unwrap();
    let stages = std::fs::read_dir(&pair.destination_root).unwrap().map(|entry| entry.unwrap().path());
    let stage = stages.filter(|path| path.is_dir()).collect::<Vec<_>>().remove(0);
    let staged = write(&stage.join("new"), "of-the-newer-attempt", "on its way");
    let newest = std::mem::replace(&mut pair.token, 0);
    assert_eq!(pair.undo().await.0.map_err(|failure| failure.kind), Err(FailureKind::Fenced));
    assert!(staged.exists());
    pair.token = newest;
    assert_eq!(pair.undo().await.0, Ok(0));
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_cannot_be_given_back_is_told_and_another_try_does_it() {
    let mut pair = Pair::new();
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let file = write(&pair.destination_root, "file", "the same");
    set_mode(&file, 0o640);
    let before = snapshot(&pair.destination_root);
    std::fs::create_dir_all(&pair.source_root).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&file).arg(&pair.source_root).status().unwrap();
    assert!(copied.success());
    set_mode(&pair.source_root.join("file"), 0o600);
    pair.copy().await.0.unwrap();
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&file).status().is_ok_and(|s| s.success());
    if !chattr("+i") {
        eprintln!("left out: this file system has no flag that forbids changes");
        return;
    }
    let (undone, findings) = pair.undo().await;
    assert!(chattr("-i"));
    assert_eq!(undone.map_err(|failure| failure.kind), Err(FailureKind::Stuck));
    assert_eq!(rules(&findings), [(Rule::Differs, "file")]);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &before, "undone");
    pair.close().await;
}
