//! Who may do what, with real processes: keys, users, tenants, scopes, and contexts that others can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::tree;

const PASSWORD: &str = "correct horse battery staple";

/// Somebody's own contexts file, and what they show.
struct Hand<'a> {
    cluster: &'a Cluster,
    contexts: PathBuf,
}

impl<'a> Hand<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        Self { cluster, contexts: cluster.path(name).join("contexts.toml") }
    }

    fn command(&self) -> Command {
        let mut command = self.cluster.command();
        command.env("CTL_CONTEXT_FILE", &self.contexts).args(["--output", "json"]);
        command
    }

    fn run(&self, command: &mut Command, input: &str) -> (Option<i32>, Value) {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Who does not ask does not read.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        let document = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
            .unwrap();
        (output.status.code(), document)
    }

    fn ctl(&self, words: &[&str]) -> (Option<i32>, Value) {
        self.run(self.command().args(words), "")
    }

    fn with_key(&self, file: &Path, words: &[&str]) -> (Option<i32>, Value) {
        self.run(self.command().arg("--api-key-file").arg(file).args(words), "")
    }

    fn login(&self, user: &Value, password: &str) -> (Option<i32>, Value) {
        let (name, tenant) = (user["name"].as_str().unwrap(), user["tenant"].as_str().unwrap());
        let digest = user["login"]["ca_digest"].as_str().unwrap();
        let address = user["login"]["coordinators"][0].as_str().unwrap();
        let words = ["--tenant", tenant, "login", "--user", name, "--ca-digest", digest, address];
        self.run(self.command().args(words), password)
    }
}

/// Runs `ctl` as the cluster's first admin and returns its answer.
fn admin(cluster: &Cluster, words: &[&str], input: &str) -> Value {
    let hand = Hand { cluster, contexts: cluster.cluster_directory().join("contexts.toml") };
    let (code, document) = hand.run(hand.command().args(words), input);
    assert_eq!(code, Some(0), "{words:?}: {document:#}");
    document
}

/// Makes an API key and returns the file that holds it, and its id.
fn key(cluster: &Cluster, name: &str, words: &[&str]) -> (PathBuf, String) {
    let made = admin(cluster, &[&["key", "create"], words].concat(), "");
    let file = cluster.path(name);
    fs::write(&file, format!("{}\n", made["key"].as_str().unwrap())).unwrap();
    (file, made["id"].as_str().unwrap().to_owned())
}

#[test]
fn an_api_key_moves_a_tree_until_it_is_revoked() {
    let cluster = Cluster::start(2, 1);
    let hand = Hand { cluster: &cluster, contexts: cluster.cluster_directory().join("contexts.toml") };
    let source = cluster.path("shop");
    tree::plain(&source, 20, 100).unwrap();
    let from = format!("agent-1:{}", source.display());
    let to = format!("agent-2:{}", cluster.path("moved").display());
    let (operator, id) = key(&cluster, "operator.key", &["--role", "operator", "--expires", "1h"]);
    let (viewer, _) = key(&cluster, "viewer.key", &["--role", "viewer"]);
    let key_of_admin = key(&cluster, "admin.key", &["--role", "admin"]);
    let (narrow, _) = key(&cluster, "narrow.key", &["--role", "operator", "--scope", "host:agent-1"]);

    // The context tells how the cluster is known, and the key who calls: its certificate is not needed.
    admin(&cluster, &["logout"], "");
    let migrate = ["migrate", from.as_str(), to.as_str(), "--yes"];
    for (file, code) in [(&viewer, 3), (&narrow, 4)] {
        let (ended, refused) = hand.with_key(file, &migrate);
        assert_eq!(ended, Some(code), "{refused:#}");
    }
    assert_eq!(hand.with_key(&narrow, &["host", "list"]).1.as_array().unwrap().len(), 1);
    let (code, moved) = hand.with_key(&operator, &migrate);
    assert_eq!((code, moved["verified"].as_bool()), (Some(0), Some(true)), "{moved:#}");
    assert!(cluster.path("moved").exists());
    let by_variable = fs::read_to_string(&operator).unwrap();
    let (code, who) = hand.run(hand.command().env("CTL_API_KEY", by_variable).arg("whoami"), "");
    assert_eq!((code, who["principal"].as_str()), (Some(0), Some(format!("key:default/{id}").as_str())));
    assert_eq!(hand.ctl(&["list"]).0, Some(3), "without key and certificate");

    assert_eq!(hand.with_key(&operator, &["key", "revoke", &id]).0, Some(3), "an operator revokes keys");
    let (admin_key, _) = key_of_admin;
    assert_eq!(hand.with_key(&admin_key, &["key", "revoke", &id]).0, Some(0));
    assert_eq!(hand.with_key(&operator, &["list"]).0, Some(3), "a revoked key");
}

