//! What flags and the environment of the operator's machine say; the only reader of both.

use std::path::{Path, PathBuf};

use common::context::{Context, Contexts};
use common::failure::{Failure, FailureKind};

use crate::failure::CommandError;

/// Which cluster is meant.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The file named by flag or environment; the operator's own otherwise.
    context_file: Option<PathBuf>,
    /// The context named by flag; the file's current one otherwise.
    context: Option<String>,
}

impl Settings {
    /// Makes settings out of what the flags say.
    pub(crate) fn new(context_file: Option<PathBuf>, context: Option<String>) -> Self {
        Self { context_file: context_file.or_else(default_context_file), context }
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
