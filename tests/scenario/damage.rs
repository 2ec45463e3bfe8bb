//! What happens to the destination after the commit is noticed by the proof; what happens to what coordinators and
//! agents keep is noticed at their start, or mended by it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use tests::cluster::Cluster;
use tests::home::{self, Damage, Still};
use tests::{judge, mount, skip, tree};

#[test]
fn an_ordinary_write_is_a_conflict_and_unwinds_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 100, 9000).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    fs::write(destination.join("d000/e00/f000042.php"), "somebody's edit").unwrap();
    let (code, migration) = cluster.json(&["verify", migration["id"].as_str().unwrap()]);
    assert_eq!(code, Some(5), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &false.into()));
    let findings = migration["findings"].as_array().unwrap();
    assert!(
        findings.iter().any(|finding| finding["rule"] == "conflict"
            && finding["object"].as_str().is_some_and(|object| object.ends_with("f000042.php"))),
        "{findings:?}"
    );
    assert_eq!(fs::read_to_string(destination.join("d000/e00/f000042.php")).unwrap(), "somebody's edit");
}

#[test]
fn a_byte_that_rots_on_the_device_is_corruption_and_unwinds() {
    if !skip::unless_root("damaging a block device") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, image, point) = (cluster.path("shop"), cluster.path("image"), cluster.path("disk"));
    tree::plain(&source, 100, 9000).unwrap();
    let marked = b"this very sentence stands nowhere else on the device".repeat(400);
    fs::write(source.join("precious"), &marked).unwrap();
    fs::create_dir(&point).unwrap();
    let Some(mounted) = mount::small_ext4(&image, &point, 64) else { return };
    let destination = point.join("site");
    fs::create_dir(&destination).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);

    // Beneath the file system: the image's byte changes, no inode does, and the cache is dropped by a new mount.
    let before = fs::metadata(destination.join("precious")).unwrap();
    rustix::fs::sync();
    let disk = fs::read(&image).unwrap();
    let at = disk.windows(52).position(|window| window == &marked[..52]).expect("the file is on the device");
    let device = fs::OpenOptions::new().write(true).open(&image).unwrap();
    device.write_all_at(b"T", at as u64 + 1000).unwrap();
    device.sync_all().unwrap();
    mounted.remount(&image);
    let after = fs::metadata(destination.join("precious")).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));

    let (code, migration) = cluster.json(&["verify", migration["id"].as_str().unwrap()]);
    assert_eq!(code, Some(8), "{migration:#}");
    assert_eq!(migration["status"], "rolled_back", "{migration:#}");
    assert!(migration["errors"].to_string().contains("precious"), "{migration:#}");
    assert_eq!(fs::read_dir(&destination).unwrap().count(), 0, "the destination is as it was: empty");
}

/// What a damage of what a process keeps must come to.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It does not start: this exit code, and one sentence that says this.
    Refused(i32, &'static str),
    /// It starts, and nothing is lost.
    Recovers,
    /// Either, as sled sees it; but never a start with something lost.
    Noticed,
}
use End::{Noticed, Recovers, Refused};

/// One damage: what it is done to, what is done, what it comes to.
type Case = (&'static str, Damage, End);

/// A cluster that stands still, with a migration behind it whose way back is open.
struct Patient {
    still: Still,
    migration: String,
}

impl Patient {
    fn new() -> Self {
        let cluster = Cluster::start(2, 1);
        let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
        tree::plain(&source, 20, 900).unwrap();
        let (code, migration) = cluster.migrate(&source, &destination, &["--rollback-window", "1h"]);
        assert_eq!(code, Some(0), "{migration:#}");
        let migration = migration["id"].as_str().unwrap().to_owned();
        Self { still: Still::of(cluster), migration }
    }

    /// Tries every damage, each on an undamaged home.
    fn suffer(&self, name: &str, cases: &[Case]) {
        let mut failed = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            // All of a table is worth knowing, not only its first row that went wrong.
            if catch_unwind(AssertUnwindSafe(|| self.suffer_one(name, number, *case))).is_err() {
                failed.push(format!("{} {:?}", case.0, case.1));
            }
            self.still.stop();
            self.still.put_back();
        }
        assert_eq!(failed, Vec::<String>::new(), "these went wrong, as told above");
    }

    fn suffer_one(&self, name: &str, number: usize, (file, damage, end): Case) {
        let what = format!("{name}: {file} {damage:?}");
        home::damage(&self.still.home(name).join(file), damage);
        let started = self.still.start(name, None);
        match (end, started.code) {
            (Refused(expected, says), Some(code)) => {
                assert_eq!(code, expected, "{what}: {}", started.stderr);
                assert_told(&what, &started.stderr, says);
            }
            (Noticed, Some(code)) => {
                assert_eq!(code, 8, "{what}: {}", started.stderr);
                assert_told(&what, &started.stderr, "");
            }
            (Recovers | Noticed, None) => self.assert_whole(&what, number),
            (Refused(..), None) | (Recovers, Some(_)) => {
                assert_eq!(started.code, None, "{what}: {}", started.stderr);
                assert!(matches!(end, Recovers), "{what}: it started: {}", started.stderr);
            }
        }
    }

    /// Asserts that the cluster knows what it knew, and works.
    fn assert_whole(&self, what: &str, number: usize) {
        let cluster = &self.still.cluster;
        cluster.up();
        let status = cluster.status(&self.migration);
        assert_eq!((&status["status"], &status["verified"]), (&"completed".into(), &true.into()), "{what}");
        assert_eq!(status["rollback_available"], true, "{what}: {status:#}");
        let (code, verified) = cluster.json(&["verify", &self.migration]);
        assert_eq!(code, Some(0), "{what}: {verified:#}");
        let next = cluster.path(&format!("next-{number}"));
        let (code, moved) = cluster.migrate(&cluster.path("shop"), &next, &[]);
        assert_eq!(code, Some(0), "{what}: {moved:#}");
        fs::remove_dir_all(&next).unwrap();
    }
}

