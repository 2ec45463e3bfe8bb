//! Passes while the source is live, and the last one when somebody says so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tests::churn::Churn;
use tests::cluster::Cluster;
use tests::{judge, mount, tree};

/// Changes of every sort; `round` makes each call another one.
fn change(source: &Path, round: u32) {
    fs::write(source.join("d000/e00/f000007.php"), format!("changed in round {round}")).unwrap();
    fs::write(source.join(format!("new-{round}")), tree::bytes(round.into(), 300_000)).unwrap();
    fs::rename(source.join("d000/e01/f000101.php"), source.join(format!("moved-{round}"))).unwrap();
    fs::rename(source.join(format!("moved-{round}")), source.join("d000/e01/f000101.php")).unwrap();
    fs::create_dir_all(source.join(format!("made-{round}/deep"))).unwrap();
    fs::write(source.join(format!("made-{round}/deep/file")), "deep").unwrap();
    fs::remove_file(source.join(format!("d000/e02/f00020{round}.php"))).unwrap();
}

fn passes(migration: &Value) -> Vec<&Value> {
    migration["passes"].as_array().map(|passes| passes.iter().collect()).unwrap_or_default()
}

/// Waits until a pass of the catching up has brought what was changed.
fn wait_for_file(cluster: &Cluster, id: &str, path: &Path) -> Value {
    cluster.wait_for(id, "a change to arrive while it awaits the cutover", |migration| {
        assert_eq!(migration["status"], "awaiting_cutover", "{migration:#}");
        path.exists()
    })
}

#[test]
fn a_live_source_is_caught_up_with_and_finished() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 500, 9000).unwrap();
    let flags = ["--catch-up", "--delete", "--max-delete", "90%", "--rollback-window", "1h"];
    let (code, migration) = cluster.migrate(&source, &destination, &flags);
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    let steps: Vec<&str> =
        migration["steps"].as_array().unwrap().iter().map(|step| step["id"].as_str().unwrap()).collect();
    assert_eq!(steps, ["file.copy-1", "file.verify-1", "file.catch_up-1", "file.finish-1", "file.verify-2"]);
    let passes = passes(&migration);
    assert!(passes.len() >= 3, "{migration:#}");
    assert_eq!(migration["passes_total"].as_u64(), Some(passes.len() as u64));
    assert_eq!((&passes[0]["step"], &passes[0]["files_changed"]), (&"file.copy-1".into(), &500.into()));
    assert_eq!(passes[1]["files_changed"], 0, "{migration:#}");
    assert!(
        migration["downtime_predicted_ms"].as_u64() > Some(0) && migration["downtime_ms"].as_u64() > Some(0)
    );
    assert_eq!(migration["files_total"], 500);
    judge::assert_equal(&source, &destination);
    let id = migration["id"].as_str().unwrap();
    for (format, needle) in [("markdown", "Passes"), ("html", "Passes"), ("json", "\"passes\"")] {
        let report = cluster.ctl(&["report", id, "--format", format], &[]).expect_code(0).stdout;
        assert!(report.contains(needle), "{report}");
    }
}

#[test]
fn it_stays_caught_up_until_a_person_cuts_over() {
    let cluster = Cluster::start(2, 1);
    let (source, destination, before) = (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
    tree::plain(&source, 500, 9000).unwrap();
    tree::plain(&destination, 30, 500).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&destination, &before]).status().unwrap();
    assert!(copied.success());
    let flags =
        ["--catch-up", "--cutover", "manual", "--delete", "--max-delete", "90%", "--rollback-window", "1h"];
    let id = cluster.migrate_detached(&source, &destination, &flags);
    let waiting = cluster.wait_for(&id, "the cutover to be awaited", |it| it["status"] == "awaiting_cutover");
    assert!(waiting["downtime_predicted_ms"].as_u64() > Some(0), "{waiting:#}");
    assert!(!passes(&waiting).is_empty());
    let shown = cluster.ctl(&["status", &id], &[]).expect_code(0).stdout;
    assert!(shown.contains("predicted freeze") && shown.contains(&format!("ctl cutover {id}")), "{shown}");

    for round in 0..2 {
        change(&source, round);
        wait_for_file(&cluster, &id, &destination.join(format!("made-{round}/deep/file")));
        // Whoever dies, it goes on from where it stands, and still waits.
        cluster.kill(["agent-2", "coordinator-1"][round as usize]);
        cluster.up();
    }
    change(&source, 2);
    let (code, migration) = cluster.json(&["cutover", &id]);
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    judge::assert_equal(&source, &destination);
    assert_eq!(cluster.json(&["cutover", &id]).0, Some(5), "it has ended");

    let (code, undone) = cluster.json(&["rollback", &id, "--yes"]);
    assert_eq!(code, Some(0), "{undone:#}");
    judge::assert_equal(&before, &destination);
}

#[test]
fn what_awaits_a_cutover_can_be_cancelled() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 50, 9000).unwrap();
    fs::create_dir(&destination).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--catch-up", "--cutover", "manual"]);
    cluster.wait_for(&id, "the cutover to be awaited", |it| it["status"] == "awaiting_cutover");
    let (code, cancelled) = cluster.json(&["cancel", &id, "--yes"]);
    assert_eq!((code, &cancelled["status"]), (Some(0), &"cancelled".into()), "{cancelled:#}");
    assert_eq!(fs::read_dir(&destination).unwrap().count(), 0);
}

