//! What `--delete` and replacing leave alone.

use std::os::unix::fs::symlink;
use std::path::Path;

use common::finding::Rule;
use common::spec::MaxDelete;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{rules, write};
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

/// A name that nobody can look at: a file system whose server is gone.
struct Dead<'a>(&'a Path);

impl<'a> Dead<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let mounted = server.and_then(|server| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&server);
            let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
            let data = std::ffi::CString::new(data).unwrap();
            mount("none", at, "fuse", MountFlags::empty(), data.as_c_str()).map_err(Into::into)
        });
        match mounted {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: cannot mount a file system of FUSE: {error}");
                None
            }
        }
    }
}

impl Drop for Dead<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_could_not_look_at_is_neither_removed_nor_proven() {
    let mut pair = Pair::new();
    write(&pair.source_root, "a/file", b"of the source", 0o600);
    write(&pair.source_root, "z", b"of the source", 0o600);
    let unseen = pair.source_root.join("unseen");
    let Some(_dead) = Dead::mount(&unseen) else { return pair.close().await };
    let precious = pair.destination_root.join("unseen/below/precious");
    write(&pair.destination_root, "unseen/below/precious", b"the only copy", 0o600);
    write(&pair.destination_root, "extra/file", b"goes", 0o600);
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));

    pair.params.dry_run = true;
    let output = pair.copy().await.0.unwrap();
    assert_eq!((output.deleted, output.is_partial), (2, true));
    pair.params.dry_run = false;
    let (output, findings) = pair.copy().await;
    let output = output.unwrap();
    assert_eq!(rules(&findings), [(Rule::Unreadable, "unseen")]);
    assert_eq!((output.deleted, output.is_partial), (2, true));
    assert_eq!(std::fs::read(&precious).unwrap(), b"the only copy");

    // The copy has told it; nobody has when the tree is compared by itself.
    let (verified, findings) = pair.verify().await;
    let verified = verified.unwrap();
    assert_eq!((verified.is_verified, verified.is_partial, rules(&findings)), (false, true, Vec::new()));
    pair.settle();
    let (verified, findings) = pair.verify().await;
    assert!(!verified.unwrap().is_verified);
    assert_eq!(rules(&findings), [(Rule::Unreadable, "unseen")]);
    pair.close().await;
}

