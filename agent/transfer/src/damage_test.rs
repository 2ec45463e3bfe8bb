//! Every damage at the destination is found by a verification: of what the migration wrote and of what was there
//! already, before and after its way back has ended, and after later passes. That it is one, and that it was mended,
//! is judged by other means.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use common::finding::Severity;
use common::spec::{MaxDelete, ValidationLevel};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr};

use crate::mounted_test::{run, skipped};
use crate::pair::Pair;
use crate::snapshot::snapshot;

/// One damage: its name, the entry at which it shows, and what is done below the destination's root.
struct Damage {
    name: &'static str,
    shows_at: &'static str,
    /// Whether only a look at the content finds it, where no record tells of the write.
    is_hidden: bool,
    inflict: fn(&Path),
}

const fn damage(name: &'static str, shows_at: &'static str, inflict: fn(&Path)) -> Damage {
    Damage { name, shows_at, is_hidden: false, inflict }
}

const DAMAGES: [Damage; 19] = [
    Damage { is_hidden: true, ..damage("flipped bit", "d/file", |root| write_at(root, "d/file", b"X", 2)) },
    damage("truncated", "d/file", |root| {
        std::fs::File::options().write(true).open(root.join("d/file")).unwrap().set_len(3).unwrap();
    }),
    damage("grown", "d/file", |root| write_at(root, "d/file", b"more", 100)),
    damage("mode", "d/file", |root| {
        std::fs::set_permissions(root.join("d/file"), PermissionsExt::from_mode(0o600)).unwrap();
    }),
    damage("mode of a directory", "d", |root| {
        std::fs::set_permissions(root.join("d"), PermissionsExt::from_mode(0o700)).unwrap();
    }),
    damage("owner", "d/file", |root| chown(root.join("d/file"), Some(4711), None).unwrap()),
    damage("group", "d/file", |root| chown(root.join("d/file"), None, Some(4711)).unwrap()),
    damage("attribute removed", "d/file", |root| {
        rustix::fs::removexattr(root.join("d/file"), "user.note").unwrap();
    }),
    damage("attribute changed", "d/file", |root| {
        lsetxattr(root.join("d/file"), "user.note", b"other", XattrFlags::empty()).unwrap();
    }),
    damage("attribute added", "d/sub", |root| {
        lsetxattr(root.join("d/sub"), "user.more", b"x", XattrFlags::empty()).unwrap();
    }),
    damage("ACL removed", "d/guarded", |root| {
        assert!(run("setfacl", &["-x", "u:7"], &[&root.join("d/guarded")]));
    }),
    damage("ACL widened", "d/guarded", |root| {
        assert!(run("setfacl", &["-m", "u:7:rw"], &[&root.join("d/guarded")]));
    }),
    damage("time", "d/other", |root| set_time(&root.join("d/other"), 1_500_000_000, 5)),
    damage("nanoseconds", "d/other", |root| set_time(&root.join("d/other"), 1_600_000_000, 5)),
    damage("extra", "d/extra", |root| std::fs::write(root.join("d/extra"), "").unwrap()),
    damage("missing", "d/other", |root| std::fs::remove_file(root.join("d/other")).unwrap()),
    damage("link changed", "d/link", |root| {
        std::fs::remove_file(root.join("d/link")).unwrap();
        symlink("otherwhere", root.join("d/link")).unwrap();
    }),
    damage("link split", "d/second", |root| {
        std::fs::copy(root.join("d/second"), root.join("d/split")).unwrap();
        std::fs::rename(root.join("d/split"), root.join("d/second")).unwrap();
    }),
    damage("false link", "d/twin", |root| {
        std::fs::remove_file(root.join("d/twin")).unwrap();
        std::fs::hard_link(root.join("d/other"), root.join("d/twin")).unwrap();
    }),
];

