//! The cluster key is rotated while nodes die, hosts join and coordinators are added: what was sealed stays readable.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::wait;

use crate::secrets::{migrate, set, spec};

/// How long a busy machine may take for a start, an election or a rotation.
const PATIENCE: Duration = Duration::from_secs(120);

fn key_file(cluster: &Cluster, node: &str) -> PathBuf {
    let settings = fs::read_to_string(cluster.cluster_directory().join(node).join("settings.toml")).unwrap();
    let line = settings.lines().find_map(|line| line.strip_prefix("cluster_key_file = ")).unwrap();
    PathBuf::from(line.trim_matches('"'))
}

fn keys_in(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

fn leader(cluster: &Cluster) -> String {
    wait::until("a leader", PATIENCE, || {
        let outcome = cluster.ctl(&["--output", "json", "cluster", "status"], &[]);
        let status = (outcome.code == Some(0)).then(|| outcome.json())?;
        status["leader"].as_str().map(str::to_owned)
    })
}

/// Rotates until it is done; a rotation that was cut goes on with the next call.
fn rotate(cluster: &Cluster, more: &[&str]) -> Value {
    wait::until("a rotation to end", PATIENCE, || {
        let outcome = cluster.ctl(&[&["--output", "json", "cluster", "rotate-key"], more].concat(), &[]);
        (outcome.code == Some(0)).then(|| outcome.json())
    })
}

/// Asserts that every secret is under one key, and that one of them can be opened for a step.
fn assert_readable(cluster: &Cluster, key: &Value, round: &str) {
    let listed = cluster.ctl(&["--output", "json", "secret", "list"], &[]).expect_code(0).json();
    assert!(listed.as_array().unwrap().iter().all(|it| it["cluster_key"] == *key), "{key}: {listed:#}");
    let (source, copy) = (cluster.path("shop"), cluster.path(&format!("copy-{round}")));
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("a.sql"), b"eva@example.com").unwrap();
    let rules = "  key: \"${secret:mask}\"\n  files:\n    - {match: \"*.sql\", action: mask, find: email, with: key}\n";
    let (code, migration) = migrate(cluster, &spec(cluster, &source, &copy, rules));
    assert_eq!(code, Some(0), "{migration:#}");
    assert!(!fs::read_to_string(copy.join("a.sql")).unwrap().contains("example"));
}

