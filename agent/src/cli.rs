//! The agent's command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use common::digest::Digest;
use common::dump;
use common::failure::{Failure, FailureKind};
use common::id::HostName;
use common::secret::Secret;
use common::telemetry;
use transfer::SERVED_THREADS_MAX;

use crate::config::{DEFAULT_PATH, Settings};
use crate::daemon;
use crate::link::enroll::{self, Invitation};
use crate::state_dir::StateDir;
use crate::step::executor::ATTEMPTS_MAX;
use crate::step::registry::STEPS;

/// Threads that run tasks. The agent waits more than it computes, and every thread costs memory while it is idle.
const WORKER_THREADS_MAX: usize = 4;
/// Short calls beside the long ones: flushes of the journal, looks at roots, questions, secrets that are read here.
const SHORT_CALLS_MAX: usize = 64;
/// Threads for what blocks: as many as may work for long at once, so that no short call ever waits for a transfer to
/// end. They are started when they are needed, and end when they have had nothing to do for a while.
const BLOCKING_THREADS_MAX: usize = SERVED_THREADS_MAX + ATTEMPTS_MAX + SHORT_CALLS_MAX;

/// The agent of Drover: runs the steps of migrations on this host.
///
/// It joins a cluster once, with the command that `ctl host enroll NAME` prints, and then serves: it dials the
/// coordinator, and exchanges files with other agents directly. It needs outgoing TCP to the coordinators (7400), and
/// its data port (7443) has to be reachable from the agents that read from this host.
#[derive(Debug, Parser)]
#[command(name = "drover-agent", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this host a member of a cluster.
    ///
    /// `ctl host enroll NAME` prints this command whole. The host's key is made here and never leaves it; the token
    /// counts once, for a quarter of an hour; and the coordinator is believed only if its authority has the digest that
    /// the command names.
    Join(Join),
    /// Serve: run the steps that the coordinator grants, until SIGTERM or SIGINT.
    ///
    /// Running steps stop at a safe point and go on after the next start. A second signal does not wait for them.
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Join {
    /// The agent's configuration; without it /etc/drover/agent.toml, if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The name under which this host is registered.
    #[arg(long, value_name = "NAME")]
    name: HostName,
    /// The one-time token.
    #[arg(long, value_name = "TOKEN", env = "DROVER_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// The digest of the cluster authority's certificate.
    #[arg(long, value_name = "DIGEST")]
    ca_digest: Digest,
    /// Addresses of coordinators.
    #[arg(value_name = "HOST:PORT", required = true)]
    coordinators: Vec<String>,
}

#[derive(Debug, Args)]
struct Serve {
    /// The agent's configuration; without it /etc/drover/agent.toml, if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged, in the form of RUST_LOG; wins over the configuration.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Runs a command.
///
/// # Errors
/// With whatever stopped it.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    // An error means that there is one already, which is as good: there is only this one.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    match arguments.command {
        Command::Join(arguments) => join(arguments),
        Command::Serve(arguments) => serve(arguments),
    }
}

fn join(arguments: Join) -> Result<(), Failure> {
    let Join { config, name, token, ca_digest, coordinators } = arguments;
    let settings = settings(config.as_deref(), None)?;
    let state_dir = StateDir::lock(&settings.state_dir)?;
    let invitation = Invitation { name, token: Secret::new(token), ca_digest, coordinators };
    let membership = runtime()?.block_on(enroll::join(&state_dir, &invitation))?;
    let config = config.map(|path| format!(" --config {}", path.display())).unwrap_or_default();
    let text = format!(
        "This host is now {} of tenant {}.\nStart the agent with `drover-agent serve{config}`, or \
         `systemctl enable --now drover-agent` where it was installed as a package.\n",
        membership.name, membership.tenant
    );
    // Whoever closed stdout does not want to know.
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    Ok(())
}

fn serve(arguments: Serve) -> Result<(), Failure> {
    let settings = settings(arguments.config.as_deref(), arguments.log)?;
    runtime()?.block_on(daemon::run(settings, STEPS))
}

/// Reads the settings and sets up the log that they ask for.
fn settings(path: Option<&Path>, log: Option<String>) -> Result<Settings, Failure> {
    let settings = Settings::load(path).map_err(|error| {
        let used = path.unwrap_or(Path::new(DEFAULT_PATH));
        Failure::from(error).context("configuration", used.display().to_string())
    })?;
    telemetry::init(log.as_deref().or(settings.log.as_deref()), settings.log_form.into());
    dump::forbid();
    Ok(settings)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.clamp(2, WORKER_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|error| Failure::of(FailureKind::Exhausted, &error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let digest = "0".repeat(64);
        let join = ["drover-agent", "join", "--name", "web1", "--token", "t", "--ca-digest", &digest];
        assert!(Arguments::try_parse_from(join).is_err(), "a join without an address was taken");
        let whole = join.into_iter().chain(["10.0.0.1:7400", "10.0.0.2:7400"]);
        assert!(Arguments::try_parse_from(whole).is_ok());
    }

    #[test]
    fn a_short_call_finds_a_thread_whatever_is_served_and_run() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let called = runtime().unwrap().block_on(async {
            for _ in 0..SERVED_THREADS_MAX + ATTEMPTS_MAX {
                let held = std::sync::Arc::clone(&held);
                tokio::task::spawn_blocking(move || held.lock().unwrap().recv().is_err());
            }
            let call = tokio::task::spawn_blocking(|| 7);
            let called = tokio::time::timeout(std::time::Duration::from_secs(60), call).await;
            drop(release);
            called.is_ok()
        });
        assert!(called, "it waits for a transfer to end");
    }
}
