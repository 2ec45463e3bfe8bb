//! Bringing a local cluster up, from wherever it stands.
//!
//! Every step is remembered in the record before the next one, so a start that was interrupted goes on where it ended.
//! The order: the first node, further nodes one by one, agents together; what belongs to the cluster already is
//! started at once. Ready means a leader, only voters, and every agent connected.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::clock;
use common::context::Contexts;
use common::failure::{Failure, FailureKind};
use common::view::{ClusterView, HostView, JoinView};

use super::binary::Binaries;
use super::layout::Layout;
use super::process::Birth;
use super::record::{Process, Record, Role};
use super::settings_file;
use crate::client::Client;
use crate::failure::CommandError;
use crate::output::Output;

/// The name of the context of a local cluster.
const CONTEXT: &str = "dev";
/// How long the start of a cluster may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one question may take while the cluster starts; then the processes are looked at again.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How often the cluster is asked, and a child is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of a log that an error shows, from its end.
const LOG_TAIL_BYTES: usize = 4096;
/// Lines of a log that an error shows.
const LOG_TAIL_LINES: usize = 15;

/// A start under way.
#[derive(Debug)]
pub(super) struct Start<'a> {
    output: &'a Output,
    layout: Layout,
    binaries: Binaries,
    record: Record,
    started: Vec<String>,
    /// How long each process's log was before; what is older explains nothing.
    log_bytes: Vec<u64>,
}

impl<'a> Start<'a> {
    /// Begins a start of what the record names.
    pub(super) fn new(output: &'a Output, layout: Layout, binaries: Binaries, record: Record) -> Self {
        let log_bytes = |process: &Process| {
            std::fs::metadata(layout.log_file(&process.name)).map_or(0, |metadata| metadata.len())
        };
        let log_bytes = record.processes.iter().map(log_bytes).collect();
        Self { output, layout, binaries, record, started: Vec::new(), log_bytes }
    }

    /// Starts what does not run, and waits until the cluster is ready.
    pub(super) async fn run(&mut self) -> Result<(), CommandError> {
        self.record.write(&self.layout.record_file())?;
        for process in &self.record.processes {
            let path = self.layout.settings_file(&process.name);
            // Settings that exist are left alone: a developer may have changed them.
            if !path.exists() {
                let text = settings_file::text(&self.layout, process)?;
                common::atomic_file::write(&path, text.as_bytes(), 0o600)
                    .map_err(|error| CommandError::io("writing", path.display(), &error))?;
            }
        }
        self.init().await?;
        self.write_lost_context().await?;
        for at in 0..self.record.processes.len() {
            if self.record.processes[at].is_member {
                self.serve(at)?;
            }
        }
        let client = self.client()?;
        self.cluster_ready(&client).await?;
        self.join_nodes(&client).await?;
        self.join_agents(&client).await?;
        self.agents_ready(&client).await
    }

    /// Returns the record, and the names of what was started.
    pub(super) fn finish(self) -> (Record, Vec<String>) {
        (self.record, self.started)
    }

    /// Makes the cluster, unless it exists.
    async fn init(&mut self) -> Result<(), CommandError> {
        if self.record.processes[0].is_member {
            return Ok(());
        }
        self.write_context("init").await?;
        self.name_all_nodes(&self.layout.context_file())?;
        self.become_member(0)
    }

    /// Writes the context anew when its file is gone.
    async fn write_lost_context(&self) -> Result<(), CommandError> {
        if self.layout.context_file().exists() { Ok(()) } else { self.write_context("context").await }
    }

    /// Has the first node write the context by one of its commands.
    async fn write_context(&self, command: &str) -> Result<(), CommandError> {
        let mut arguments =
            [command, "--context-name", CONTEXT, "--context-out"].map(OsString::from).to_vec();
        arguments.push(self.layout.context_file().into_os_string());
        self.step(0, &arguments).await
    }

    /// Puts the addresses of nodes that are still to come into the context that `init` wrote.
    fn name_all_nodes(&self, path: &Path) -> Result<(), CommandError> {
        let mut contexts = Contexts::open(path)?;
        let mut context = contexts.find(path, Some(CONTEXT))?.clone();
        context.coordinators = Vec::new();
        for node in self.record.of_role(Role::Coordinator) {
            context.coordinators.push(settings_file::address(node, 0)?.to_string());
        }
        contexts.contexts.insert(CONTEXT.to_owned(), context);
        contexts.current = CONTEXT.to_owned();
        Ok(contexts.write(path)?)
    }

