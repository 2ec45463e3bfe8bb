//! Why a command ended without doing what was asked.

use std::io;

use common::context::ContextError;
use common::failure::{Failure, FailureKind, chain};

/// The error of every command. Its kind decides the exit code and the wording.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The reader of our output went away; nothing more is said, and nothing is wrong.
    BrokenPipe,
    /// Everything else, with cause and hint.
    Failure(Box<Failure>),
}

impl CommandError {
    /// Makes an error that the operator can mend by asking differently.
    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::new(FailureKind::Invalid, message).hint(hint).into()
    }

    /// Makes an error of this machine's file system that names the object.
    pub(crate) fn io(action: &str, object: impl std::fmt::Display, error: &io::Error) -> Self {
        Failure::new(kind_of(error), format!("{action} {object}: {}", chain(error))).into()
    }
}

/// Returns the kind that an error of the file system stands for.
pub(crate) fn kind_of(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        io::ErrorKind::PermissionDenied => FailureKind::Denied,
        io::ErrorKind::AlreadyExists => FailureKind::Conflict,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::Exhausted,
        io::ErrorKind::TimedOut => FailureKind::Timeout,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => FailureKind::Unreachable,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => FailureKind::Invalid,
        // The standard library's list is open; what is not named above is nothing an operator did.
        _ => FailureKind::Bug,
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl From<ContextError> for CommandError {
    fn from(error: ContextError) -> Self {
        let (kind, hint) = match &error {
            ContextError::Io { source, .. } => (
                kind_of(source),
                "name the file with --context-file or CTL_CONTEXT_FILE; `drover-coordinator init` and `ctl dev up` write one",
            ),
            ContextError::Form { .. } => {
                (FailureKind::Invalid, "copy it again from where `drover-coordinator init` wrote it")
            }
            ContextError::Mode { path, .. } => {
                let hint =
                    format!("look who has read it, then `chmod 600 {path}`; `ctl login` makes new keys");
                return Failure::of(FailureKind::Denied, &error).hint(hint).into();
            }
            ContextError::Absent { .. } => {
                (FailureKind::NotFound, "name one that is in the file with --context")
            }
        };
        Failure::of(kind, &error).hint(hint).into()
    }
}

/// Turns an error of our own output into the command's.
pub(crate) fn of_output(error: &io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CommandError::BrokenPipe
    } else {
        CommandError::io("writing to", "standard output", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(of_output(&left), CommandError::BrokenPipe));
        let full = of_output(&io::Error::from(io::ErrorKind::StorageFull));
        let CommandError::Failure(failure) = full else { panic!("a full disk is a failure") };
        assert_eq!(failure.kind.exit_code(), 9);
    }

    #[test]
    fn an_absent_context_file_says_how_to_name_one() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = CommandError::from(ContextError::Io { path: "/x/contexts.toml".to_owned(), source });
        let CommandError::Failure(failure) = error else { panic!("an absent file is a failure") };
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(failure.message.starts_with("/x/contexts.toml: "), "{}", failure.message);
        assert!(failure.hint.is_some_and(|hint| hint.contains("--context-file")));
    }
}
