//! The agent's settings: defaults, overlaid by a file.
//!
//! Where the coordinators are is not a setting: the join told it, and the session keeps it up to date.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::human;
use common::settings_text::{self, InvalidText};
use common::telemetry::LogForm;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use transfer::Patience;

/// The least limit of a stall: a disk that spins up, or a link that is lost for a moment, is none.
const STALL_LIMIT_MIN: Duration = Duration::from_secs(1);

/// Where the settings are looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/drover/agent.toml";

/// The agent's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the agent keeps its key, its journal and its spill files.
    pub state_dir: PathBuf,
    /// Where other agents reach the data port.
    pub listen_data: SocketAddr,
    /// What other agents are told to dial, best first; found by the survey when empty.
    pub advertise_data: Vec<SocketAddr>,
    /// How long a source may live and bring nothing of what it was asked for.
    #[serde(deserialize_with = "stall_limit")]
    pub stall_limit: Duration,
    /// What is logged, in the form of `RUST_LOG`.
    pub log: Option<String>,
    /// How it is logged.
    pub log_form: Form,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl From<Form> for LogForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Text => Self::Text,
            Form::Json => Self::Json,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/drover/agent"),
            listen_data: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7443)),
            advertise_data: Vec::new(),
            stall_limit: Patience::default().stall,
            log: None,
            log_form: Form::Text,
        }
    }
}

/// Reads a duration: `10m`.
fn stall_limit<'de, D: Deserializer<'de>>(text: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(text)?;
    match human::parse_duration(&text) {
        Ok(limit) if limit >= STALL_LIMIT_MIN => Ok(limit),
        Ok(_) => Err(D::Error::custom("`stall_limit` must be at least one second")),
        Err(error) => Err(D::Error::custom(error)),
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or holds a key that does not exist.
    #[error("{path} is not a configuration of the agent")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: InvalidText,
    },
    /// The state directory is relative, so it would depend on where the agent was started.
    #[error("`state_dir` is {0}, which is not an absolute path")]
    RelativeStateDir(PathBuf),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::Read { .. } => "name the file with --config, or leave it out to use the defaults",
            ConfigError::Form { .. } => {
                "known keys are state_dir, listen_data, advertise_data, stall_limit, log and log_form"
            }
            ConfigError::RelativeStateDir(_) => "write the path from the root",
        };
        Self::of(FailureKind::Invalid, &error).hint(hint)
    }
}

impl Settings {
    /// Reads the settings from `path`; without one, from [`DEFAULT_PATH`] if that exists.
    ///
    /// # Errors
    /// When a named file is absent, or a file cannot be used.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(named) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => String::new(),
            Err(source) => return Err(ConfigError::Read { path: named.to_owned(), source }),
        };
        let form = |source| ConfigError::Form { path: named.to_owned(), source };
        let settings: Self = settings_text::read(&text).map_err(form)?;
        if !settings.state_dir.is_absolute() {
            return Err(ConfigError::RelativeStateDir(settings.state_dir));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(load("").unwrap(), Settings::default());
    }

    #[test]
    fn every_key_is_read() {
        let settings = load(
            "state_dir = '/srv/drover'\nlisten_data = '10.0.0.5:7443'\nadvertise_data = ['192.0.2.7:7443']\n\
             stall_limit = '90s'\nlog = 'debug'\nlog_form = 'json'\n",
        );
        let settings = settings.unwrap();
        assert_eq!(settings.state_dir, Path::new("/srv/drover"));
        assert_eq!(settings.advertise_data, ["192.0.2.7:7443".parse().unwrap()]);
        assert_eq!(settings.stall_limit, Duration::from_secs(90));
        assert_eq!((settings.log.as_deref(), settings.log_form), (Some("debug"), Form::Json));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_name() {
        let unknown = Failure::from(load("state_dri = '/x'").unwrap_err());
        assert!(unknown.message.contains("state_dri"), "{}", unknown.message);
        assert!(matches!(load("state_dir = 'x'"), Err(ConfigError::RelativeStateDir(_))));
        let hasty = Failure::from(load("stall_limit = '10ms'").unwrap_err());
        assert!(hasty.message.contains("at least one second"), "{}", hasty.message);
        let absent = Settings::load(Some(Path::new("/nowhere/agent.toml")));
        assert!(matches!(absent, Err(ConfigError::Read { .. })));
    }
}