/// The source made a link of a directory that holds nearly all of the destination.
fn data_became_a_link(pair: &Pair) {
    write(&pair.source_root, "file", b"of the source", 0o600);
    symlink("/mnt/new", pair.source_root.join("data")).unwrap();
    for number in 0..9 {
        write(&pair.destination_root, &format!("data/below/{number}"), b"older", 0o600);
    }
    write(&pair.destination_root, "file", b"older", 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_way_of_something_else_is_under_the_guard_of_deletes() {
    let mut pair = Pair::new();
    data_became_a_link(&pair);
    std::fs::hard_link(pair.source_root.join("file"), pair.source_root.join("linked")).unwrap();
    write(&pair.destination_root, "linked/too", b"older", 0o600);
    let original = snapshot(&pair.destination_root);
    let guarded = "13 of 14 entries would go";
    let in_the_way = [(Rule::InTheWay, "data"), (Rule::InTheWay, "linked")];

    // Without --delete nothing of it goes.
    for is_dry_run in [true, false] {
        pair.params.dry_run = is_dry_run;
        let (output, findings) = pair.copy().await;
        assert_eq!(rules(&findings), in_the_way);
        assert!(output.unwrap().is_partial);
    }
    assert!(pair.destination_root.join("data/below/0").exists());
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &original, "without --delete");

    // With it, but more than allowed.
    (pair.params.delete, pair.params.dry_run) = (true, true);
    let (output, findings) = pair.copy().await;
    assert_eq!(rules(&findings), [(Rule::NotDeleted, ".")]);
    assert!(findings[0].message.contains(guarded), "{findings:?}");
    assert_eq!(output.unwrap().deleted, 11);
    pair.params.dry_run = false;
    let (_, findings) = pair.copy().await;
    let expected: Vec<_> = [(Rule::NotDeleted, ".")].into_iter().chain(in_the_way).collect();
    assert_eq!(rules(&findings), expected);
    assert!(findings[0].message.contains(guarded), "{findings:?}");
    assert!(pair.destination_root.join("data/below/0").exists());

    // With a pattern it is not known that all may go.
    pair.params.exclude = vec!["*.log".to_owned()];
    for is_dry_run in [true, false] {
        pair.params.dry_run = is_dry_run;
        assert_eq!(rules(&pair.copy().await.1), in_the_way);
    }
    pair.params.exclude.clear();

    pair.params.max_delete = MaxDelete::Count(13);
    pair.params.dry_run = true;
    assert_eq!(pair.copy().await.1, []);
    pair.params.dry_run = false;
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(output.unwrap().deleted, 11);
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "with --delete");
    assert!(pair.verify().await.0.unwrap().is_verified);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert_same(&snapshot(&pair.destination_root), &original, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_into_a_directory_of_ours_does_not_go_with_it() {
    let mut pair = Pair::new();
    write(&pair.source_root, "cache/ours", b"of the source", 0o600);
    write(&pair.source_root, "file", b"of the source", 0o600);
    pair.copy().await.0.unwrap();
    let theirs = pair.destination_root.join("cache/theirs");
    std::fs::write(&theirs, "somebody's").unwrap();
    std::fs::remove_dir_all(pair.source_root.join("cache")).unwrap();
    symlink("elsewhere", pair.source_root.join("cache")).unwrap();
    let (output, findings) = pair.copy().await;
    assert_eq!(rules(&findings), [(Rule::InTheWay, "cache")]);
    assert!(output.unwrap().is_partial);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "somebody's");

    // With --delete it is a delete like any other, and so it comes back.
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    assert_eq!(pair.copy().await.1, []);
    assert!(pair.destination_root.join("cache").is_symlink());
    let (undone, findings) = pair.undo().await;
    assert_eq!(undone, Ok(1), "{findings:?}");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_appears_in_an_emptied_directory_keeps_it() {
    let mut pair = Pair::new();
    data_became_a_link(&pair);
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    let late = pair.destination_root.join("data/below/late");
    let appear = || std::fs::write(&late, "somebody's").unwrap();
    let (output, findings, ()) = pair.copy_meanwhile(appear).await;
    assert!(output.unwrap().is_partial);
    assert_eq!(rules(&findings), [(Rule::NotDeleted, "data/below"), (Rule::InTheWay, "data")]);
    assert_eq!(std::fs::read_to_string(&late).unwrap(), "somebody's");
    assert_eq!(std::fs::read(pair.destination_root.join("file")).unwrap(), b"of the source");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_went_and_came_again_is_given_back_with_what_others_put_into_it() {
    let mut pair = Pair::new();
    data_became_a_link(&pair);
    let original = snapshot(&pair.destination_root);
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
    assert_eq!(pair.copy().await.1, []);
    std::fs::remove_file(pair.source_root.join("data")).unwrap();
    write(&pair.source_root, "data/new", b"of the source", 0o600);
    assert_eq!(pair.copy().await.1, []);
    let theirs = pair.destination_root.join("data/theirs");
    std::fs::write(&theirs, "somebody's").unwrap();
    assert_eq!(pair.undo().await, (Ok(0), Vec::new()));
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "somebody's");
    let mut undone = snapshot(&pair.destination_root);
    undone.remove(Path::new("data/theirs"));
    assert_same(&undone, &original, "undone");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_is_killed_takes_nothing_of_ours_for_somebody_else_s() {
    for number in 0.. {
        let mut pair = Pair::new();
        data_became_a_link(&pair);
        let original = snapshot(&pair.destination_root);
        (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));
        assert_eq!(pair.copy().await.1, []);
        std::fs::remove_file(pair.source_root.join("data")).unwrap();
        write(&pair.source_root, "data/new", b"of the source", 0o600);
        write(&pair.source_root, "data/below/2", b"of the source too", 0o600);
        assert_eq!(pair.copy().await.1, []);
        let is_killed = pair.undo_killed_at(number).await;
        if is_killed {
            assert_eq!(pair.undo().await, (Ok(0), Vec::new()), "killed before effect {number}");
        }
        assert_same(&snapshot(&pair.destination_root), &original, &format!("killed before effect {number}"));
        pair.close().await;
        if !is_killed {
            assert!(number > 20, "it has {number} effects only");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_are_guarded() {
    let mut pair = Pair::new();
    std::fs::create_dir(&pair.destination_root).unwrap();
    for number in 0..10 {
        write(&pair.destination_root, &format!("extra-{number}"), b"x", 0o600);
    }
    pair.params.delete = true;
    let (output, findings) = pair.copy().await;
    assert_eq!(rules(&findings), [(Rule::NotDeleted, ".")]);
    assert!(findings[0].message.contains("empty") && output.unwrap().is_partial);

    write(&pair.source_root, "one", b"1", 0o600);
    let (_, findings) = pair.copy().await;
    assert!(findings[0].message.contains("10 of 10"), "{findings:?}");
    assert_eq!(std::fs::read_dir(&pair.destination_root).unwrap().count(), 12);
    pair.params.max_delete = MaxDelete::Count(10);
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_eq!(output.unwrap().deleted, 10);
    pair.close().await;
}
