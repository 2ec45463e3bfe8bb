//! A member of the cluster that means harm: as the source of a real destination, and as the destination of a real
//! source.
//!
//! Whatever it does: nothing outside of the destination's root is touched, and nothing inside but what holds whole and
//! proven files or is as it was before; the victim lives, takes little memory, says in one sentence what happened and
//! does the next honest migration.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;
use serde_json::Value;
use tests::canary::{Canary, SECRET};
use tests::cluster::Cluster;
use tests::intruder::Intruder;
use tests::{judge, memory, tree};

/// The most that a victim may take.
const PEAK_BYTES_MAX: u64 = 150 << 20;

/// What an attack must come to.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The migration fails with this exit code, saying this; the root is as before.
    Refused(i32, &'static str),
    /// The migration ends with this exit code, with a finding that says this; what was brought is whole.
    Lands(i32, &'static str),
    /// The attempt fails, saying this, and is made again; whoever cancels gets the root as before.
    Again(&'static str),
    /// The attempt fails, now or when the victim has had enough; the root is as before.
    Fails,
    /// Nothing happens any more; whoever cancels gets the root as before.
    Hangs,
}
use End::{Again, Fails, Hangs, Lands, Refused};

/// One attack: its name, what it aims at, further flags, its end.
type Case<'a> = (&'a str, &'a str, &'a [&'a str], End);

/// A cluster with a hostile source called `evil`, and what it must not touch.
struct Battlefield {
    cluster: Cluster,
    evil: Intruder,
    canary: Canary,
    victim: Pid,
}

impl Battlefield {
    fn new() -> Self {
        let cluster = Cluster::start(2, 1);
        let canary = Canary::new(&cluster.path("canary"));
        // What the intruder claims to move; its data port serves something else.
        tree::plain(&cluster.path("shop"), 5, 100).unwrap();
        let evil = Intruder::join(&cluster, "evil", "source");
        let victim = cluster.processes()["agent-2"];
        Self { cluster, evil, canary, victim }
    }

    /// The same with a victim that waits three seconds for what it asked for, and not ten minutes.
    fn impatient() -> Self {
        let field = Self::new();
        let settings = field.cluster.cluster_directory().join("agent-2/settings.toml");
        let text = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, format!("{text}\nstall_limit = \"3s\"\n")).unwrap();
        field.cluster.kill("agent-2");
        field.cluster.up();
        let victim = field.cluster.processes()["agent-2"];
        Self { victim, ..field }
    }

    /// Runs a table of attacks, further ones, each with its aim, that are refused as breaches of the protocol, and an
    /// honest migration at the end.
    fn suffer(self, cases: &[Case<'_>], breaches: &[(&str, &str)]) {
        let breaches = breaches.iter().map(|&(attack, aim)| (attack, aim, &[][..], Refused(70, BROKE)));
        let cases: Vec<Case<'_>> = cases.iter().copied().chain(breaches).collect();
        let mut failed = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            // All of a table is worth knowing, not only its first row that went wrong.
            if catch_unwind(AssertUnwindSafe(|| self.suffer_one(number, case))).is_err() {
                failed.push(case.0);
            }
        }
        assert_eq!(failed, Vec::<&str>::new(), "these went wrong, as told above");
        let (source, honest) = (self.cluster.path("shop"), self.cluster.path("honest"));
        let (code, migration) = self.cluster.migrate(&source, &honest, &[]);
        assert_eq!(code, Some(0), "{migration:#}");
        judge::assert_equal(&source, &honest);
    }

    fn suffer_one(&self, number: usize, case: &Case<'_>) {
        let (attack, aim, flags, end) = *case;
        let root = self.cluster.path(&format!("victim-{number}"));
        let before = self.cluster.path(&format!("before-{number}"));
        tree::plain(&root, 6, 300).unwrap();
        if attack.starts_with("delta-") {
            fs::write(root.join("image"), tree::bytes(5, 3 << 20)).unwrap();
        }
        copy(&root, &before);
        self.evil.plan(attack, aim);
        memory::forget_peak(self.victim);
        self.one(attack, &root, &before, flags, end);
        let peak = memory::peak_bytes(self.victim);
        assert!(peak < PEAK_BYTES_MAX, "{attack}: the victim took {} MiB", peak >> 20);
        assert_eq!(self.cluster.processes().get("agent-2"), Some(&self.victim), "{attack}: the victim died");
        self.canary.assert_untouched(attack);
    }

    fn migrate(&self, root: &Path, flags: &[&str]) -> (Option<i32>, Value) {
        let from = format!("evil:{}", self.cluster.path("shop").display());
        let to = format!("agent-2:{}", root.display());
        self.cluster.json(&[&["migrate", &from, &to, "--yes"], flags].concat())
    }

    fn one(&self, attack: &str, root: &Path, before: &Path, flags: &[&str], end: End) {
        match end {
            Refused(expected, says) => {
                let (code, migration) = self.migrate(root, flags);
                assert_eq!(code, Some(expected), "{attack}: {migration:#}");
                assert_told(attack, &migration["errors"][0], says);
                assert_as_before(attack, before, root);
            }
            Lands(expected, says) => {
                let window = [flags, &["--rollback-window", "1h"]].concat();
                let (code, migration) = self.migrate(root, &window);
                assert_eq!(code, Some(expected), "{attack}: {migration:#}");
                let findings = migration["findings"].to_string();
                assert!(findings.contains(says), "{attack}: {migration:#}");
                assert_harmless(attack, &migration);
                assert_whole(attack, before, root);
                let id = migration["id"].as_str().unwrap();
                let (code, rolled_back) = self.cluster.json(&["rollback", id, "--yes"]);
                assert_eq!(code, Some(0), "{attack}: {rolled_back:#}");
                assert_as_before(attack, before, root);
            }
            Again(says) => {
                let id = self.begin(root, flags);
                let failing = self.cluster.wait_for(&id, "an attempt to fail", |migration| {
                    migration["steps"][0]["failure"].is_object() || migration["status"] != "running"
                });
                assert_told(attack, &failing["steps"][0]["failure"], says);
                self.cancel(attack, &id);
                assert_as_before(attack, before, root);
            }
            Fails => {
                let id = self.begin(root, flags);
                let failing = self.cluster.wait_for(&id, "an attempt to fail", |migration| {
                    migration["steps"][0]["failure"].is_object()
                });
                assert_told(attack, &failing["steps"][0]["failure"], "");
                // It may have ended by now, which is as good.
                drop(self.cluster.json(&["cancel", &id, "--yes"]));
                self.cluster.wait_for_end(&id);
                assert_as_before(attack, before, root);
            }
            Hangs => {
                let id = self.begin(root, flags);
                self.cluster.wait_for(&id, "the attempt to begin", |migration| {
                    migration["steps"][0]["status"] == "leased"
                });
                self.cancel(attack, &id);
                assert_as_before(attack, before, root);
            }
        }
    }

    fn begin(&self, root: &Path, flags: &[&str]) -> String {
        let (code, migration) = self.migrate(root, &[flags, &["--detach"]].concat());
        assert_eq!(code, Some(0), "{migration:#}");
        migration["id"].as_str().unwrap().to_owned()
    }

    fn cancel(&self, attack: &str, id: &str) {
        let (code, migration) = self.cluster.json(&["cancel", id, "--yes"]);
        assert_eq!((code, &migration["status"]), (Some(0), &"cancelled".into()), "{attack}: {migration:#}");
    }
}

fn copy(tree: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([tree, to]).status().unwrap();
    assert!(status.success());
}

/// Asserts that a failure is one sentence about the right thing, with a hint, and nothing that moves a cursor.
fn assert_told(attack: &str, error: &Value, says: &str) {
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(says), "{attack}: `{says}` is not said: {error:#}");
    assert!(message.len() < 2000, "{attack}: a failure of {} bytes", message.len());
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{attack}: no hint: {error:#}");
    assert_harmless(attack, error);
}

/// Asserts that no text of the intruder reaches a terminal as it is.
fn assert_harmless(attack: &str, document: &Value) {
    match document {
        Value::String(text) => {
            assert!(!text.contains(char::is_control), "{attack}: control characters in {text:?}");
        }
        Value::Array(values) => values.iter().for_each(|value| assert_harmless(attack, value)),
        Value::Object(fields) => fields.values().for_each(|value| assert_harmless(attack, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn assert_as_before(attack: &str, before: &Path, root: &Path) {
    let differences = judge::differences(before, root);
    assert_eq!(differences, Vec::<String>::new(), "{attack}: the root is not as before");
    let names: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    let stage = names.iter().find(|name| name.to_string_lossy().contains(".drover-"));
    assert_eq!(stage, None, "{attack}: a stage is left");
}

/// Asserts that every file is one that was there before or one that the source has, byte for byte.
fn assert_whole(attack: &str, before: &Path, root: &Path) {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        // Deeper trees than a path can name are made, and removed, by name for name.
        if path.as_os_str().len() > 3500 {
            continue;
        }
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() && !path.to_string_lossy().contains("/.drover-") {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if !stat.is_file() {
            continue;
        }
        let content = fs::read(&path).unwrap();
        let old = fs::read(before.join(path.strip_prefix(root).unwrap()));
        let text = String::from_utf8_lossy(&content);
        let is_page = text.lines().all(|line| line.ends_with("of an honest site</html>"));
        assert!(!text.contains(SECRET), "{attack}: the canary's secret is in {}", path.display());
        assert!(
            old.is_ok_and(|old| old == content) || (is_page && text.ends_with('\n')),
            "{attack}: {} is neither old nor new",
            path.display()
        );
    }
}

const BROKE: &str = "broke the data protocol";

#[test]
fn names_that_are_none() {
    let field = Battlefield::new();
    let cases: [Case<'_>; _] = [
        ("none", "", &[], Lands(0, "")),
        ("name-300", "", &[], Lands(7, "this long")),
        ("name-terminal", "", &[], Lands(0, "")),
        ("problem-terminal", "", &[], Lands(7, "could not be looked at")),
    ];
    let breaches = [
        ("name-dot-dot", ""),
        ("name-dot-dot", "directory"),
        ("name-dot", ""),
        ("name-empty", "below"),
        ("name-nul", ""),
        ("name-absolute", ""),
        ("name-slash", ""),
        ("name-climbing", "below"),
        ("name-climbing", "directory"),
        ("name-2000", ""),
        ("path-climbing", ""),
        ("stage-name", ""),
        ("problem-name", ""),
    ];
    field.suffer(&cases, &breaches);
}

#[test]
fn entries_that_lie() {
    let field = Battlefield::new();
    let door = field.canary.path("");
    let door = door.to_str().unwrap();
    let inode = fs::metadata(field.canary.path("secret")).unwrap();
    let inode = format!("{}:{}", inode.dev(), inode.ino());
    let cases: [Case<'_>; _] = [
        ("hard-link-out", &inode, &[], Lands(0, "")),
        ("size-i64", "", &[], Lands(7, "at most 2 TiB")),
        ("sizes-overflow", "", &[], Lands(7, "at most 2 TiB")),
        ("xattr-odd", "", &[], Lands(7, "system.drover")),
        ("xattr-capability", "", &[], Lands(7, "security.capability")),
        ("xattr-acl", "", &["--numeric-ids"], Lands(7, "posix_acl_access")),
        ("xattr-acl", "", &[], Refused(6, "unknown form")),
        ("setuid", "", &["--numeric-ids"], Lands(0, "")),
        ("device", "", &[], Lands(0, "")),
        ("deep", "", &[], Lands(0, "")),
    ];
    let breaches = [
        ("duplicate", ""),
        ("unordered", ""),
        ("through-link", door),
        ("size-u64", ""),
        ("owner-of-nobody", ""),
        ("time-of-now", ""),
        ("mode-beyond", ""),
        ("xattr-3m", ""),
        ("xattr-nul", ""),
        ("xattr-200k", ""),
        ("false-totals", ""),
        ("listing-unannounced", ""),
        ("listing-twice", ""),
        ("listing-missing", ""),
    ];
    field.suffer(&cases, &breaches);
}

#[test]
fn manifests_that_swell() {
    let field = Battlefield::new();
    let cases: [Case<'_>; _] = [
        ("endless-names", "", &[], Fails),
        ("endless-entries", "", &[], Hangs),
        ("slow", "", &[], Hangs),
        ("silence", "", &[], Hangs),
    ];
    let breaches = [
        ("garbage-manifest", ""),
        ("garbage-block", ""),
        ("frame-endless", ""),
        ("frame-misplaced", ""),
        ("count-endless", ""),
        ("bomb-block", ""),
        ("bomb-claims-4g", ""),
        ("swollen-items", ""),
        ("swollen-names", ""),
        ("swollen-xattrs", ""),
        ("swollen-entries", ""),
        ("endless-head", ""),
        ("end-endless", ""),
        ("no-end", ""),
    ];
    field.suffer(&cases, &breaches);
}

#[test]
fn who_lives_and_brings_nothing_is_given_up() {
    let field = Battlefield::impatient();
    let cases: [Case<'_>; _] = [
        ("silence", "", &[], Again("the source's agent lives")),
        ("content-mute", "", &[], Again("the source's agent lives")),
        // A byte a second is something.
        ("slow", "", &[], Hangs),
    ];
    field.suffer(&cases, &[]);
}

#[test]
fn content_that_is_none() {
    let field = Battlefield::new();
    let cases: [Case<'_>; _] = [
        ("digest", "", &[], Again("does not have the digest")),
        ("kind-changes", "", &[], Lands(7, "it changed each time")),
        ("changed-huge", "", &[], Lands(7, "at most 2 TiB")),
        ("why-terminal", "", &[], Lands(7, "could not be read at the source")),
        ("content-cut", "", &[], Again("ended inside of a frame")),
        ("content-mute", "", &[], Hangs),
        ("size-2t", "", &[], Hangs),
        ("many-huge", "", &[], Hangs),
        ("same-of-nothing", "", &[], Lands(0, "")),
        ("counters-max", "", &[], Lands(0, "")),
        ("counters-flood", "", &[], Lands(0, "")),
        ("version", "", &[], Refused(6, "version 9")),
        ("bye-terminal", "", &[], Refused(3, "go away")),
        ("mute", "", &[], Again("does not answer")),
    ];
    let breaches = [
        ("more-than-announced", ""),
        ("size-lies", ""),
        ("bomb-content", ""),
        ("stored-4g", ""),
        ("wrong-wish", ""),
        ("content-time", ""),
        ("extents-overflow", ""),
        ("kind-range", ""),
        ("failed-endless", ""),
        ("garbage-content", ""),
        ("content-endless", ""),
        ("content-finish", ""),
        ("garbage-control", ""),
        ("control-endless", ""),
        ("counters-first", ""),
        ("opened-twice", ""),
        ("bye-huge", ""),
    ];
    field.suffer(&cases, &breaches);
}

#[test]
fn differences_that_are_none() {
    let field = Battlefield::new();
    let mut cases: Vec<Case<'_>> = Vec::new();
    // What makes no range is asked for plainly, and then the source has nothing more to say.
    for attack in ["delta-wrong", "delta-copies", "delta-swells", "delta-garbage"] {
        cases.push((attack, "", &[], Lands(7, "could not be read at the source")));
    }
    let breaches = [
        ("delta-bits", ""),
        ("delta-length", ""),
        ("delta-bomb", ""),
        ("delta-unasked", ""),
        ("delta-unlike", ""),
    ];
    field.suffer(&cases, &breaches);
}

#[test]
fn a_link_that_becomes_a_directory_leads_nowhere() {
    let field = Battlefield::new();
    let (root, door) = (field.cluster.path("root"), field.canary.path("home"));
    let door = door.to_str().unwrap().to_owned();
    for (attack, flags) in [
        ("link-out", &[][..]),
        ("directory-where-link-was", &[][..]),
        ("link-out", &["--delete", "--max-delete", "100%"][..]),
        ("directory-where-link-was", &["--checksum"][..]),
    ] {
        field.evil.plan(attack, &door);
        let (code, migration) = field.migrate(&root, flags);
        assert_eq!(code, Some(0), "{attack}: {migration:#}");
        assert_eq!(fs::symlink_metadata(root.join("door")).unwrap().is_symlink(), attack == "link-out");
        field.canary.assert_untouched(attack);
    }
    assert!(root.join("door/planted").exists());
}

/// Has a hostile destination use its ticket for an attack, and returns what it got.
fn plunder(cluster: &Cluster, evil: &Intruder, attack: &str, aim: &str) -> Value {
    evil.plan(attack, aim);
    fs::remove_file(evil.loot()).ok();
    let from = format!("agent-1:{}", cluster.path("shop").display());
    let to = format!("evil:{}", cluster.path(&format!("nest-{attack}")).display());
    let (code, migration) = cluster.json(&["migrate", &from, &to, "--yes"]);
    // The attacker's step says that it is over in its own way.
    assert_eq!(code, Some(6), "{attack}: {migration:#}");
    let loot = fs::read_to_string(evil.loot()).unwrap();
    assert!(!loot.contains(SECRET) && !loot.contains("\"got\""), "{attack}: it got something: {loot}");
    serde_json::from_str(&loot).unwrap()
}

#[test]
fn a_ticket_opens_one_tree_to_one_destination_for_a_while() {
    let cluster = Cluster::start(2, 1);
    let canary = Canary::new(&cluster.path("canary"));
    let shop = cluster.path("shop");
    tree::plain(&shop, 5, 100).unwrap();
    symlink(canary.path("secret"), shop.join("link")).unwrap();
    symlink(canary.path("etc"), shop.join("door")).unwrap();
    let evil = Intruder::join(&cluster, "evil", "destination");
    let victim = cluster.processes()["agent-1"];
    let secret = canary.path("secret");
    let (secret, beyond) = (secret.to_str().unwrap(), canary.path(""));
    memory::forget_peak(victim);
    for (attack, aim, what, says) in [
        ("ticket-other-tree", beyond.to_str().unwrap(), "refused", "did not sign"),
        ("ticket-other-cluster", beyond.to_str().unwrap(), "refused", "did not sign"),
        ("ticket-garbage", "", "refused", "newer version"),
        ("ticket-empty", "", "refused", "cannot be read"),
        ("ticket-expired", "", "refused", "expired"),
        ("hello-garbage", "", "refused", "broke the protocol"),
        ("hello-endless", "", "refused", "broke the protocol"),
        ("hello-slow", "", "refused or closed", ""),
        ("hello-manifest", "", "refused", "does not open"),
        ("control-garbage", "", "closed", ""),
        ("path", "../canary/secret", "closed", ""),
        ("path", secret, "closed", ""),
        ("path", "./d000", "closed", ""),
        ("path", "d000/../../canary/secret", "closed", ""),
        ("path", "link", "nothing", ""),
        ("path", "door/passwd", "nothing", ""),
        ("path", "door", "nothing", ""),
        ("content-garbage", "", "closed", ""),
        ("requests-swollen", "", "closed", ""),
        ("requests-endless", "link", "closed or held back", ""),
        ("lanes-flood", "", "closed", ""),
    ] {
        let loot = plunder(&cluster, &evil, attack, aim);
        let found = what.split(" or ").find_map(|what| loot.get(what));
        let found = found.unwrap_or_else(|| panic!("{attack} {aim}: {loot}"));
        assert!(found.to_string().contains(says), "{attack} {aim}: {loot}");
        canary.assert_untouched(attack);
    }
    let peak = memory::peak_bytes(victim);
    assert!(peak < PEAK_BYTES_MAX, "the victim took {} MiB", peak >> 20);
    assert_eq!(cluster.processes().get("agent-1"), Some(&victim), "the victim died");
    let (code, migration) = cluster.migrate(&shop, &cluster.path("honest"), &[]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&shop, &cluster.path("honest"));
}