fn write_at(root: &Path, name: &str, bytes: &[u8], at: u64) {
    std::fs::File::options().write(true).open(root.join(name)).unwrap().write_all_at(bytes, at).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes the tree that is damaged; all times are in the past.
fn grow(root: &Path) {
    std::fs::create_dir_all(root.join("d/sub")).unwrap();
    for (name, content) in [
        ("file", "some content of a file"),
        ("guarded", "x"),
        ("other", "same"),
        ("first", "shared"),
        ("twin", "same"),
    ] {
        std::fs::write(root.join("d").join(name), content).unwrap();
    }
    lsetxattr(root.join("d/file"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    assert!(run("setfacl", &["-m", "u:7:r"], &[&root.join("d/guarded")]));
    std::fs::hard_link(root.join("d/first"), root.join("d/second")).unwrap();
    symlink("somewhere", root.join("d/link")).unwrap();
    for name in ["d/file", "d/guarded", "d/other", "d/first", "d/twin", "d/link", "d/sub", "d", ""] {
        set_time(&root.join(name), 1_600_000_000, 0);
    }
}

/// What happens to the tree before it is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The migration wrote it.
    Written,
    /// It stood there already.
    Present,
    /// The migration wrote it, and its way back has ended.
    Settled,
}

/// Inflicts a damage and puts all times back but the one that it is about.
fn inflict(damage: &Damage, root: &Path) {
    let before: Vec<_> = [damage.shows_at, "d"]
        .iter()
        .filter_map(|name| Some((root.join(name), std::fs::symlink_metadata(root.join(name)).ok()?)))
        .collect();
    (damage.inflict)(root);
    for (path, metadata) in before {
        let is_about_time = matches!(damage.name, "time" | "nanoseconds") && path.ends_with(damage.shows_at);
        if path.symlink_metadata().is_ok() && !is_about_time {
            set_time(&path, metadata.mtime(), metadata.mtime_nsec());
        }
    }
}

/// Whether both sides differ, seen by other means.
fn is_damaged(pair: &Pair) -> bool {
    snapshot(&pair.source_root) != snapshot(&pair.destination_root)
}

/// Verifies as `ctl verify` does, with and without `--deep`, and asserts what is found.
async fn verify(pair: &mut Pair, damage: Option<&Damage>, state: State, deletes: bool) {
    for is_deep in [false, true] {
        let asked = pair.params.clone();
        pair.params.compares_now = true;
        pair.params.delete = deletes;
        if is_deep {
            (pair.params.checksum, pair.params.validation_level) = (true, ValidationLevel::Strict);
        }
        let (verified, findings) = pair.verify().await;
        pair.params = asked;
        let what = format!("{:?}, {state:?}, deep {is_deep}: {findings:?}", damage.map(|damage| damage.name));
        let Some(damage) = damage else {
            assert!(verified.unwrap().is_verified && findings.is_empty(), "{what}");
            continue;
        };
        if damage.is_hidden && state == State::Present && !is_deep {
            continue;
        }
        assert!(findings.iter().any(|finding| finding.object == damage.shows_at), "{what}");
        let is_wrong = damage.name != "extra" || deletes;
        assert_eq!(findings.iter().any(|finding| finding.severity == Severity::Error), is_wrong, "{what}");
        assert_eq!(verified.unwrap().is_verified, !is_wrong, "{what}");
    }
}

async fn suffer(state: State) {
    let mut pair = Pair::new();
    grow(&pair.source_root);
    if state == State::Present {
        assert!(run("cp", &["-a"], &[&pair.source_root, &pair.destination_root]));
    }
    pair.copy().await.0.unwrap();
    if state == State::Settled {
        pair.settle();
    }
    verify(&mut pair, None, state, true).await;
    for (number, damage) in DAMAGES.iter().enumerate() {
        inflict(damage, &pair.destination_root);
        assert!(is_damaged(&pair), "{} is no damage", damage.name);
        verify(&mut pair, Some(damage), state, number % 2 == 0).await;
        // A later pass mends it, and then nothing is found.
        let asked = pair.params.clone();
        (pair.params.checksum, pair.params.delete) = (true, true);
        pair.params.max_delete = MaxDelete::Percent(100);
        pair.copy().await.0.unwrap();
        pair.params = asked;
        if state == State::Settled {
            pair.settle();
        }
        assert!(!is_damaged(&pair), "{} is not mended", damage.name);
        verify(&mut pair, None, state, true).await;
    }
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_is_found_and_mended() {
    if !rustix::process::geteuid().is_root() {
        return skipped("giving files to others needs root");
    }
    for state in [State::Written, State::Present, State::Settled] {
        suffer(state).await;
    }
}