#[test]
fn a_rotation_goes_on_whoever_was_killed_in_its_middle() {
    let cluster = Cluster::start(2, 3);
    for number in 0..30 {
        set(&cluster, &format!("s{number}"), b"canary");
    }
    set(&cluster, "mask", b"canary");
    let nodes = ["coordinator-1", "coordinator-2", "coordinator-3"];
    for round in ["leader", "follower", "everybody"] {
        let first = leader(&cluster);
        let others: Vec<&str> = nodes.into_iter().filter(|node| *node != first).collect();
        let before = keys_in(&key_file(&cluster, others[0]));
        let mut cut = cluster.command();
        cut.args(["cluster", "rotate-key"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut cut = cut.spawn().unwrap();
        // The next key has reached one of the others; whether more was done by then, the round does not care.
        wait::until("the next key to be kept by a follower", PATIENCE, || {
            (keys_in(&key_file(&cluster, others[0])) > before).then_some(())
        });
        match round {
            "leader" => cluster.kill(&first),
            "follower" => cluster.kill(others[1]),
            _ => nodes.iter().for_each(|node| cluster.kill(node)),
        }
        cluster.up();
        // It may have been done before the kill, or refused by it.
        cut.wait().unwrap();
        let rotated = rotate(&cluster, &[]);
        assert_readable(&cluster, &rotated["key"], round);
        // A call that was cut may have been tried again, so nobody knows how many keys there are by now.
        rotate(&cluster, &["--drop-old", "--yes"]);
        for node in nodes {
            wait::until("old keys to be forgotten", PATIENCE, || {
                (keys_in(&key_file(&cluster, node)) == 1).then_some(())
            });
        }
    }
    let last = rotate(&cluster, &["--drop-old", "--yes"]);
    nodes.iter().for_each(|node| cluster.kill(node));
    cluster.up();
    assert_readable(&cluster, &last["key"], "dropped");
}

#[test]
fn a_key_that_has_leaked_is_replaced_by_one_that_no_message_held() {
    let cluster = Cluster::start(2, 3);
    set(&cluster, "mask", b"canary");
    let files: Vec<PathBuf> =
        (1..=3).map(|number| key_file(&cluster, &format!("coordinator-{number}"))).collect();
    for file in &files {
        let leaked = fs::read_to_string(file).unwrap();
        fs::write(file, format!("{leaked}{}\n", "5a".repeat(32))).unwrap();
    }
    let rotated = rotate(&cluster, &[]);
    assert_readable(&cluster, &rotated["key"], "rotated");
    rotate(&cluster, &["--drop-old", "--yes"]);
    for file in &files {
        wait::until("the leaked key to be dropped by every node", PATIENCE, || {
            (keys_in(file) == 1).then_some(())
        });
        assert!(fs::read_to_string(file).unwrap().starts_with("5a5a"));
    }
    assert_readable(&cluster, &rotated["key"], "dropped");
}

/// A coordinator beside those of `ctl dev`; dropping it ends it.
struct Newcomer {
    program: PathBuf,
    directory: PathBuf,
    serving: Option<Child>,
}

impl Newcomer {
    fn join(cluster: &Cluster, name: &str) -> Self {
        let (code, join) = cluster.json(&["cluster", "add", name]);
        assert_eq!(code, Some(0), "{join:#}");
        let directory = cluster.path(name);
        fs::create_dir(&directory).unwrap();
        let settings = format!(
            "name = '{name}'\nstate_dir = '{0}/state'\ncluster_key_file = '{0}/cluster.key'\nlisten_api = '127.0.0.1:0'\nlisten_raft = '127.0.0.1:0'\n",
            directory.display()
        );
        fs::write(directory.join("settings.toml"), settings).unwrap();
        let newcomer = Self { program: cluster.path("bin/drover-coordinator"), directory, serving: None };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut command = newcomer.command("join");
        command.args(["--token", &text(&join["token"]), "--ca-digest", &text(&join["ca_digest"])]);
        let joined =
            command.args(join["coordinators"].as_array().unwrap().iter().map(text)).output().unwrap();
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        newcomer
    }

    fn command(&self, step: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().arg(step).arg("--config").arg(self.directory.join("settings.toml"));
        command.stdin(Stdio::null());
        command
    }

    fn serve(&mut self) {
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let mut command = self.command("serve");
        self.serving = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn key_file(&self) -> PathBuf {
        self.directory.join("cluster.key")
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if let Some(serving) = &mut self.serving {
            // It may have ended by itself.
            serving.kill().ok();
            serving.wait().ok();
        }
    }
}

fn wait_for_vote(cluster: &Cluster, name: &str, newcomer: &Newcomer) {
    wait::until("the newcomer to vote", PATIENCE, || {
        let outcome = cluster.ctl(&["--output", "json", "cluster", "status"], &[]);
        let status = (outcome.code == Some(0)).then(|| outcome.json())?;
        let votes = |member: &Value| member["name"] == name && member["role"] == "follower";
        let is_voter = status["members"].as_array()?.iter().any(votes);
        assert!(is_voter || !newcomer.log().contains("panicked"), "{}", newcomer.log());
        is_voter.then_some(())
    });
}

#[test]
fn hosts_and_coordinators_join_before_within_and_after_a_rotation() {
    let cluster = Cluster::start(2, 1);
    set(&cluster, "mask", b"canary");
    // Invited before the rotation, joined after it.
    let (code, invited) = cluster.json(&["host", "enroll", "agent-3"]);
    assert_eq!(code, Some(0), "{invited:#}");
    let mut late = Newcomer::join(&cluster, "coordinator-7");
    rotate(&cluster, &[]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let directory = cluster.path("agent-3");
    fs::create_dir(&directory).unwrap();
    let config = directory.join("agent.toml");
    fs::write(&config, format!("state_dir = '{}/state'\nlisten_data = '127.0.0.1:0'\n", directory.display()))
        .unwrap();
    let joined = Command::new(cluster.path("bin/drover-agent"))
        .env_clear()
        .args(["join", "--name", "agent-3", "--token", &text(&invited["token"])])
        .args(["--ca-digest", &text(&invited["ca_digest"]), "--config"])
        .arg(&config)
        .args(invited["coordinators"].as_array().unwrap().iter().map(text))
        .output()
        .unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));

    // Joined while both keys are there: it gets both, and drops the old one with everybody.
    let mut within = Newcomer::join(&cluster, "coordinator-8");
    assert_eq!(keys_in(&within.key_file()), 2);
    within.serve();
    wait_for_vote(&cluster, "coordinator-8", &within);
    let dropped = rotate(&cluster, &["--drop-old", "--yes"]);
    wait::until("the newcomer to drop the old key", PATIENCE, || {
        (keys_in(&within.key_file()) == 1).then_some(())
    });
    assert_readable(&cluster, &dropped["key"], "within");

    // Joined under a key that is gone by now: it gets no vote with which it could serve nothing, and says what to do.
    late.serve();
    wait::until("the late one to say what it lacks", PATIENCE, || {
        late.log().contains("lacks the present cluster key").then_some(())
    });
    let (_, status) = cluster.json(&["cluster", "status"]);
    assert!(!status.to_string().contains("coordinator-7"), "{status:#}");
    fs::copy(within.key_file(), late.key_file()).unwrap();
    wait_for_vote(&cluster, "coordinator-7", &late);
    // Twice in a row, with all that have joined since.
    rotate(&cluster, &[]);
    let again = rotate(&cluster, &[]);
    assert_readable(&cluster, &again["key"], "again");
}

#[test]
fn a_coordinator_without_its_key_says_so_and_serves_nothing() {
    let cluster = Cluster::start(0, 1);
    let file = key_file(&cluster, "coordinator-1");
    let own = fs::read(&file).unwrap();
    let settings = cluster.cluster_directory().join("coordinator-1/settings.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let ports: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("listen_")?.split_once(" = "))
        .map(|(_, address)| address.trim_matches('"').to_owned())
        .collect();
    assert_eq!(ports.len(), 2, "{text}");
    cluster.kill("coordinator-1");
    for (case, content, needle) in [
        ("missing", None, "there is no cluster key"),
        ("another cluster's", Some("ab".repeat(32)), "another cluster key"),
        ("no key at all", Some("nonsense".to_owned()), "cluster.key"),
    ] {
        match &content {
            None => fs::remove_file(&file).unwrap(),
            Some(content) => {
                fs::write(&file, content).unwrap();
                fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            }
        }
        let mut serving = Command::new(cluster.path("bin/drover-coordinator"));
        serving.env_clear().args(["serve", "--config"]).arg(&settings).stdin(Stdio::null());
        // It ends by itself, which is the point: a daemon that served would hold this for ever.
        let ended = serving.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(needle) && said.contains("hint"), "{case}: {said}");
        for port in &ports {
            assert!(std::net::TcpStream::connect(port).is_err(), "{case}: {port} is open");
        }
    }
    fs::write(&file, own).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    cluster.up();
    set(&cluster, "mask", b"canary");
}
