//! `ctl user create`.

use std::path::PathBuf;

use common::account::{LoginHint, UserView};
use common::grant::ScopeItem;
use common::id::OperatorName;
use common::role::Role;

use super::text;
use crate::account::role_grant;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::password;

/// Add a person, with a first role
///
/// The password is asked for without showing it; where there is no terminal it is read from standard input. It is never
/// taken from the command line, which every user of this machine can see. The person logs in with `ctl login` and
/// changes it with `ctl user password`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The name, unique in the tenant
    name: OperatorName,
    /// What the person may do: viewer, operator, approver, admin, auditor
    #[arg(long)]
    role: Role,
    /// Only for this: host:NAME or label:KEY=VALUE; may be repeated
    #[arg(long, value_name = "PART")]
    scope: Vec<ScopeItem>,
    /// Take the password from this file
    #[arg(long, value_name = "FILE", conflicts_with = "no_password")]
    password_file: Option<PathBuf>,
    /// Without a password: for who gets a certificate from `drover-coordinator context`
    #[arg(long)]
    no_password: bool,
}

/// Runs `ctl user create`.
pub(crate) async fn run(context: &CommandContext, args: CreateArgs) -> Result<u8, CommandError> {
    let CreateArgs { name, role, scope, password_file, no_password } = args;
    let client = context.client()?;
    let password = if no_password {
        None
    } else {
        Some(password::chosen(&context.output, &format!("Password of {name}: "), password_file.as_deref())?)
    };
    let user = client.create_user(&name, role_grant(role, &scope), password.as_ref()).await?;
    context.output.answer(&user, text)?;
    if let UserView {
        login: Some(LoginHint { coordinators, ca_digest }), tenant, has_password: true, ..
    } = &user
    {
        let mut note = Text::new();
        let addresses = coordinators.join(" ");
        let command =
            format!("ctl --tenant {tenant} login --user {name} --ca-digest {ca_digest} {addresses}");
        note.push(Meaning::Faint, "The person logs in with: ").plain(command);
        context.output.note(note.end_line());
    }
    Ok(0)
}