    fn client(&self) -> Result<Client, CommandError> {
        let path = self.layout.context_file();
        let contexts = Contexts::open(&path)?;
        let context = contexts.find(&path, Some(CONTEXT))?;
        if context.certificate.is_empty() {
            let message = format!("the context in {} holds no certificate any more", path.display());
            let hint = "remove that file: `ctl dev up` then writes it anew";
            return Err(Failure::new(FailureKind::Unauthenticated, message).hint(hint).into());
        }
        Ok(Client::new(context, None, None)?.asking_for(ASK_DEADLINE))
    }

    /// Adds the nodes that do not belong to the cluster yet, one by one.
    async fn join_nodes(&mut self, client: &Client) -> Result<(), CommandError> {
        for at in 0..self.record.processes.len() {
            let process = &self.record.processes[at];
            if process.role == Role::Coordinator && !process.is_member {
                let join = client.enroll_node(&name(process)?).await?;
                self.step(at, &join_arguments(&join)).await?;
                self.become_member(at)?;
                self.serve(at)?;
                self.cluster_ready(client).await?;
            }
        }
        Ok(())
    }

    /// Adds the agents that do not belong to the cluster yet, together.
    async fn join_agents(&mut self, client: &Client) -> Result<(), CommandError> {
        let mut joining = Vec::new();
        for (at, process) in self.record.processes.iter().enumerate() {
            if process.role == Role::Agent && !process.is_member {
                let join = client.enroll_host(&name(process)?).await?;
                let mut arguments = join_arguments(&join);
                arguments.extend([OsString::from("--name"), OsString::from(&process.name)]);
                joining.push((at, self.begin_step(at, &arguments)?));
            }
        }
        for (at, child) in joining {
            self.end_step(at, child).await?;
            self.become_member(at)?;
            self.serve(at)?;
        }
        Ok(())
    }

    /// Waits until there is a leader and every node that belongs to the cluster votes.
    async fn cluster_ready(&self, client: &Client) -> Result<(), CommandError> {
        let nodes = self.record.of_role(Role::Coordinator).filter(|node| node.is_member).count();
        let is_ready = |cluster: &ClusterView| {
            let is_voter = |role: &str| matches!(role, "leader" | "follower");
            let voters = cluster.members.iter().filter(|member| is_voter(&member.role)).count();
            cluster.leader.is_some() && voters == cluster.members.len() && voters >= nodes
        };
        let ask = async || Ok(is_ready(&client.cluster().await?));
        self.wait("a leader and all nodes voting", ask).await
    }

    /// Waits until every agent is connected.
    async fn agents_ready(&self, client: &Client) -> Result<(), CommandError> {
        let is_connected = |hosts: &[HostView], agent: &Process| {
            hosts.iter().any(|host| host.name.as_str() == agent.name && host.connected)
        };
        let ask = async || {
            let hosts = client.hosts().await?;
            Ok(self.record.of_role(Role::Agent).all(|agent| is_connected(&hosts, agent)))
        };
        self.wait("all agents connected", ask).await
    }

