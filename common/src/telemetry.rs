//! Logs: plain lines on stderr, set up once, first thing in a process.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sets up logging to stderr.
///
/// `filter` is in the form of `RUST_LOG` and wins over that variable; without either, `info` and above is shown.
/// A filter that cannot be read counts as `info`, and says so. Calling it again changes nothing.
pub fn init(filter: Option<&str>, form: LogForm) {
    let asked = filter.map(str::to_owned).or_else(|| std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let parsed = asked.as_deref().map(EnvFilter::try_new);
    let refused = parsed.as_ref().and_then(|parsed| parsed.as_ref().err().map(ToString::to_string));
    let filter = parsed.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second set-up is refused by tracing itself, which is what tests that share a process want.
    let _already_set = match form {
        LogForm::Text => builder.try_init(),
        LogForm::Json => builder.json().try_init(),
    };
    if let Some(error) = refused {
        tracing::warn!(%error, "the log filter cannot be read; `info` is used");
    }
}
