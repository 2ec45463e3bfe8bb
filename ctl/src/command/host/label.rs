//! `ctl host label`.

use common::id::HostName;

use super::show;
use crate::context::CommandContext;
use crate::failure::CommandError;

/// Label a host, in the place of all labels that it had
///
/// Labels decide which hosts a role with a scope reaches: `ctl user grant NAME --role operator --scope label:team=shop`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelArgs {
    /// The host
    name: HostName,
    /// The labels, as team=shop; none takes all away
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// Runs `ctl host label`.
pub(crate) async fn run(context: &CommandContext, args: LabelArgs) -> Result<u8, CommandError> {
    let LabelArgs { name, labels } = args;
    let host = context.client()?.label_host(&name, labels).await?;
    context.output.answer(&host, |host| show::text(host, context.output.width()))?;
    Ok(0)
}
