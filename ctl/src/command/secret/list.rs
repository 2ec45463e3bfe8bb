//! `ctl secret list`.

use common::human;
use common::view::SecretView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// List the names of the secrets that you may use
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// Runs `ctl secret list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let ListArgs {} = args;
    let secrets = context.client()?.secrets().await?;
    context.output.answer(&secrets, |secrets| text(secrets, context.output.width()))?;
    Ok(0)
}

fn text(secrets: &[SecretView], width: Option<usize>) -> Text {
    if secrets.is_empty() {
        return Text::line("No secrets. `ctl secret set NAME` keeps one.");
    }
    let mut table = Table::new(&[
        ("SECRET", Layout::Left),
        ("VERSION", Layout::Right),
        ("SET", Layout::Left),
        ("BY", Layout::Flexible),
        ("LABELS", Layout::Flexible),
    ]);
    for secret in secrets {
        table.row([
            (Meaning::Strong, secret.name.to_string()),
            (Meaning::Plain, secret.version.to_string()),
            (Meaning::Plain, human::moment(secret.set)),
            (Meaning::Faint, secret.set_by.clone()),
            (Meaning::Plain, labels(secret)),
        ]);
    }
    table.render(width)
}

/// Returns the labels of a secret as they are written.
pub(super) fn labels(secret: &SecretView) -> String {
    secret.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}
