//! Three coordinators.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, tree, wait};

/// Returns the leader's name, once there is one.
fn leader(cluster: &Cluster) -> String {
    wait::until("a leader", Duration::from_secs(180), || {
        let outcome = cluster.ctl(&["--output", "json", "cluster", "status"], &[]);
        let status = (outcome.code == Some(0)).then(|| outcome.json())?;
        status["leader"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_move_survives_its_leaders() {
    let cluster = Cluster::start(2, 3);
    let (_, status) = cluster.json(&["cluster", "status"]);
    assert_eq!(status["members"].as_array().map(Vec::len), Some(3), "{status:#}");
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 9000, 20_000).unwrap();
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &[]);
    for _ in 0..3 {
        gate.let_pass(2);
        let old = leader(&cluster);
        cluster.kill(&old);
        let new = leader(&cluster);
        assert_ne!(new, old);
        cluster.up();
    }
    drop(gate);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&Value::from("completed"), &Value::from(true))
    );
    judge::assert_equal(&source, &destination);
}

#[test]
fn a_leader_that_hangs_is_left_by_everybody() {
    let cluster = Cluster::start(2, 3);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 9000, 20_000).unwrap();
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &[]);
    gate.let_pass(1);
    let moving = cluster.status(&id);
    assert_eq!(moving["status"], "running");
    let old = leader(&cluster);
    cluster.signal(&old, Signal::STOP);
    // The one that hangs takes connections and answers nothing, and it is the first that `ctl` asks.
    wait::until("another leader", Duration::from_secs(180), || (leader(&cluster) != old).then_some(()));
    let done = moving["bytes_done"].as_u64();
    gate.let_pass(4);
    let moving = cluster.wait_for(&id, "news of the move", |migration| {
        migration["bytes_done"].as_u64() > done || migration["status"] != "running"
    });
    assert_eq!(moving["status"], "running", "nothing was lost: {moving:#}");
    cluster.signal(&old, Signal::CONT);
    drop(gate);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&Value::from("completed"), &Value::from(true))
    );
    judge::assert_equal(&source, &destination);
}

/// Where Debian keeps the library that shifts a process's clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Makes every program of the cluster live a day and an hour later.
fn a_day_later(binaries: &std::path::Path) {
    for name in ["ctl", "drover-agent", "drover-coordinator"] {
        let program = binaries.join(name);
        let real = std::fs::canonicalize(&program).unwrap();
        std::fs::remove_file(&program).unwrap();
        // The time since boot and timers stay true: a day off is a day of wall time. The library is loaded here and
        // not by the program `faketime`, which would stay in between as a parent and hold back signals.
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD={FAKETIME} FAKETIME=+25h FAKETIME_DONT_FAKE_MONOTONIC=1\nexec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_cluster_that_was_down_for_a_day_comes_up_again() {
    if !std::path::Path::new(FAKETIME).exists() {
        tests::skip::aloud("the library of faketime is not installed");
        return;
    }
    let cluster = Cluster::start(2, 3);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 100, 2000).unwrap();
    let _down = cluster.ctl(&["dev", "down", "--dir"], &[&cluster.cluster_directory()]).expect_code(0);
    a_day_later(&cluster.path("bin"));
    // Every certificate of a node and an agent has run out by now.
    cluster.up();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);
}