#[test]
fn a_person_logs_in_from_a_machine_that_knows_nothing() {
    let cluster = Cluster::start(1, 1);
    let user = admin(&cluster, &["user", "create", "eve", "--role", "viewer"], PASSWORD);
    let eve = Hand::new(&cluster, "eves");
    let (code, refused) = eve.login(&user, "not the password at all");
    assert_eq!(code, Some(3), "{refused:#}");
    assert!(!eve.contexts.exists(), "a refused login leaves a context");
    let (code, logged_in) = eve.login(&user, PASSWORD);
    assert_eq!(code, Some(0), "{logged_in:#}");
    assert_eq!(logged_in["who"]["principal"], "user:default/eve");
    let mode = || fs::metadata(&eve.contexts).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    assert_eq!(eve.ctl(&["host", "list"]).1.as_array().unwrap().len(), 1);
    assert_eq!(eve.ctl(&["host", "drain", "agent-1"]).0, Some(3));
    let twice = format!("{PASSWORD}\nanother long password\n");
    let (code, changed) = eve.run(eve.command().args(["user", "password"]), &twice);
    assert_eq!(code, Some(0), "{changed:#}");
    assert_eq!(eve.login(&user, PASSWORD).0, Some(3), "the old password");
    assert_eq!(eve.login(&user, "another long password\n").0, Some(0));

    fs::set_permissions(&eve.contexts, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, refused) = eve.ctl(&["list"]);
    assert_eq!(code, Some(3), "{refused:#}");
    assert!(refused.to_string().contains("chmod 600"), "{refused:#}");
    fs::set_permissions(&eve.contexts, fs::Permissions::from_mode(0o600)).unwrap();

    admin(&cluster, &["user", "disable", "eve"], "");
    let (code, refused) = eve.ctl(&["list"]);
    assert_eq!(code, Some(3), "{refused:#}");
    assert_eq!(eve.login(&user, "another long password\n").0, Some(3));
}

#[test]
fn tenants_see_nothing_of_each_other() {
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("shop");
    tree::plain(&source, 5, 100).unwrap();
    let (code, moved) = cluster.migrate(&source, &cluster.path("moved"), &[]);
    assert_eq!(code, Some(0), "{moved:#}");
    admin(&cluster, &["tenant", "create", "acme"], "");
    admin(&cluster, &["tenant", "limit", "acme", "--migrations", "2"], "");
    let words = ["--tenant", "acme", "user", "create", "bob", "--role", "admin"];
    let user = admin(&cluster, &words, PASSWORD);
    let bob = Hand::new(&cluster, "bobs");
    assert_eq!(bob.login(&user, PASSWORD).0, Some(0));
    for list in [&["list"][..], &["host", "list"], &["key", "list"]] {
        assert_eq!(bob.ctl(list), (Some(0), Value::Array(Vec::new())), "{list:?}");
    }
    let id = moved["id"].as_str().unwrap();
    let told =
        |name: &str, answer: (Option<i32>, Value)| (answer.0, answer.1.to_string().replace(name, "NAME"));
    for verb in ["status", "report", "cancel", "rollback"] {
        let foreign = told(id, bob.ctl(&[verb, id, "--yes"]));
        assert_eq!(foreign.0, Some(4), "{verb}: {}", foreign.1);
        assert_eq!(foreign, told("bbbbbbbbbb", bob.ctl(&[verb, "bbbbbbbbbb", "--yes"])), "{verb}");
    }
    let foreign = told("default", bob.ctl(&["--tenant", "default", "host", "list"]));
    assert_eq!(foreign, told("nowhere", bob.ctl(&["--tenant", "nowhere", "host", "list"])));
    assert_eq!(bob.ctl(&["tenant", "list"]).0, Some(3));
    // The admin of the cluster looks after the tenant and sees nothing of what is in it.
    assert_eq!(bob.ctl(&["host", "enroll", "web1"]).0, Some(0));
    let hand = Hand { cluster: &cluster, contexts: cluster.cluster_directory().join("contexts.toml") };
    assert_eq!(hand.ctl(&["--tenant", "acme", "host", "list"]).0, Some(4));
    assert_eq!(hand.ctl(&["--tenant", "acme", "user", "list"]).1.as_array().unwrap().len(), 1);
}

#[test]
fn a_revoked_host_is_cut_off_by_its_peers() {
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("shop");
    tree::plain(&source, 200, 100_000).unwrap();
    // So slow that it cannot end meanwhile.
    let id = cluster.migrate_detached(&source, &cluster.path("moved"), &["--bandwidth", "64KiB"]);
    cluster.wait_for(&id, "bytes to flow", |migration| migration["bytes_done"].as_u64() > Some(0));
    let log = cluster.cluster_directory().join("logs/agent-2.log");
    admin(&cluster, &["host", "revoke", "agent-1", "--yes"], "");
    // On a busy machine the connection may be between two attempts; that one is cut has a test of its own.
    tests::wait::until("the peer to be told", Duration::from_secs(180), || {
        fs::read_to_string(&log).ok()?.contains("a peer was revoked").then_some(())
    });
    let migration = cluster.wait_for_end(&id);
    assert_eq!(migration["status"], "rolled_back", "{migration:#}");
    let error = &migration["errors"][0];
    assert_eq!((&error["kind"], &error["retry"]), (&"denied".into(), &"never".into()), "{error:#}");
    assert!(error["message"].as_str().unwrap().contains("it was revoked"), "{error:#}");
    assert!(!cluster.path("moved").exists());
}