/// Asserts that a refusal is one sentence with a hint, and nothing that only a developer reads.
fn assert_told(what: &str, told: &str, says: &str) {
    assert!(told.contains(says), "{what}: `{says}` is not said: {told}");
    assert_eq!(told.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{what}: {told}");
    assert!(told.contains("hint: "), "{what}: no hint: {told}");
    for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
        assert!(!told.contains(word), "{what}: {told}");
    }
}

#[test]
fn what_a_coordinator_keeps_is_noticed_when_it_is_damaged() {
    let patient = Patient::new();
    let lost = "but this node has acknowledged";
    patient.suffer(
        "coordinator-1",
        &[
            ("settings.toml", Damage::Half, Refused(2, "settings.toml")),
            ("settings.toml", Damage::Noise, Refused(2, "settings.toml")),
            ("settings.toml", Damage::Gone, Refused(2, "settings.toml")),
            ("cluster.key", Damage::Half, Refused(2, "holds no cluster key")),
            ("cluster.key", Damage::Empty, Refused(2, "holds no cluster key")),
            ("cluster.key", Damage::Noise, Refused(2, "cluster.key")),
            ("cluster.key", Damage::Gone, Refused(2, "there is no cluster key at")),
            ("cluster.key", Damage::Open, Refused(2, "can be read by others")),
            ("state/node.json", Damage::Half, Refused(8, "node.json is damaged")),
            ("state/node.json", Damage::Empty, Refused(8, "node.json is damaged")),
            ("state/node.json", Damage::Noise, Refused(8, "node.json is damaged")),
            ("state/node.json", Damage::Gone, Refused(2, "belongs to no cluster yet")),
            (
                "state/node.json",
                Damage::Edit("\"version\": 1", "\"version\": 9"),
                Refused(6, "newer version"),
            ),
            ("state/node.key", Damage::Half, Refused(8, "node.key is damaged")),
            ("state/node.key", Damage::Empty, Refused(8, "node.key is damaged")),
            ("state/node.key", Damage::Flip(50), Refused(8, "node.key is damaged")),
            ("state/node.key", Damage::Gone, Refused(2, "node.key")),
            ("state/node.pem", Damage::Half, Refused(8, "node.pem is damaged")),
            ("state/node.pem", Damage::Empty, Refused(8, "node.pem is damaged")),
            ("state/node.pem", Damage::Noise, Refused(8, "node.pem is damaged")),
            ("state/node.pem", Damage::Gone, Refused(2, "node.pem")),
            ("state/authority.json", Damage::Half, Recovers),
            ("state/authority.json", Damage::Gone, Recovers),
            ("state/audit", Damage::Gone, Recovers),
            ("state", Damage::Open, Recovers),
            ("state/raft.floor", Damage::Gone, Recovers),
            ("state/raft.floor", Damage::Noise, Recovers),
            ("state/raft", Damage::Gone, Refused(8, lost)),
            ("state/raft/log", Damage::Gone, Refused(8, lost)),
            ("state/raft/log/db", Damage::Gone, Refused(8, "is damaged")),
            ("state/raft/log/db", Damage::Empty, Refused(8, "is damaged")),
            ("state/raft/log/db", Damage::Half, Noticed),
            ("state/raft/log/db", Damage::Noise, Refused(8, "is damaged")),
            ("state/raft/log/conf", Damage::Half, Refused(8, "is damaged")),
            ("state/raft/log/conf", Damage::Gone, Recovers),
            ("state/raft/log/db", Damage::Flip(0), Noticed),
            ("state/raft/log/db", Damage::Flip(5), Noticed),
            ("state/raft/log/db", Damage::Flip(20), Noticed),
            ("state/raft/log/db", Damage::Flip(40), Noticed),
            ("state/raft/log/db", Damage::Flip(60), Noticed),
            ("state/raft/log/db", Damage::Flip(80), Noticed),
            ("state/raft/log/db", Damage::Flip(99), Noticed),
        ],
    );
}

