//! What flags and the environment of the operator's machine say; the only reader of both.

use std::io;
use std::path::{Path, PathBuf};

use common::context::{Context, Contexts};
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::secret::Secret;

use crate::failure::CommandError;

/// Which cluster is meant.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The file named by flag or environment; the operator's own otherwise.
    context_file: Option<PathBuf>,
    /// The context named by flag; the file's current one otherwise.
    context: Option<String>,
    /// The file with an API key that is named by flag; otherwise the variable counts.
    api_key_file: Option<PathBuf>,
    /// The tenant named by flag; the caller's own otherwise.
    tenant: Option<TenantId>,
}

/// The environment variable that may hold an API key.
const API_KEY_VARIABLE: &str = "CTL_API_KEY";
/// Longest file that is read as an API key; one has about a hundred bytes.
const API_KEY_BYTES_MAX: u64 = 4096;

impl Settings {
    /// Makes settings out of what the flags say.
    pub(crate) fn new(context_file: Option<PathBuf>, context: Option<String>) -> Self {
        let context_file = context_file.or_else(default_context_file);
        Self { context_file, context, api_key_file: None, tenant: None }
    }

    /// Says who calls, and in which tenant, by what the flags say.
    #[must_use]
    pub(crate) fn calling_as(mut self, api_key_file: Option<PathBuf>, tenant: Option<TenantId>) -> Self {
        self.api_key_file = api_key_file;
        self.tenant = tenant;
        self
    }

    /// Returns the tenant named by flag.
    pub(crate) fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Returns the context's name that is named by flag.
    pub(crate) fn context_name(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Returns the API key that the named file holds, or the environment; none without either.
    ///
    /// # Errors
    /// When the file cannot be read or holds no text.
    pub(crate) fn api_key(&self) -> Result<Option<Secret<String>>, CommandError> {
        let Some(path) = &self.api_key_file else {
            let variable = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.trim().is_empty());
            return Ok(variable.map(Secret::new));
        };
        let mut text = Secret::new(String::new());
        let read = std::fs::File::open(path).and_then(|file| {
            io::Read::read_to_string(&mut io::Read::take(file, API_KEY_BYTES_MAX), text.expose_mut())
        });
        read.map_err(|error| CommandError::io("reading the API key", path.display(), &error))?;
        if text.expose().trim().is_empty() {
            let message = format!("{} holds no API key", path.display());
            return Err(CommandError::invalid(message, "put the line into it that `ctl key create` printed"));
        }
        Ok(Some(text))
    }

    /// Returns the file of contexts.
    ///
    /// # Errors
    /// When none is named and there is no home directory to look in.
    pub(crate) fn context_file(&self) -> Result<&Path, CommandError> {
        self.context_file.as_deref().ok_or_else(|| {
            Failure::new(FailureKind::NotFound, "no context file is named, and HOME is not set")
                .hint("name the file with --context-file or CTL_CONTEXT_FILE")
                .into()
        })
    }

    /// Reads the context that is meant.
    ///
    /// # Errors
    /// When the file cannot be read, is not a contexts file, or does not hold the context.
    pub(crate) fn context(&self) -> Result<Context, CommandError> {
        let path = self.context_file()?;
        Ok(Contexts::open(path)?.find(path, self.context.as_deref())?.clone())
    }
}

/// Returns the operator's own file of contexts.
fn default_context_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let configuration = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(configuration.join("drover/contexts.toml"))
}

/// Whether the environment leaves colours on.
pub(crate) fn is_color_welcome() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Returns the folder of Drover's binaries that the environment names.
pub(crate) fn binary_folder() -> Option<PathBuf> {
    std::env::var_os("DROVER_BIN_DIR").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns the folders in which the environment looks for programs.
pub(crate) fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_wins_and_an_absent_one_says_what_to_do() {
        let settings = Settings::new(Some("/nowhere/contexts.toml".into()), None);
        let Err(CommandError::Failure(failure)) = settings.context() else { panic!("there is no such file") };
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(failure.message.contains("/nowhere/contexts.toml"), "{}", failure.message);
        assert!(failure.hint.is_some_and(|hint| hint.contains("CTL_CONTEXT_FILE")));
    }
}
