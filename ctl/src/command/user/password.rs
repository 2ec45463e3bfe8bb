//! `ctl user password`.

use std::path::PathBuf;

use common::id::OperatorName;

use super::text;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::password;

/// Change your own password, or set another person's
///
/// Passwords are asked for without showing them; where there is no terminal they are read from standard input, a line
/// each: for your own the present one first. Where you set another person's, whatever that person is logged in with ends.
#[derive(Debug, clap::Args)]
pub(crate) struct PasswordArgs {
    /// The person; yourself without it
    name: Option<OperatorName>,
    /// Take the new password from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Runs `ctl user password`.
pub(crate) async fn run(context: &CommandContext, args: PasswordArgs) -> Result<u8, CommandError> {
    let PasswordArgs { name, password_file } = args;
    let (client, output) = (context.client()?, &context.output);
    let user = match &name {
        Some(name) => {
            let chosen =
                password::chosen(output, &format!("New password of {name}: "), password_file.as_deref())?;
            client.set_password(name, &chosen).await?
        }
        None => {
            let current = password::present(output, "Present password: ", None)?;
            let chosen = password::chosen(output, "New password: ", password_file.as_deref())?;
            client.set_own_password(&current, &chosen).await?
        }
    };
    output.answer(&user, text)?;
    Ok(0)
}
