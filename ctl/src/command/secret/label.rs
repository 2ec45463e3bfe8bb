//! `ctl secret label`.

use common::id::SecretName;
use common::view::SecretView;

use super::list;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;

/// Label a secret, in the place of all labels that it had
///
/// Labels decide which roles with a scope may use the secret in a spec, as `--scope label:team=shop`. One without labels
/// is for operators of the whole tenant.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelArgs {
    /// The name of the secret
    name: SecretName,
    /// The labels, as team=shop; none takes all away
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// Runs `ctl secret label`.
pub(crate) async fn run(context: &CommandContext, args: LabelArgs) -> Result<u8, CommandError> {
    let LabelArgs { name, labels } = args;
    let view = context.client()?.label_secret(&name, labels).await?;
    context.output.answer(&view, |view: &SecretView| {
        let labels = list::labels(view);
        Text::line(match labels.as_str() {
            "" => {
                format!("The secret {} bears no labels: it is for operators of the whole tenant.", view.name)
            }
            labels => format!("The secret {} bears {labels}.", view.name),
        })
    })?;
    Ok(0)
}
