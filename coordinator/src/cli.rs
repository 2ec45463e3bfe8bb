//! The command line. The comments of the types are the manual.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::digest::Digest;
use common::id::OperatorName;

/// Coordinates migrations: keeps plans, leases and progress, replicated over one to seven nodes.
///
/// The first node is made with `init`, further ones with `join`; both are then run with `serve`.
#[derive(Debug, Parser)]
#[command(name = "drover-coordinator", version, max_term_width = 100)]
pub struct Cli {
    /// Which log lines are shown, as `info` or `coordinator=debug`; wins over RUST_LOG and the settings
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new cluster with this node as its first
    Init(InitArgs),
    /// Let this node join a cluster, with the command that `ctl cluster add` printed
    Join(JoinArgs),
    /// Run this node until it is told to stop
    Serve(ServeArgs),
    /// Write a context for one more operator, or for one whose certificate ends
    Context(ContextArgs),
}

/// Makes the cluster's authority, its key, this node's identity, and a context for its first operator.
///
/// The cluster key seals everything secret in the cluster's state. Unless one is there already (in the file, as systemd
/// credential `cluster.key`, or in DROVER_CLUSTER_KEY), it is written to `cluster.key` in the state directory. Keep a
/// copy in a safe place: without it a backup of the state opens nothing.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The settings; by default /etc/drover/coordinator.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the operator's context is written; by default ~/.config/drover/contexts.toml
    #[arg(long, value_name = "FILE")]
    pub context_out: Option<PathBuf>,
    /// The name of the operator's context
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub context_name: String,
}

/// Gets this node's certificate and the cluster key, with a one-time token.
///
/// The node becomes a member when it is served for the first time.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The settings; by default /etc/drover/coordinator.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The one-time token
    #[arg(long)]
    pub token: String,
    /// The digest of the cluster's authority, against which the coordinator is checked
    #[arg(long, value_name = "DIGEST")]
    pub ca_digest: Digest,
    /// Where coordinators of the cluster are reached
    #[arg(required = true, value_name = "HOST:PORT")]
    pub coordinators: Vec<String>,
}

/// Runs this node: agents and operators are served on one port, the other nodes on another.
///
/// The first SIGTERM or SIGINT hands leadership over and ends in order; a second one ends at once.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The settings; by default /etc/drover/coordinator.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Issues a certificate for an operator, good for 90 days, and writes it into a file of contexts for `ctl`.
///
/// It needs the cluster key and may be done while this node runs.
#[derive(Debug, Args)]
pub struct ContextArgs {
    /// The settings; by default /etc/drover/coordinator.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whose certificate it is; every change is recorded under this name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: OperatorName,
    /// Where the context is written; by default ~/.config/drover/contexts.toml
    #[arg(long, value_name = "FILE")]
    pub context_out: Option<PathBuf>,
    /// The name of the context
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub context_name: String,
}