#[test]
fn what_an_agent_keeps_is_noticed_or_made_again() {
    let patient = Patient::new();
    patient.suffer(
        "agent-2",
        &[
            ("settings.toml", Damage::Half, Refused(2, "settings.toml")),
            ("settings.toml", Damage::Noise, Refused(2, "settings.toml")),
            ("settings.toml", Damage::Gone, Refused(2, "settings.toml")),
            ("state/membership.toml", Damage::Half, Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Empty, Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Noise, Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(15), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(30), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(45), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(60), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(75), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Flip(92), Refused(8, "membership.toml")),
            ("state/membership.toml", Damage::Gone, Refused(4, "has not joined a cluster")),
            (
                "state/membership.toml",
                Damage::Edit("version = 1", "version = 9"),
                Refused(6, "newer version"),
            ),
            ("state", Damage::Open, Recovers),
            ("state/data-port.key", Damage::Half, Recovers),
            ("state/data-port.key", Damage::Gone, Recovers),
            ("state/lock", Damage::Gone, Recovers),
            ("state/lock", Damage::Noise, Recovers),
            ("state/journal", Damage::Gone, Recovers),
            ("state/journal/db", Damage::Gone, Recovers),
            ("state/journal/db", Damage::Empty, Recovers),
            ("state/journal/db", Damage::Half, Recovers),
            ("state/journal/db", Damage::Noise, Recovers),
            ("state/journal/db", Damage::Flip(0), Recovers),
            ("state/journal/db", Damage::Flip(30), Recovers),
            ("state/journal/db", Damage::Flip(70), Recovers),
            ("state/journal/conf", Damage::Half, Recovers),
            ("state/journal/conf", Damage::Noise, Recovers),
            ("state/transfer", Damage::Gone, Recovers),
        ],
    );
}

#[test]
fn a_state_of_another_user_and_a_disk_that_takes_nothing_are_told() {
    if !skip::unless_root("mounting, and starting as another user") {
        return;
    }
    let patient = Patient::new();
    for (name, code) in [("coordinator-1", 3), ("agent-2", 3)] {
        let what = format!("{name}: files of another user");
        let started = patient.still.start(name, Some(65_534));
        assert!(started.code == Some(code) || started.code == Some(2), "{what}: {started:?}");
        assert_told(&what, &started.stderr, "Permission denied");
    }
    let (image, disk) = (patient.still.cluster.path("image"), patient.still.cluster.path("disk"));
    fs::create_dir(&disk).unwrap();
    for name in ["coordinator-1", "agent-2"] {
        let Some(mounted) = mount::small_ext4(&image, &disk, 24) else { return };
        let state = patient.still.home(name).join("state");
        let kept = disk.join("state");
        assert!(Command::new("cp").arg("-a").args([&state, &kept]).status().unwrap().success());
        fs::remove_dir_all(&state).unwrap();
        symlink(&kept, &state).unwrap();
        // It takes not one byte more.
        let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
        while ballast.write_all(&[0; 1024]).is_ok() {}
        drop(ballast);
        let what = format!("{name}: a full disk");
        let started = patient.still.start(name, None);
        assert_eq!(started.code, Some(9), "{what}: {}", started.stderr);
        assert_told(&what, &started.stderr, "No space left");
        fs::remove_file(disk.join("ballast")).unwrap();
        mounted.make_read_only();
        let what = format!("{name}: a disk that is read-only");
        let started = patient.still.start(name, None);
        assert!(started.code.is_some_and(|code| code != 0), "{what}: {}", started.stderr);
        assert_told(&what, &started.stderr, "Read-only file system");
        drop(mounted);
        patient.still.put_back();
    }
    patient.assert_whole("put back", 0);
}

#[test]
fn a_disk_that_fills_up_while_an_agent_serves_is_told_and_gone_on_from() {
    if !skip::unless_root("mounting") {
        return;
    }
    let patient = Patient::new();
    let cluster = &patient.still.cluster;
    let (image, disk) = (cluster.path("image"), cluster.path("disk"));
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = mount::small_ext4(&image, &disk, 24) else { return };
    let state = patient.still.home("agent-2").join("state");
    assert!(Command::new("cp").arg("-a").args([&state, &disk.join("state")]).status().unwrap().success());
    fs::remove_dir_all(&state).unwrap();
    symlink(disk.join("state"), &state).unwrap();
    cluster.up();
    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    while ballast.write_all(&[0; 1024]).is_ok() {}
    drop(ballast);
    let (source, destination) = (cluster.path("shop"), cluster.path("full"));
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    // Nothing was begun, so there is nothing to undo for which there would have to be room.
    assert_eq!((code, &migration["status"]), (Some(9), &"rolled_back".into()), "{migration:#}");
    let error = &migration["errors"][0];
    assert_eq!((&error["kind"], &error["retry"]), (&"exhausted".into(), &"after_operator".into()));
    assert!(error["message"].as_str().unwrap().contains("No space left"), "{migration:#}");
    assert!(!destination.exists());
    fs::remove_file(disk.join("ballast")).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(0), "{migration:#}");
    cluster.down();
}
