//! What an operator changes while a migration runs.

use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::{judge, tree, wait};

/// Files of a tree that is moved so slowly that it cannot end before it is let go.
const FILES: usize = 300;

fn done(cluster: &Cluster, words: &[&str]) -> serde_json::Value {
    let (code, document) = cluster.json(words);
    assert_eq!(code, Some(0), "{words:?}: {document:#}");
    document
}

#[test]
fn a_paused_move_stands_still_through_kills_and_goes_on() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, FILES, 40_000).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "1MiB"]);
    cluster.wait_for(&id, "some bytes", |migration| migration["bytes_done"].as_u64() > Some(0));
    let paused = done(&cluster, &["pause", &id]);
    assert_eq!((&paused["status"], &paused["steps"][0]["status"]), (&"paused".into(), &"ready".into()));
    assert!(paused["paused_since"].is_u64(), "{paused:#}");
    let person = cluster.ctl(&["pause", &id], &[]).expect_code(0);
    assert!(person.stderr.contains("is paused"), "{person:?}");
    for victim in ["coordinator-1", "agent-2", "agent-1"] {
        cluster.kill(victim);
    }
    cluster.up();
    // The agents are back and would be given the step if it were to be given.
    for host in ["agent-1", "agent-2"] {
        wait::until("the agent to be back", std::time::Duration::from_secs(60), || {
            let (code, shown) = cluster.json(&["host", "show", host]);
            (code == Some(0) && shown["connected"] == true).then_some(())
        });
    }
    let still = cluster.status(&id);
    assert_eq!(
        (&still["status"], &still["steps"][0]["attempts"]),
        (&"paused".into(), &1.into()),
        "{still:#}"
    );
    assert_eq!(cluster.json(&["retry", &id]).0, Some(5));
    done(&cluster, &["resume", &id]);
    let migration = cluster.wait_for_end(&id);
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    assert_eq!(migration["steps"][0]["attempts"], 2, "{migration:#}");
    judge::assert_equal(&source, &destination);
    assert_eq!(cluster.json(&["pause", &id]).0, Some(5), "it has ended");
}

#[test]
fn a_paused_move_is_taken_back() {
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("shop");
    tree::noise(&source, FILES, 40_000).unwrap();
    for (verb, end) in [("cancel", "cancelled"), ("rollback", "rolled_back")] {
        let destination = cluster.path(verb);
        let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "256KiB"]);
        cluster.wait_for(&id, "some bytes", |migration| migration["bytes_done"].as_u64() > Some(0));
        // An agent that stands still does not hear of the pause and holds what it has; the undo waits for it.
        cluster.signal("agent-2", Signal::STOP);
        assert_eq!(done(&cluster, &["pause", &id])["status"], "paused");
        cluster.signal("agent-2", Signal::CONT);
        let ended = done(&cluster, &[verb, &id, "--yes"]);
        assert_eq!(ended["status"], end, "{ended:#}");
        assert!(!destination.exists(), "what was moved is undone");
    }
}

#[test]
fn a_limit_is_changed_while_a_move_runs() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, FILES, 40_000).unwrap();
    // At this rate it would take hours.
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "1KiB"]);
    cluster.wait_for(&id, "the agents to know", |migration| migration["bandwidth_now"] == 1024);
    for (words, code) in [
        (&["set", id.as_str(), "--bandwidth", "fast"][..], 2),
        (&["set", &id], 2),
        (&["set", "b7k2m9x4qz", "--bandwidth", "1MiB"], 4),
    ] {
        assert_eq!(cluster.json(words).0, Some(code), "{words:?}");
    }
    // What was set outlives the coordinator and the attempt.
    let set = done(&cluster, &["set", &id, "--bandwidth", "00:00-24:00=2KiB,else=none"]);
    assert_eq!(set["bandwidth_limit"], "00:00-24:00=2KiB,else=none", "{set:#}");
    cluster.wait_for(&id, "the change to be told", |migration| migration["bandwidth_now"] == 2048);
    for victim in ["coordinator-1", "agent-1"] {
        cluster.kill(victim);
    }
    cluster.up();
    cluster.wait_for(&id, "the change to be told again", |migration| migration["bandwidth_now"] == 2048);
    let set = done(&cluster, &["set", &id, "--bandwidth", "none"]);
    assert_eq!(set["bandwidth_limit"], serde_json::Value::Null, "{set:#}");
    let migration = cluster.wait_for_end(&id);
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    judge::assert_equal(&source, &destination);
    assert_eq!(cluster.json(&["set", &id, "--bandwidth", "1MiB"]).0, Some(5), "it has ended");
}

