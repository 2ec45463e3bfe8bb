//! How an operator's machine knows clusters: `contexts.toml`.
//!
//! `drover-coordinator init` and `ctl dev up` write it, `ctl` reads it. It holds a private key, so its mode is 0600.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::settings_text::InvalidText;
use crate::{atomic_file, settings_text};

/// The file: contexts by name, and the one that is used when none is named.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The name of the context that is used by default.
    pub current: String,
    /// The contexts.
    pub contexts: BTreeMap<String, Context>,
}

/// One cluster, as one operator reaches it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Addresses of the coordinators, as host:port.
    pub coordinators: Vec<String>,
    /// The cluster CA's certificate, PEM.
    pub ca_certificate: String,
    /// The person's certificate, PEM; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// The person's private key, PEM; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// An API key, in the place of a certificate; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_key: String,
}

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// It could not be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// It is not what we write.
    #[error("{path} is not a contexts file")]
    Form {
        /// The file.
        path: String,
        /// Where and why.
        #[source]
        source: InvalidText,
    },
    /// Others than its owner can read it.
    #[error("{path} holds private keys, and others than its owner can read it (mode {mode:03o})")]
    Mode {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// The named context is not in it.
    #[error("{path} has no context `{name}`")]
    Absent {
        /// The file.
        path: String,
        /// The context.
        name: String,
    },
}

impl Contexts {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, can be read by others than its owner, or is not a contexts file.
    pub fn open(path: &Path) -> Result<Self, ContextError> {
        let shown = path.display().to_string();
        let metadata =
            std::fs::metadata(path).map_err(|source| ContextError::Io { path: shown.clone(), source })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ContextError::Mode { path: shown, mode });
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| ContextError::Io { path: shown.clone(), source })?;
        settings_text::read(&text).map_err(|source| ContextError::Form { path: shown, source })
    }

    /// Writes the file with mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ContextError> {
        let fail = |source| ContextError::Io { path: path.display().to_string(), source };
        let text = toml::to_string(self).map_err(|error| fail(io::Error::other(error)))?;
        atomic_file::write(path, text.as_bytes(), 0o600).map_err(fail)
    }

    /// Returns the named context, or the current one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(&self, path: &Path, name: Option<&str>) -> Result<&Context, ContextError> {
        let name = name.unwrap_or(&self.current);
        let absent = || ContextError::Absent { path: path.display().to_string(), name: name.to_owned() };
        self.contexts.get(name).ok_or_else(absent)
    }
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").field("current", &self.current).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("coordinators", &self.coordinators).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_privately_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contexts.toml");
        let context = Context {
            coordinators: vec!["127.0.0.1:7400".to_owned()],
            ca_certificate: "CA".to_owned(),
            certificate: "CERT".to_owned(),
            key: "KEY".to_owned(),
            api_key: String::new(),
        };
        let contexts = Contexts { current: "dev".to_owned(), contexts: [("dev".to_owned(), context)].into() };
        contexts.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Contexts::open(&path).unwrap();
        assert_eq!(read.find(&path, None).unwrap().key, "KEY");
        assert!(matches!(read.find(&path, Some("prod")), Err(ContextError::Absent { .. })));
        assert!(!format!("{read:?}").contains("KEY"));
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = Contexts::open(&path).err().unwrap().to_string();
            assert!(refused.contains("others than its owner"), "{mode:o}: {refused}");
        }
    }
}
