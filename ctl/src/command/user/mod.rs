//! `ctl user`.

use common::account::UserView;
use common::grant::Grant;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

mod create;
mod disable;
mod enable;
mod grant;
mod list;
mod password;
mod ungrant;

/// Look at the people who may use the cluster, add one, take one out
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    Create(create::CreateArgs),
    Disable(disable::DisableArgs),
    Enable(enable::EnableArgs),
    Grant(grant::GrantArgs),
    List(list::ListArgs),
    Password(password::PasswordArgs),
    Ungrant(ungrant::UngrantArgs),
}

impl UserCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Create(args) => create::run(context, args).await,
            Self::Disable(args) => disable::run(context, args).await,
            Self::Enable(args) => enable::run(context, args).await,
            Self::Grant(args) => grant::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
            Self::Password(args) => password::run(context, args).await,
            Self::Ungrant(args) => ungrant::run(context, args).await,
        }
    }
}

/// Returns one user in words.
fn text(user: &UserView) -> Text {
    let mut text = Text::new();
    text.push(Meaning::Strong, user.name.to_string()).plain(format!(" of tenant {}", user.tenant));
    if user.disabled {
        text.push(Meaning::Caution, ", disabled");
    }
    text.end_line();
    for grant in &user.grants {
        text.plain(format!("  {}", granted(grant))).end_line();
    }
    text
}

/// Returns what was granted, in words.
pub(crate) fn granted(grant: &Grant) -> String {
    let scope = if grant.scope.is_whole() { String::new() } else { format!(", only {}", grant.scope) };
    format!("{} in {}{scope}", grant.role, grant.tenant)
}
