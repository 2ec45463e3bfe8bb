//! The settings of the daemons of a local cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use common::failure::{Failure, FailureKind};
use serde::Serialize;

use super::layout::Layout;
use super::record::{Process, Role};
use crate::failure::CommandError;

/// `coordinator.toml`.
#[derive(Debug, Serialize)]
struct CoordinatorSettings<'a> {
    name: &'a str,
    state_dir: PathBuf,
    listen_api: SocketAddr,
    listen_raft: SocketAddr,
    cluster_key_file: PathBuf,
}

/// `agent.toml`.
#[derive(Debug, Serialize)]
struct AgentSettings {
    state_dir: PathBuf,
    listen_data: SocketAddr,
    advertise_data: Vec<SocketAddr>,
}

/// Returns the settings of a process as TOML.
pub(super) fn text(layout: &Layout, process: &Process) -> Result<String, CommandError> {
    let state_dir = layout.state_dir(&process.name);
    let text = match process.role {
        Role::Coordinator => toml::to_string(&CoordinatorSettings {
            name: &process.name,
            state_dir,
            listen_api: address(process, 0)?,
            listen_raft: address(process, 1)?,
            cluster_key_file: layout.cluster_key_file(&process.name),
        }),
        Role::Agent => {
            let listen_data = address(process, 0)?;
            toml::to_string(&AgentSettings { state_dir, listen_data, advertise_data: vec![listen_data] })
        }
    };
    Ok(text.map_err(|error| Failure::of(FailureKind::Bug, &error))?)
}

/// Returns the address of one of a process's ports.
pub(super) fn address(process: &Process, at: usize) -> Result<SocketAddr, CommandError> {
    let port = process.ports.get(at).ok_or_else(|| {
        let message = format!("the record of the local cluster names too few ports for {}", process.name);
        Failure::new(FailureKind::Invalid, message).hint("make the cluster anew in an empty folder")
    })?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
}
