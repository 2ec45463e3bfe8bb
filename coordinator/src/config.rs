//! The coordinator's settings: `coordinator.toml`, whose unknown keys are errors.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use common::failure::{Failure, FailureKind};
use common::id::{NodeName, TenantId};
use common::reference::Reference;
use serde::Deserialize;

use crate::audit::settings::AuditSettings;
use crate::reconcile::retention::RetentionSettings;

/// Where the settings are looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/drover/coordinator.toml";

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The node's name, unique in the cluster; by default the machine's name.
    pub name: NodeName,
    /// Where everything that lasts is kept.
    pub state_dir: PathBuf,
    /// Where agents and `ctl` are listened to.
    pub listen_api: SocketAddr,
    /// Where the other nodes are listened to.
    pub listen_raft: SocketAddr,
    /// What agents and `ctl` are told to connect to, as HOST:PORT; by default the listened address.
    pub advertise_api: Option<String>,
    /// What the other nodes are told to connect to, as HOST:PORT; by default the listened address.
    pub advertise_raft: Option<String>,
    /// Where the cluster key is, unless it comes from the environment or from systemd; by default below `state_dir`.
    pub cluster_key_file: Option<PathBuf>,
    /// How the audit is kept and anchored.
    pub audit: AuditSettings,
    /// How long migrations that ended are kept.
    pub retention: RetentionSettings,
    /// A command that prints the cluster key, as a list of words; no shell reads it. Wins over the file.
    pub cluster_key_command: Vec<String>,
    /// Where `${vault:…}` is looked up, by tenant.
    pub vault: BTreeMap<TenantId, VaultSettings>,
    /// Shown to operators with errors.
    pub support_contact: Option<String>,
    /// Which log lines are shown, in the form of `RUST_LOG`; the flag `--log` wins.
    pub log: Option<String>,
}

/// A HashiCorp Vault, version 2 of its key-value engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// Its address, as `https://vault.example:8200`.
    pub address: String,
    /// Where its token stands: `${file:/PATH}`, `${env:NAME}` or `${secret:NAME}` of the tenant.
    pub token: Reference,
    /// The authority that its certificate is checked against, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// The namespace, where the vault has any.
    pub namespace: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            name: machine_name(),
            state_dir: PathBuf::from("/var/lib/drover/coordinator"),
            listen_api: any(7400),
            listen_raft: any(7401),
            advertise_api: None,
            advertise_raft: None,
            cluster_key_file: None,
            audit: AuditSettings::default(),
            retention: RetentionSettings::default(),
            cluster_key_command: Vec::new(),
            vault: BTreeMap::new(),
            support_contact: None,
            log: None,
        }
    }
}

impl Settings {
    /// Reads the named file, or the default one, whose absence means the defaults.
    ///
    /// # Errors
    /// When the file cannot be read, or holds an unknown key or a value of another kind.
    pub fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let shown = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(shown) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let message = format!("the settings {}: {error}", shown.display());
                return Err(Failure::new(FailureKind::Invalid, message).hint("name the file with --config"));
            }
        };
        common::settings_text::read(&text).map_err(|error| {
            Failure::new(FailureKind::Invalid, format!("the settings {}: {error}", shown.display()))
                .hint("correct the line, or leave the key out for its default")
        })
    }

    /// Returns where the cluster key file is.
    pub fn cluster_key_file(&self) -> PathBuf {
        self.cluster_key_file.clone().unwrap_or_else(|| self.state_dir.join("cluster.key"))
    }

    /// Returns what agents and `ctl` connect to, given where this node really listens.
    pub fn advertised_api(&self, listened: SocketAddr) -> String {
        advertised(self.advertise_api.as_deref(), listened)
    }

    /// Returns what the other nodes connect to, given where this node really listens.
    pub fn advertised_raft(&self, listened: SocketAddr) -> String {
        advertised(self.advertise_raft.as_deref(), listened)
    }
}

/// A node that listens everywhere is reached under the machine's name: `0.0.0.0` means something else to everybody.
fn advertised(configured: Option<&str>, listened: SocketAddr) -> String {
    match configured {
        Some(address) => address.to_owned(),
        None if listened.ip().is_unspecified() => format!("{}:{}", machine_name(), listened.port()),
        None => listened.to_string(),
    }
}

/// The machine's own name as a node's name.
fn machine_name() -> NodeName {
    let name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let fallback = || "coordinator-1".parse().expect("a literal of the allowed form is a name");
    name.parse().unwrap_or_else(|_invalid| fallback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coordinator.toml");
        std::fs::write(&path, "name = \"n1\"\nlisten_apo = \"127.0.0.1:1\"\n").unwrap();
        let refused = Settings::open(Some(&path)).unwrap_err();
        assert!(refused.message.contains("listen_apo") && refused.message.contains("line 2"), "{refused}");
        std::fs::write(&path, "name = \"n1\"\nlisten_api = \"127.0.0.1:1\"\n").unwrap();
        let settings = Settings::open(Some(&path)).unwrap();
        assert_eq!(settings.name.as_str(), "n1");
        assert_eq!(settings.listen_raft.port(), 7401);
        assert!(Settings::open(Some(&directory.path().join("absent"))).is_err());
    }

    #[test]
    fn advertises_what_others_can_use() {
        let settings = Settings { advertise_api: Some("c1.example:7400".to_owned()), ..Settings::default() };
        let listened = "0.0.0.0:7400".parse().unwrap();
        assert_eq!(settings.advertised_api(listened), "c1.example:7400");
        assert!(!settings.advertised_raft(listened).starts_with("0.0.0.0"));
        assert_eq!(settings.advertised_raft("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7");
    }
}
