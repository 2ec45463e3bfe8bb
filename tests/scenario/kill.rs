//! Killed processes: the move goes on, nothing is lost, and little is sent again.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::{judge, tree, wait};

/// Bytes of content of the tree that is moved under fire.
fn make_source(root: &Path) -> u64 {
    tree::noise(root, 9000, 22_000).unwrap();
    std::fs::write(root.join("image-1"), tree::bytes(11, 24 << 20)).unwrap();
    std::fs::write(root.join("d000/image-2"), tree::bytes(12, 18 << 20)).unwrap();
    (9000 * 11_000) + (42 << 20)
}

/// Kills `victim` each time the move has come some groups further, `kills` times, and lets the move end, which it
/// cannot before: the groups that may pass are a part of what there is.
fn kill_while_moving(victim: &str, kills: u64) {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    let bytes = make_source(&source);
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &[]);
    for round in 0..kills {
        gate.let_pass(3);
        let migration = cluster.status(&id);
        assert_eq!(migration["status"], "running", "killed {round} times, then: {migration:#}");
        cluster.kill(victim);
        cluster.up();
    }
    drop(gate);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(migration["status"], "completed", "{migration:#}");
    assert_eq!(migration["verified"], true, "{migration:#}");
    let resent = migration["bytes_resent"].as_u64().unwrap();
    assert!(resent <= kills * (bytes / 10).min(64 << 20), "{resent} bytes sent again after {kills} kills");
    judge::assert_equal(&source, &destination);
}

#[test]
fn the_destination_agent_may_die() {
    kill_while_moving("agent-2", 8);
}

#[test]
fn the_source_agent_may_die() {
    kill_while_moving("agent-1", 7);
}

#[test]
fn the_only_coordinator_may_die() {
    kill_while_moving("coordinator-1", 6);
}

#[test]
fn an_agent_that_is_stopped_in_order_gives_its_lease_back() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    make_source(&source);
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "4MiB"]);
    let moving = cluster.wait_for(&id, "some bytes", |migration| migration["bytes_done"].as_u64() > Some(0));
    assert_eq!(moving["steps"][0]["status"], "leased", "{moving:#}");
    cluster.signal("agent-2", Signal::TERM);
    let waiting = cluster
        .wait_for(&id, "the lease to be given back", |migration| migration["steps"][0]["status"] != "leased");
    assert_eq!(
        (&waiting["steps"][0]["status"], &waiting["steps"][0]["failure"]),
        (&"ready".into(), &serde_json::Value::Null),
        "{waiting:#}"
    );
    let log = cluster.cluster_directory().join("logs/coordinator-1.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        !log.contains(coordinator::reconcile::expiry::LEASE_ENDS),
        "the lease was not given back, it ran out"
    );
    wait::until("the agent to be gone", Duration::from_secs(60), || {
        (!cluster.processes().contains_key("agent-2")).then_some(())
    });
    cluster.up();
    let migration = cluster.wait_for_end(&id);
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    let attempts = |migration: &serde_json::Value| migration["steps"][0]["attempts"].as_u64().unwrap();
    assert_eq!(attempts(&migration), attempts(&moving) + 1, "{migration:#}");
    judge::assert_equal(&source, &destination);
}
