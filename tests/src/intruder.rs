//! A hostile agent beside a cluster: it joins with a real token and then follows a plan of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::wait;

/// How long joining and connecting may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A hostile agent that runs; dropping it ends it.
#[derive(Debug)]
pub struct Intruder {
    plan: PathBuf,
    child: Child,
}

impl Intruder {
    /// Joins a cluster as host `name` and serves as a hostile `role`: `source` or `destination`.
    ///
    /// # Panics
    /// When it cannot join, or does not connect.
    pub fn join(cluster: &Cluster, name: &str, role: &str) -> Self {
        let (code, join) = cluster.json(&["host", "enroll", name]);
        assert_eq!(code, Some(0), "{join:#}");
        let directory = cluster.path(name);
        std::fs::create_dir(&directory).expect("a directory can be made");
        let (config, plan) = (directory.join("agent.toml"), directory.join("plan"));
        let text =
            format!("state_dir = '{}'\nlisten_data = '127.0.0.1:0'\n", directory.join("state").display());
        std::fs::write(&config, text).expect("a file can be written");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let joined = Command::new(cluster.path("bin").join("drover-agent"))
            .args(["join", "--name", name, "--token", &text(&join["token"])])
            .args(["--ca-digest", &text(&join["ca_digest"]), "--config"])
            .arg(&config)
            .args(join["coordinators"].as_array().expect("a list").iter().map(text))
            .output()
            .expect("the agent runs");
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        let child = start(role, &config, &plan, &directory.join("log"));
        let intruder = Self { plan, child };
        wait::until("the intruder to connect", DEADLINE, || {
            let (_, host) = cluster.json(&["host", "show", name]);
            (host["connected"] == true).then_some(())
        });
        intruder
    }

    /// Names the attack that the next connection or step gets; `aim` may be empty.
    ///
    /// # Panics
    /// When the plan cannot be written.
    pub fn plan(&self, attack: &str, aim: &str) {
        let next = self.plan.with_extension("next");
        std::fs::write(&next, format!("{attack} {aim}")).expect("a file can be written");
        std::fs::rename(&next, &self.plan).expect("a file can be renamed");
    }

    /// Returns the file into which a hostile destination writes what it got.
    pub fn loot(&self) -> PathBuf {
        self.plan.with_extension("loot")
    }

    /// Returns the file into which a hostile source writes the ticket that its victim showed.
    pub fn stolen_ticket(&self) -> PathBuf {
        self.plan.with_extension("ticket")
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start(role: &str, config: &Path, plan: &Path, log: &Path) -> Child {
    let built = std::env::current_exe().expect("the test has a path");
    let built = built.parent().and_then(Path::parent).expect("the test stands in target/PROFILE/deps");
    let mut command = Command::new(built.join("hostile"));
    command.arg(role).arg(config).arg(plan);
    let log = std::fs::File::create(log).expect("a log can be made");
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("the intruder runs")
}
