//! Killed processes: the move goes on, nothing is lost, and little is sent again.

use std::path::Path;

use tests::cluster::Cluster;
use tests::{judge, tree};

/// Bytes of content of the tree that is moved under fire.
fn make_source(root: &Path) -> u64 {
    tree::noise(root, 9000, 22_000).unwrap();
    std::fs::write(root.join("image-1"), tree::bytes(11, 24 << 20)).unwrap();
    std::fs::write(root.join("d000/image-2"), tree::bytes(12, 18 << 20)).unwrap();
    (9000 * 11_000) + (42 << 20)
}

/// Kills `victim` each time the move has come another step further, `kills` times, and lets the move end.
///
/// All the kills happen in the first part of the move, and the rest takes long at the limited rate, so that it cannot
/// end before the last one.
fn kill_while_moving(victim: &str, kills: u64) {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    let bytes = make_source(&source);
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "4MiB"]);
    let mut done = 0;
    for round in 0..kills {
        let migration = cluster.wait_for(&id, "the move to go on", |migration| {
            let is_further = migration["bytes_done"].as_u64() > Some(done);
            is_further || migration["status"] != "running"
        });
        assert_eq!(migration["status"], "running", "killed {round} times, then: {migration:#}");
        done = migration["bytes_done"].as_u64().unwrap() + bytes / (kills * 4);
        cluster.kill(victim);
        cluster.up();
    }
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