#[test]
fn a_host_is_shared_and_its_migrations_wait_for_their_turn() {
    let cluster = Cluster::start(2, 1);
    let limited = done(&cluster, &["host", "limit", "agent-1", "--bandwidth", "2KiB", "--migrations", "2"]);
    assert_eq!(limited["limits"], serde_json::json!({"bandwidth": 2048, "migrations": 2}));
    let ids: Vec<String> = (0..3)
        .map(|number| {
            let (source, destination) =
                (cluster.path(&format!("s{number}")), cluster.path(&format!("d{number}")));
            tree::noise(&source, 20, 40_000).unwrap();
            cluster.migrate_detached(&source, &destination, &[])
        })
        .collect();
    for id in &ids[..2] {
        cluster.wait_for(id, "half of the rate", |migration| migration["bandwidth_now"] == 1024);
    }
    let waiting = cluster.status(&ids[2]);
    assert_eq!(waiting["status"], "queued", "{waiting:#}");
    assert!(waiting["waits_for"].as_str().unwrap().contains("agent-1"), "{waiting:#}");
    // A paused one shares nothing and has no place.
    done(&cluster, &["pause", &ids[0]]);
    cluster.wait_for(&ids[2], "its turn", |migration| migration["bandwidth_now"] == 1024);
    for words in [
        &["host", "limit", "agent-1"][..],
        &["host", "limit", "agent-1", "--migrations", "0"],
        &["host", "limit", "agent-1", "--bandwidth", "fast"],
    ] {
        assert_eq!(cluster.json(words).0, Some(2), "{words:?}");
    }
    assert_eq!(cluster.json(&["host", "limit", "nobody", "--migrations", "1"]).0, Some(4));
    let lifted = done(&cluster, &["host", "limit", "agent-1", "--bandwidth", "none", "--migrations", "none"]);
    assert_eq!(lifted["limits"], serde_json::Value::Null, "{lifted:#}");
    done(&cluster, &["resume", &ids[0]]);
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(cluster.wait_for_end(id)["status"], "completed");
        judge::assert_equal(&cluster.path(&format!("s{number}")), &cluster.path(&format!("d{number}")));
    }
}

#[test]
fn a_source_under_load_is_left_alone_until_more_load_is_allowed() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, FILES, 40_000).unwrap();
    // Any load is at least this one.
    let id = cluster.migrate_detached(&source, &destination, &["--max-load", "0"]);
    let held =
        cluster.wait_for(&id, "the source to hold back", |migration| migration["source_throttled"] == true);
    for figure in ["cpu_percent", "io_pressure_percent", "load"] {
        assert!(held["source_cost"][figure].is_number(), "{held:#}");
    }
    let person = cluster.ctl(&["status", &id], &[]).expect_code(0);
    assert!(
        person.stdout.contains("throttled, by the source's load")
            || person.stdout.contains("by the source's load"),
        "{person:?}"
    );
    for words in [&["set", id.as_str(), "--max-load", "much"][..], &["set", &id, "--max-load", "-1"]] {
        assert_eq!(cluster.json(words).0, Some(2), "{words:?}");
    }
    done(&cluster, &["set", &id, "--max-load", "9999"]);
    let migration = cluster.wait_for_end(&id);
    assert_eq!((&migration["status"], &migration["verified"]), (&"completed".into(), &true.into()));
    assert!(migration["source_throttled_s"].as_u64() > Some(0), "{migration:#}");
    assert!(migration["source_cost_peak"]["load"].is_number(), "{migration:#}");
    let report = cluster.ctl(&["report", &id, "--format", "markdown"], &[]).expect_code(0);
    assert!(report.stdout.contains("Source held back for its load"), "{}", report.stdout);
    judge::assert_equal(&source, &destination);
}

/// Returns the IO class of each thread of a process, as `ionice` shows it.
fn io_classes(cluster: &Cluster, name: &str) -> Vec<String> {
    let pid = cluster.processes()[name].as_raw_nonzero();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let class = |task: std::fs::DirEntry| {
        let shown = std::process::Command::new("ionice").arg("-p").arg(task.file_name()).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).trim().to_owned()
    };
    tasks.map(class).collect()
}

#[test]
fn an_idle_move_uses_disks_of_both_sides_when_nobody_else_does() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, FILES, 40_000).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--io-class", "idle", "--bandwidth", "1KiB"]);
    let agents = ["agent-1", "agent-2"];
    let is_idle = |name: &&str| io_classes(&cluster, name).iter().any(|class| class == "idle");
    wait::until("threads of both agents to be idle", std::time::Duration::from_secs(60), || {
        agents.iter().all(is_idle).then_some(())
    });
    done(&cluster, &["set", &id, "--bandwidth", "none"]);
    assert_eq!(cluster.wait_for_end(&id)["status"], "completed");
    // Threads of pools go on as they were before.
    wait::until("no thread to be idle any more", std::time::Duration::from_secs(60), || {
        (!agents.iter().any(is_idle)).then_some(())
    });
    judge::assert_equal(&source, &destination);
}
