//! Three coordinators.

use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, tree, wait};

/// Returns the leader's name, once there is one.
fn leader(cluster: &Cluster) -> String {
    wait::until("a leader", Duration::from_secs(20), || {
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
    tree::plain(&source, 6000, 20_000).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "8MiB"]);
    let mut done = 0;
    for _ in 0..3 {
        let migration = cluster
            .wait_for(&id, "the move to go on", |migration| migration["bytes_done"].as_u64() > Some(done));
        assert_eq!(migration["status"], "running", "{migration:#}");
        done = migration["bytes_done"].as_u64().unwrap() + (8 << 20);
        let old = leader(&cluster);
        cluster.kill(&old);
        let new = leader(&cluster);
        assert_ne!(new, old);
        cluster.up();
    }
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&Value::from("completed"), &Value::from(true))
    );
    judge::assert_equal(&source, &destination);
}
