//! The coordinator: plans, leases and progress of all migrations, replicated; certificates; and the doors for agents,
//! operators and the other nodes.

pub mod access;
pub mod audit;
pub mod cli;
pub mod config;
pub mod disk;
pub mod grpc;
pub mod hub;
pub mod init;
pub mod join;
pub mod live;
pub mod membership;
pub mod migrate;
pub mod node;
pub mod pki;
pub mod planner;
pub mod raft;
pub mod reconcile;
pub mod rotate;
pub mod saga;
pub mod state;
pub mod vault;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::dump;
use common::failure::{Failure, FailureKind};
use common::telemetry::{self, LogForm};
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command, ContextArgs, InitArgs, JoinArgs, ServeArgs};
use config::Settings;
use node::Node;
use vault::keyring::KeySources;

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    // A second provider would be refused, and there is none.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::of(FailureKind::Exhausted, &error)),
    };
    let done = runtime.block_on(run(cli));
    // Whatever is still blocked in the kernel then ends with the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let config = match &cli.command {
        Command::Init(InitArgs { config, .. })
        | Command::Join(JoinArgs { config, .. })
        | Command::Serve(ServeArgs { config })
        | Command::Context(ContextArgs { config, .. }) => config.clone(),
    };
    let settings = Settings::open(config.as_deref())?;
    let quiet = match &cli.command {
        // What openraft tells below `error` is for its own developers.
        Command::Serve(_) => "info,openraft=error",
        Command::Init(_) | Command::Join(_) | Command::Context(_) => "warn,openraft=off",
    };
    let asked = cli.log.as_deref().or(settings.log.as_deref());
    let is_asked_by_environment = std::env::var_os("RUST_LOG").is_some();
    telemetry::init(asked.or((!is_asked_by_environment).then_some(quiet)), LogForm::Text);
    dump::forbid();
    let sources =
        KeySources::of_environment(settings.cluster_key_file(), settings.cluster_key_command.clone());
    match cli.command {
        Command::Init(args) => init_command(&settings, &sources, args).await,
        Command::Join(args) => {
            let JoinArgs { config: _, token, ca_digest, coordinators } = args;
            let membership = join::join(&settings, &sources, &token, ca_digest, coordinators).await?;
            say(&format!(
                "`{}` joined cluster {}.\nStart it with `drover-coordinator serve`.\n",
                membership.name, membership.cluster
            ))
        }
        Command::Serve(_) => serve(&settings, &sources).await,
        Command::Context(args) => context_command(&settings, &sources, args),
    }
}

async fn init_command(settings: &Settings, sources: &KeySources, args: InitArgs) -> Result<(), Failure> {
    let context_file = args.context_out.map_or_else(default_context_file, Ok)?;
    let made = init::init(settings, sources, &context_file, &args.context_name).await?;
    say(&format!(
        "Cluster {} is made, with `{}` as its first node.\nStart it with `drover-coordinator serve`, then try `ctl cluster status`.\nThe context `{}` is in {}; the cluster key is in {}: keep a copy in a safe place.\n",
        made.cluster,
        settings.name,
        made.context,
        context_file.display(),
        settings.cluster_key_file().display(),
    ))
}

fn context_command(settings: &Settings, sources: &KeySources, args: ContextArgs) -> Result<(), Failure> {
    let ContextArgs { config: _, operator, context_out, context_name } = args;
    let file = context_out.map_or_else(default_context_file, Ok)?;
    let made = init::context(settings, sources, &operator, &file, &context_name)?;
    say(&format!(
        "The context `{}` of operator `{operator}` is in {}, good for 90 days.\n",
        made.context,
        file.display()
    ))
}

/// Serves until a signal, a failure of raft, or a second signal while it ends.
async fn serve(settings: &Settings, sources: &KeySources) -> Result<(), Failure> {
    raise_file_limit();
    let signals = |kind| signal(kind).map_err(|error| Failure::of(FailureKind::Bug, &error));
    let (mut terminate, mut interrupt) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let node = Node::start(settings, sources).await?;
    tracing::info!(name = %settings.name, api = %node.api_address(), version = env!("CARGO_PKG_VERSION"), "serving");
    notify(&[sd_notify::NotifyState::Ready]);
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = node.failed() => Some(failure),
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => tracing::info!("stopped in order"),
        _ = terminate.recv() => tracing::warn!("stopped at once by a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopped at once by a second signal"),
    }
    failure.map_or(Ok(()), Err)
}

/// Tells systemd, if it started this process.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// A connection is a file, and the soft limit of many systems is 1 024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn default_context_file() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    home.map(|home| home.join("drover/contexts.toml")).ok_or_else(|| {
        Failure::new(FailureKind::Invalid, "there is no home directory for the operator's context")
            .hint("name a file with --context-out")
    })
}

fn say(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::of(FailureKind::Unreachable, &error))
}

/// Says what went wrong and what to do, and returns the exit code.
fn report(failure: &Failure) -> ExitCode {
    let mut text = format!("error: {}\n", failure.message);
    for (field, value) in &failure.context {
        text.push_str(&format!("  {field}: {value}\n"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Without a stderr there is nobody to tell; the exit code remains.
    drop(std::io::stderr().write_all(text.as_bytes()));
    ExitCode::from(failure.kind.exit_code())
}