    /// Asks until the answer is yes, as long as every process runs.
    async fn wait(
        &self,
        what: &str,
        ask: impl AsyncFn() -> Result<bool, Failure>,
    ) -> Result<(), CommandError> {
        let since = clock::boot();
        loop {
            let failure = match ask().await {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(failure) => Some(failure),
            };
            let has_ended = |process: &Process| process.is_member && !process.is_running();
            if let Some(at) = self.record.processes.iter().position(has_ended) {
                return Err(self.broken(at, "ended while the cluster was starting"));
            }
            if clock::boot().since(since) >= PATIENCE {
                let seconds = PATIENCE.as_secs();
                let waited = Failure::new(FailureKind::Timeout, format!("waited {seconds} s for {what}"))
                    .hint(format!("look into {}", self.layout.dir().join("logs").display()));
                return Err(failure
                    .into_iter()
                    .fold(waited, |waited, last| waited.context("last", last.message))
                    .into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Starts the daemon of a process, unless it runs.
    fn serve(&mut self, at: usize) -> Result<(), CommandError> {
        let process = &self.record.processes[at];
        if process.is_running() {
            return Ok(());
        }
        let settings = self.layout.settings_file(&process.name);
        let arguments = ["serve".into(), "--config".into(), settings.into_os_string()];
        let log = self.log(&process.name)?;
        let birth = Birth::start(self.program(process.role), &arguments, log, self.layout.dir())
            .map_err(|error| CommandError::io("starting", &process.name, &error))?;
        self.output.detail(format!("{} started, process {}", process.name, birth.pid));
        self.started.push(process.name.clone());
        self.record.processes[at].birth = Some(birth);
        self.record.write(&self.layout.record_file())
    }

    /// Remembers that a process belongs to the cluster.
    fn become_member(&mut self, at: usize) -> Result<(), CommandError> {
        self.record.processes[at].is_member = true;
        self.record.write(&self.layout.record_file())
    }

    /// Runs a daemon's program for a single step, as `init` or `join`.
    async fn step(&self, at: usize, arguments: &[OsString]) -> Result<(), CommandError> {
        let child = self.begin_step(at, arguments)?;
        self.end_step(at, child).await
    }

    fn begin_step(&self, at: usize, arguments: &[OsString]) -> Result<Child, CommandError> {
        let process = &self.record.processes[at];
        let fail = |error: &io::Error| CommandError::io("starting", &process.name, error);
        let log = self.log(&process.name)?;
        Command::new(self.program(process.role))
            .args(arguments)
            .arg("--config")
            .arg(self.layout.settings_file(&process.name))
            .current_dir(self.layout.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| fail(&error))?)
            .stderr(log)
            .spawn()
            .map_err(|error| fail(&error))
    }

    async fn end_step(&self, at: usize, mut child: Child) -> Result<(), CommandError> {
        let name = &self.record.processes[at].name;
        let since = clock::boot();
        loop {
            match child.try_wait().map_err(|error| CommandError::io("waiting for", name, &error))? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return Err(self.broken(at, "could not be added to the local cluster")),
                None if clock::boot().since(since) >= PATIENCE => {
                    child.kill().map_err(|error| CommandError::io("stopping", name, &error))?;
                    return Err(self.broken(at, "took too long to be added to the local cluster"));
                }
                None => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    fn program(&self, role: Role) -> &Path {
        match role {
            Role::Coordinator => &self.binaries.coordinator,
            Role::Agent => &self.binaries.agent,
        }
    }

    fn log(&self, name: &str) -> Result<File, CommandError> {
        let path = self.layout.log_file(name);
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        open.map_err(|error| CommandError::io("opening", path.display(), &error))
    }

    /// Returns what is said of a process that did not do its part: with the last it said itself.
    fn broken(&self, at: usize, how: &str) -> CommandError {
        let name = &self.record.processes[at].name;
        let path = self.layout.log_file(name);
        let log = std::fs::read(&path).unwrap_or_default();
        let older = usize::try_from(self.log_bytes[at]).unwrap_or(usize::MAX).min(log.len());
        let lines = log_tail(&log[older..]);
        Failure::new(FailureKind::Unreachable, format!("{name} {how}"))
            .context("log", path.display().to_string())
            .context("last lines", lines)
            .hint("mend what the last lines say, and run the same command again")
            .into()
    }
}

/// Returns the arguments of `join`, without what differs between nodes and agents.
fn join_arguments(join: &JoinView) -> Vec<OsString> {
    let digest = join.ca_digest.to_string();
    let fixed = ["join", "--token", &join.token, "--ca-digest", &digest].map(OsString::from);
    fixed.into_iter().chain(join.coordinators.iter().map(OsString::from)).collect()
}

/// Parses the name that the cluster knows a process by.
fn name<N: std::str::FromStr<Err = common::id::InvalidId>>(process: &Process) -> Result<N, CommandError> {
    Ok(process.name.parse().map_err(|error| Failure::of(FailureKind::Invalid, &error))?)
}

/// Returns the last lines of a log.
fn log_tail(log: &[u8]) -> String {
    let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_end_of_a_log() {
        assert_eq!(log_tail(b"a\nb\n"), "a\nb");
        let long: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        let tail = log_tail(long.as_bytes());
        assert!(tail.starts_with("line 985\n") && tail.ends_with("line 999"), "{tail}");
    }
}
