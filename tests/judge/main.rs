//! Negative controls of the judge: each kind of damage must be noticed, and an equal tree must not.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use tests::{judge, tree};

/// Copies the odd tree with `cp -a`, damages the copy, and returns what the judge says.
fn judge_after(damage: impl Fn(&Path)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let (source, copy) = (directory.path().join("source"), directory.path().join("copy"));
    tree::odd(&source).unwrap();
    let copied = Command::new("cp").arg("-a").args([&source, &copy]).output().unwrap();
    assert!(copied.status.success(), "cp -a: {}", String::from_utf8_lossy(&copied.stderr));
    damage(&copy);
    judge::differences(&source, &copy)
}

/// Sets the modification time of `path` to `seconds` and `nanoseconds`.
fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Runs `change` and puts the time of `path` back, so that the damage itself must be noticed.
fn in_secret(path: &Path, change: impl Fn()) {
    let before = rustix::fs::lstat(path).unwrap();
    change();
    set_time(path, before.st_mtime, i64::try_from(before.st_mtime_nsec).unwrap());
}

#[test]
fn an_equal_tree_is_equal() {
    assert_eq!(judge_after(|_| {}), Vec::<String>::new());
}

#[test]
fn a_time_cut_to_seconds_is_noticed() {
    let lines = judge_after(|copy| {
        let path = copy.join("files/one");
        set_time(&path, rustix::fs::lstat(&path).unwrap().st_mtime, 0);
    });
    assert!(lines.iter().any(|line| line.contains("files/one")), "{lines:?}");
}

#[test]
fn a_time_of_a_link_is_noticed() {
    let lines = judge_after(|copy| set_time(&copy.join("links/dangling"), 1, 0));
    assert!(lines.iter().any(|line| line.contains("links/dangling")), "{lines:?}");
}

#[test]
fn a_filled_hole_is_noticed() {
    let lines = judge_after(|copy| {
        let path = copy.join("files/sparse");
        in_secret(&path, || {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&vec![0; 8 << 20], 5 << 20).unwrap();
        });
    });
    assert_eq!(lines.iter().filter(|line| line.starts_with("blocks: ")).count(), 1, "{lines:?}");
}

#[test]
fn no_name_misleads_about_holes() {
    let directory = tempfile::tempdir().unwrap();
    let (source, copy) = (directory.path().join("source"), directory.path().join("copy"));
    for root in [&source, &copy] {
        fs::create_dir(root).unwrap();
        for name in ["tab\tand 8 newline\n1 2 x", "tab", "1 2 x"] {
            let file = fs::File::create_new(root.join(name)).unwrap();
            file.set_len(9 << 20).unwrap();
            set_time(&root.join(name), 7, 7);
        }
        set_time(root, 7, 7);
    }
    assert_eq!(judge::differences(&source, &copy), Vec::<String>::new());
    let path = copy.join("tab\tand 8 newline\n1 2 x");
    in_secret(&path, || {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    });
    let lines = judge::differences(&source, &copy);
    assert!(lines.iter().any(|line| line.starts_with("blocks: tab\tand")), "{lines:?}");
}

#[test]
fn two_files_falsely_linked_are_noticed() {
    let lines = judge_after(|copy| {
        let (one, other) = (copy.join("links/a/first"), copy.join("files/twin"));
        fs::hard_link(one, other).unwrap();
    });
    assert!(lines.iter().any(|line| line.starts_with("link count: ")), "{lines:?}");
}

#[test]
fn a_lost_link_is_noticed() {
    let lines = judge_after(|copy| {
        let path = copy.join("links/z/third");
        in_secret(copy.join("links/z").as_path(), || {
            let before = rustix::fs::lstat(&path).unwrap();
            let content = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, content).unwrap();
            set_time(&path, before.st_mtime, i64::try_from(before.st_mtime_nsec).unwrap());
        });
    });
    assert!(lines.iter().any(|line| line.starts_with("link count: ")), "{lines:?}");
}

#[test]
fn a_lost_attribute_is_noticed() {
    let lines =
        judge_after(|copy| rustix::fs::removexattr(copy.join("attributes/user"), "user.empty").unwrap());
    assert!(lines.iter().any(|line| line.contains("attributes/user")), "{lines:?}");
}

#[test]
fn a_changed_acl_is_noticed() {
    let lines = judge_after(|copy| {
        let path = copy.join("attributes/acl");
        rustix::fs::removexattr(&path, "system.posix_acl_access").unwrap();
        rustix::fs::setxattr(&path, "user.other", b"x", XattrFlags::empty()).unwrap();
    });
    assert!(lines.iter().any(|line| line.contains("attributes/acl")), "{lines:?}");
}

#[test]
fn one_flipped_byte_is_noticed() {
    let lines = judge_after(|copy| {
        let path = copy.join("files/large");
        in_secret(&path, || {
            let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 5_000_000).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 5_000_000).unwrap();
        });
    });
    assert!(lines.iter().any(|line| line.contains("files/large")), "{lines:?}");
}

#[test]
fn a_missing_and_an_extra_entry_are_noticed() {
    let missing = judge_after(|copy| fs::remove_file(copy.join("files/empty")).unwrap());
    assert!(missing.iter().any(|line| line.contains("files/empty")), "{missing:?}");
    let extra = judge_after(|copy| fs::write(copy.join("extra"), "").unwrap());
    assert!(extra.iter().any(|line| line.contains("extra")), "{extra:?}");
}
