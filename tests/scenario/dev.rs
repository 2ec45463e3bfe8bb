//! The local cluster itself.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::wait;

#[test]
fn comes_up_ready_and_goes_down_clean() {
    let cluster = Cluster::start(2, 1);
    let (code, hosts) = cluster.json(&["host", "list"]);
    assert_eq!(code, Some(0));
    let names: Vec<&str> =
        hosts.as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["agent-1", "agent-2"]);
    assert!(hosts.as_array().unwrap().iter().all(|host| host["connected"] == true), "{hosts}");
    let (code, status) = cluster.json(&["cluster", "status"]);
    assert_eq!((code, &status["leader"]), (Some(0), &Value::from("coordinator-1")));

    let before = cluster.processes();
    assert_eq!(before.keys().collect::<Vec<_>>(), ["agent-1", "agent-2", "coordinator-1"]);
    let down = cluster.ctl(&["dev", "down", "--dir"], &[&cluster.cluster_directory()]).expect_code(0);
    assert!(cluster.processes().is_empty(), "{}", down.stdout);
    for (name, pid) in before {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let stat = fs::read_to_string(path).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{name} still runs: {stat}");
    }
}

#[test]
fn up_again_starts_only_what_is_gone() {
    let cluster = Cluster::start(2, 1);
    let before = cluster.processes();
    cluster.kill("agent-2");
    cluster.up();
    let after = cluster.processes();
    assert_eq!(before["agent-1"], after["agent-1"]);
    assert_eq!(before["coordinator-1"], after["coordinator-1"]);
    assert_ne!(before["agent-2"], after["agent-2"]);
}

#[test]
fn a_stopped_process_is_running_and_a_terminated_one_is_not() {
    let cluster = Cluster::start(1, 1);
    cluster.signal("agent-1", Signal::TERM);
    wait::until("agent-1 to end on SIGTERM", std::time::Duration::from_secs(20), || {
        (!cluster.processes().contains_key("agent-1")).then_some(())
    });
}
