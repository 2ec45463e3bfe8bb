//! `ctl whoami`.

use common::account::WhoView;

use crate::command::user::granted;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Show who you are to the cluster, and what you may do
#[derive(Debug, clap::Args)]
pub(crate) struct WhoamiArgs {}

/// Runs `ctl whoami`.
pub(crate) async fn run(context: &CommandContext, args: WhoamiArgs) -> Result<u8, CommandError> {
    let WhoamiArgs {} = args;
    let who = context.client()?.who_am_i().await?;
    context.output.answer(&who, text)?;
    Ok(0)
}

pub(crate) fn text(who: &WhoView) -> Text {
    let mut text = Text::new();
    text.push(Meaning::Strong, &who.principal).plain(format!(", acting in {}", who.tenant)).end_line();
    for grant in &who.grants {
        text.plain(format!("  {}", granted(grant))).end_line();
    }
    text
}
