//! `ctl logout`.

use common::context::Contexts;
use serde::Serialize;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Forget the certificate or API key of a context
///
/// How the cluster is reached and known stays, so that `ctl login` needs no more than your name. What was given out
/// stays valid elsewhere: `ctl user disable` and `ctl key revoke` void it.
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {}

/// The answer.
#[derive(Debug, Serialize)]
struct LoggedOut {
    context: String,
}

/// Runs `ctl logout`.
pub(crate) fn run(context: &CommandContext, args: LogoutArgs) -> Result<u8, CommandError> {
    let LogoutArgs {} = args;
    let path = context.settings.context_file()?.to_owned();
    let mut contexts = Contexts::open(&path)?;
    let name = context.settings.context_name().unwrap_or(&contexts.current).to_owned();
    contexts.find(&path, Some(&name))?;
    if let Some(known) = contexts.contexts.get_mut(&name) {
        known.certificate.clear();
        known.key.clear();
        known.api_key.clear();
    }
    contexts.write(&path)?;
    let answer = LoggedOut { context: name };
    context.output.answer(&answer, |out: &LoggedOut| {
        Text::line(format!("The context {} holds no certificate and no API key any more.", out.context))
    })?;
    Ok(0)
}
