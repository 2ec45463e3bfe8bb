//! A local cluster of real processes, made and ended by `ctl dev`.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::gate::{self, Gate};
use crate::wait;

/// How long a migration of a test may take on a busy machine with few cores.
const DEADLINE: Duration = Duration::from_secs(180);

/// A running cluster; dropping it ends every process and removes its directory.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    binaries: PathBuf,
    agents: u32,
    coordinators: u32,
    /// Whom everything runs as, if not as the test.
    user: Option<u32>,
}

/// How a run of `ctl` ended.
#[must_use]
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Returns the one JSON document that `--output json` prints.
    ///
    /// # Panics
    /// When standard output is anything else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("not one JSON document ({error}): {}\n{}", self.stdout, self.stderr)
        })
    }

    /// Asserts the exit code.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl Cluster {
    /// Starts a cluster and returns when it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(agents: u32, coordinators: u32) -> Self {
        Self::start_with(agents, coordinators, |_binaries| {})
    }

    /// Starts a cluster whose directory of programs `prepare` may change first.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_with(agents: u32, coordinators: u32, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_as(None, agents, coordinators, prepare)
    }

    /// Starts a cluster whose every process belongs to a user of no rights; the test must be root.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_unprivileged(agents: u32, coordinators: u32, user: u32) -> Self {
        Self::start_as(Some(user), agents, coordinators, |binaries| {
            let directory = binaries.parent().expect("it was made in one");
            std::os::unix::fs::chown(directory, Some(user), Some(user)).expect("root gives things away");
        })
    }

    fn start_as(user: Option<u32>, agents: u32, coordinators: u32, prepare: impl FnOnce(&Path)) -> Self {
        let directory =
            tempfile::Builder::new().prefix("drover-test-").tempdir().expect("a directory can be made");
        let binaries = directory.path().join("bin");
        std::fs::create_dir(&binaries).expect("a directory can be made");
        let built = std::env::current_exe().expect("the test has a path");
        let built = built.parent().and_then(Path::parent).expect("the test stands in target/PROFILE/deps");
        for (name, wrapper) in [
            ("drover-coordinator", "coordinator-under-test"),
            ("drover-agent", "agent-under-test"),
            ("ctl", "ctl-under-test"),
        ] {
            symlink(built.join(wrapper), binaries.join(name)).expect("a link can be made");
        }
        prepare(&binaries);
        let cluster = Self { directory, binaries, agents, coordinators, user };
        cluster.up();
        cluster
    }

    /// Starts what is not running and returns when the cluster is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(&self) {
        let agents = self.agents.to_string();
        let coordinators = self.coordinators.to_string();
        let outcome = self.ctl(
            &["dev", "up", "--agents", &agents, "--coordinators", &coordinators, "--dir"],
            &[&self.cluster_directory()],
        );
        assert_eq!(outcome.code, Some(0), "ctl dev up: {}\n{}", outcome.stdout, outcome.stderr);
    }

    /// Stops everything.
    ///
    /// # Panics
    /// When that fails.
    pub fn down(&self) {
        let outcome = self.ctl(&["dev", "down", "--dir"], &[&self.cluster_directory()]);
        assert_eq!(outcome.code, Some(0), "ctl dev down: {}\n{}", outcome.stdout, outcome.stderr);
    }

    /// Returns the directory in which tests make their trees.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the directory that `ctl dev` manages.
    pub fn cluster_directory(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    fn gate_file(&self) -> PathBuf {
        self.path("gate")
    }

    /// Closes the gate that every group of a move passes before it is committed.
    pub fn close_gate(&self) -> Gate {
        Gate::closed(self.gate_file())
    }

    /// Returns a `ctl` that sees nothing of the machine but this cluster.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binaries.join("ctl"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.directory.path())
            .env("DROVER_BIN_DIR", &self.binaries)
            .env("CTL_CONTEXT_FILE", self.cluster_directory().join("contexts.toml"))
            .env(gate::VARIABLE, self.gate_file())
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        for key in ["RUST_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command
    }

    /// Runs `ctl` to its end.
    pub fn ctl(&self, words: &[&str], paths: &[&Path]) -> Outcome {
        let output = self.command().args(words).args(paths).output().expect("ctl runs");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `ctl --output json` and returns what it printed with the exit code.
    pub fn json(&self, words: &[&str]) -> (Option<i32>, Value) {
        let outcome = self.ctl(&[&["--output", "json"], words].concat(), &[]);
        (outcome.code, outcome.json())
    }

    /// Moves a tree from `agent-1` to `agent-2` and returns the finished migration.
    pub fn migrate(&self, source: &Path, destination: &Path, flags: &[&str]) -> (Option<i32>, Value) {
        let from = format!("agent-1:{}", source.display());
        let to = format!("agent-2:{}", destination.display());
        self.json(&[&["migrate", &from, &to, "--yes"], flags].concat())
    }

    /// Starts a move from `agent-1` to `agent-2` and returns its id without waiting for its end.
    ///
    /// # Panics
    /// When it is refused.
    pub fn migrate_detached(&self, source: &Path, destination: &Path, flags: &[&str]) -> String {
        let (code, migration) = self.migrate(source, destination, &[&["--detach"], flags].concat());
        assert_eq!(code, Some(0), "{migration}");
        migration["id"].as_str().expect("a migration has an id").to_owned()
    }

    /// Returns what `ctl status` says of a migration.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn status(&self, id: &str) -> Value {
        let (code, migration) = self.json(&["status", id]);
        assert_eq!(code, Some(0), "{migration}");
        migration
    }

    /// Waits until `ctl status` can be asked and `condition` holds for its answer, which is returned.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for(&self, id: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, DEADLINE, || {
            let outcome = self.ctl(&["--output", "json", "status", id], &[]);
            let migration = (outcome.code == Some(0)).then(|| outcome.json())?;
            condition(&migration).then_some(migration)
        })
    }

    /// Waits until a migration has ended and returns it.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_end(&self, id: &str) -> Value {
        const ENDS: [&str; 5] = ["completed", "failed", "rolled_back", "cancelled", "stuck"];
        self.wait_for(id, "the end of the migration", |migration| {
            migration["status"].as_str().is_some_and(|status| ENDS.contains(&status))
        })
    }

    /// Returns the process ids by name, of the processes that run.
    ///
    /// # Panics
    /// When `ctl dev status` fails.
    pub fn processes(&self) -> BTreeMap<String, Pid> {
        let outcome = self.ctl(&["--output", "json", "dev", "status", "--dir"], &[&self.cluster_directory()]);
        let document = outcome.expect_code(0).json();
        let processes = document["processes"].as_array().cloned().unwrap_or_default();
        let running = processes.iter().filter(|process| process["running"] == true);
        running
            .filter_map(|process| {
                let pid = i32::try_from(process["pid"].as_i64()?).ok()?;
                Some((process["name"].as_str()?.to_owned(), Pid::from_raw(pid)?))
            })
            .collect()
    }

    /// Kills a process with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// When it was not running: a test that kills the dead proves nothing.
    pub fn kill(&self, name: &str) {
        self.signal(name, Signal::KILL);
        // A process that is still dying holds its ports and looks alive to `ctl dev up`.
        wait::until("a killed process to be gone", DEADLINE, || {
            (!self.processes().contains_key(name)).then_some(())
        });
    }

    /// Sends a signal to a process.
    ///
    /// # Panics
    /// When it was not running.
    pub fn signal(&self, name: &str, signal: Signal) {
        let processes = self.processes();
        let pid = processes.get(name).unwrap_or_else(|| panic!("{name} does not run: {processes:?}"));
        kill_process(*pid, signal).unwrap_or_else(|error| panic!("{name} could not be signalled: {error}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let outcome = self.ctl(&["dev", "down", "--dir"], &[&self.cluster_directory()]);
        if std::thread::panicking() {
            self.show_logs();
        } else {
            assert_eq!(outcome.code, Some(0), "ctl dev down: {}\n{}", outcome.stdout, outcome.stderr);
        }
    }
}

impl Cluster {
    /// Shows the end of every log, for a test that failed.
    fn show_logs(&self) {
        let Ok(logs) = std::fs::read_dir(self.cluster_directory().join("logs")) else { return };
        for log in logs.flatten() {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {}\n{}", log.path().display(), tail.join("\n"));
        }
    }
}
