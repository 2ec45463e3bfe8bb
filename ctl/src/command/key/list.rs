//! `ctl key list`.

use common::account::KeyView;
use common::clock::{self, WallMs};
use common::human;

use crate::command::user::granted;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// List the API keys of the tenant
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// Runs `ctl key list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let ListArgs {} = args;
    let keys = context.client()?.keys().await?;
    context.output.answer(&keys, |keys| text(keys, clock::wall(), context.output.width()))?;
    Ok(0)
}

fn text(keys: &[KeyView], now: WallMs, width: Option<usize>) -> Text {
    if keys.is_empty() {
        return Text::line("No API keys. `ctl key create --role ROLE` makes one.");
    }
    let mut table = Table::new(&[
        ("KEY", Layout::Left),
        ("STATUS", Layout::Left),
        ("NAME", Layout::Flexible),
        ("GRANTED", Layout::Flexible),
        ("EXPIRES", Layout::Left),
        ("MADE BY", Layout::Left),
    ]);
    for key in keys {
        let (meaning, status) = match (key.revoked, key.expires) {
            (Some(_), _) => (Meaning::Faint, "revoked"),
            (None, Some(expires)) if expires <= now => (Meaning::Faint, "expired"),
            (None, _) => (Meaning::Good, "valid"),
        };
        let grants: Vec<String> = key.grants.iter().map(granted).collect();
        table.row([
            (Meaning::Strong, key.id.to_string()),
            (meaning, status.to_owned()),
            (Meaning::Plain, key.name.clone()),
            (Meaning::Plain, grants.join("; ")),
            (Meaning::Plain, key.expires.map_or_else(|| "never".to_owned(), human::moment)),
            (Meaning::Faint, key.principal.clone()),
        ]);
    }
    table.render(width)
}
