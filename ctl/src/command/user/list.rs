//! `ctl user list`.

use common::account::UserView;
use common::human;

use super::granted;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};

/// List the people of the tenant
///
/// Who holds a certificate that was made on a coordinator's own machine is not listed, unless a user of that name was
/// made.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// Runs `ctl user list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let ListArgs {} = args;
    let users = context.client()?.users().await?;
    context.output.answer(&users, |users| text(users, context.output.width()))?;
    Ok(0)
}

fn text(users: &[UserView], width: Option<usize>) -> Text {
    if users.is_empty() {
        return Text::line("No users. `ctl user create NAME --role ROLE` adds one.");
    }
    let mut table = Table::new(&[
        ("USER", Layout::Left),
        ("STATUS", Layout::Left),
        ("LOGIN", Layout::Left),
        ("GRANTED", Layout::Flexible),
        ("CREATED", Layout::Left),
    ]);
    for user in users {
        let (meaning, status) =
            if user.disabled { (Meaning::Caution, "disabled") } else { (Meaning::Good, "enabled") };
        let grants: Vec<String> = user.grants.iter().map(granted).collect();
        table.row([
            (Meaning::Strong, user.name.to_string()),
            (meaning, status.to_owned()),
            (Meaning::Plain, if user.has_password { "password" } else { "certificate" }.to_owned()),
            (Meaning::Plain, grants.join("; ")),
            (Meaning::Faint, human::moment(user.created)),
        ]);
    }
    table.render(width)
}
