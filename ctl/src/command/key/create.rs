//! `ctl key create`.

use std::time::Duration;

use common::account::NewKeyView;
use common::grant::ScopeItem;
use common::human;
use common::role::Role;

use crate::account::role_grant;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Make an API key, for a pipeline or a script
///
/// It is shown this once. Put it into a file that only its user can read, and name the file with --api-key-file, or into
/// the variable CTL_API_KEY.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// What the key is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
    /// What it may do: viewer, operator, approver, admin, auditor
    #[arg(long)]
    role: Role,
    /// Only for this: host:NAME or label:KEY=VALUE; may be repeated
    #[arg(long, value_name = "PART")]
    scope: Vec<ScopeItem>,
    /// After what time it ends, as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    expires: Option<Duration>,
}

/// Runs `ctl key create`.
pub(crate) async fn run(context: &CommandContext, args: CreateArgs) -> Result<u8, CommandError> {
    let CreateArgs { name, role, scope, expires } = args;
    if expires.is_some_and(|time| time.as_millis() == 0) {
        return Err(CommandError::invalid(
            "the key would end at once",
            "leave --expires out for a key that never ends",
        ));
    }
    let key = context.client()?.create_key(&name, role_grant(role, &scope), expires).await?;
    context.output.answer(&key, |key: &NewKeyView| Text::line(&key.key))?;
    let until =
        key.expires.map_or_else(String::new, |expires| format!(" It ends at {}.", human::moment(expires)));
    let mut note = Text::new();
    note.push(Meaning::Faint, format!("This is the only time that key {} is shown.{until}", key.id));
    context.output.note(note.end_line());
    Ok(0)
}