/// Waits for a pass that the catching up tells of.
fn wait_for_pass(cluster: &Cluster, id: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    cluster.wait_for(id, what, |migration| passes(migration).into_iter().any(&is_it))
}

fn is_watched(pass: &Value) -> bool {
    pass["scan"] == "watched" && pass["files_changed"].as_u64() > Some(0)
}

/// Whether a pass looked at everything for this reason.
fn is_full_for(pass: &Value, why: &str) -> bool {
    pass["scan"] == "full" && pass["why"].as_str().is_some_and(|said| said.contains(why))
}

/// Begins to catch up, and waits until a person is awaited.
fn begin(cluster: &Cluster, source: &Path, destination: &Path) -> String {
    let flags =
        ["--catch-up", "--cutover", "manual", "--delete", "--max-delete", "100%", "--rollback-window", "1h"];
    let id = cluster.migrate_detached(source, destination, &flags);
    cluster.wait_for(&id, "the cutover to be awaited", |it| it["status"] == "awaiting_cutover");
    id
}

fn finish(cluster: &Cluster, id: &str, source: &Path, destination: &Path) {
    let (code, migration) = cluster.json(&["cutover", id]);
    assert_eq!(code, Some(0), "{migration:#}");
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    judge::assert_equal(source, destination);
}

#[test]
fn no_change_is_missed_while_somebody_writes_whoever_is_killed() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 300, 9000).unwrap();
    let id = begin(&cluster, &source, &destination);
    let churn = Churn::start(&source, &cluster.path("beside"), 7, false);
    for (agent, why) in [("agent-2", "began anew"), ("agent-1", "failed")] {
        wait_for_pass(&cluster, &id, "a watched pass", is_watched);
        cluster.kill(agent);
        cluster.up();
        wait_for_pass(&cluster, &id, "a pass after a kill", |pass| {
            is_full_for(pass, why) || is_watched(pass)
        });
    }
    let before = cluster.status(&id)["passes_total"].as_u64();
    cluster
        .wait_for(&id, "further passes", |it| it["passes_total"].as_u64() > before.map(|passes| passes + 3));
    assert!(churn.deeds() > 100);
    churn.stop();
    finish(&cluster, &id, &source, &destination);
}

/// Changes files in one way each, so that no other change of their directories shows it.
fn change_one_by_one(source: &Path) {
    let file = |number: u32| source.join(format!("d000/e00/f{number:06}.php"));
    fs::set_permissions(file(0), fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::setxattr(file(1), c"user.changed", b"yes", rustix::fs::XattrFlags::empty()).unwrap();
    let old = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    fs::File::open(file(2)).unwrap().set_times(old).unwrap();
    fs::File::options().append(true).open(file(3)).unwrap().write_all(b"more").unwrap();
    fs::File::options().write(true).open(file(4)).unwrap().set_len(1).unwrap();
    fs::remove_file(file(5)).unwrap();
    fs::rename(file(6), source.join("d000/e01/renamed")).unwrap();
    fs::set_permissions(source.join("d000/e02"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_watch_misses_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 300, 9000).unwrap();
    let id = begin(&cluster, &source, &destination);
    let churn = Churn::start(&source, &cluster.path("beside"), 3, false);
    cluster.wait_for(&id, "passes while somebody writes", |migration| {
        churn.deeds() > 2_000 && passes(migration).into_iter().filter(|pass| is_watched(pass)).count() > 3
    });
    churn.stop();
    // By watched passes alone, before any looks at everything again.
    let equal = || {
        cluster.wait_for(&id, "the destination to be equal", |_| {
            judge::differences(&source, &destination).is_empty()
        })
    };
    equal();
    change_one_by_one(&source);
    let seen = equal();
    let of_step = passes(&seen).into_iter().filter(|pass| pass["step"] == "file.catch_up-1");
    assert_eq!(of_step.filter(|pass| pass["scan"] == "full").count(), 1, "{seen:#}");
    finish(&cluster, &id, &source, &destination);
}

#[test]
fn no_change_is_missed_of_files_with_several_names() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 50, 9000).unwrap();
    let id = begin(&cluster, &source, &destination);
    let churn = Churn::start(&source, &cluster.path("beside"), 11, true);
    wait_for_pass(&cluster, &id, "a further name", |pass| is_full_for(pass, "further name"));
    churn.stop();
    finish(&cluster, &id, &source, &destination);
}

#[test]
fn what_is_mounted_in_the_source_ends_its_watch() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 100, 9000).unwrap();
    let point = source.join("d000");
    let id = begin(&cluster, &source, &destination);
    fs::write(source.join("new"), "1").unwrap();
    wait_for_pass(&cluster, &id, "a watched pass", is_watched);
    let Some(mounted) = mount::tmpfs(&point) else { return };
    fs::write(point.join("on the mount"), "2").unwrap();
    let seen =
        wait_for_pass(&cluster, &id, "a pass over everything", |pass| is_full_for(pass, "mounted in it"));
    let shown = cluster.ctl(&["status", &id], &[]).expect_code(0).stdout;
    assert!(shown.contains("full scan: something is mounted in it"), "{shown}\n{seen:#}");
    finish(&cluster, &id, &source, &destination);
    drop(mounted);
}
