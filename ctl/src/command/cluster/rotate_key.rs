//! `ctl cluster rotate-key`.

use common::view::KeyRotationView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Seal everything under a new cluster key
///
/// While the cluster serves: every coordinator keeps the new key beside its present one, then new secrets are sealed
/// under it and the others are moved. A rotation that was cut goes on with the next call. Where the key comes from the
/// environment, from systemd or from a keeper, put the new one there first, behind the present one, on every
/// coordinator. Keep a copy of the new key: backups made from now on need it, and older ones the old one.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateKeyArgs {
    /// Forget the keys before the present one, on every coordinator; nothing is sealed under them any more
    #[arg(long)]
    drop_old: bool,
}

/// Runs `ctl cluster rotate-key`.
pub(crate) async fn run(context: &CommandContext, args: RotateKeyArgs) -> Result<u8, CommandError> {
    let RotateKeyArgs { drop_old } = args;
    let client = context.client()?;
    if drop_old {
        context.output.confirm("Backups that were made under an older cluster key can then be opened only with your own copy of it.")?;
    }
    let view = client.rotate_cluster_key(drop_old).await?;
    context.output.answer(&view, text)?;
    if !view.is_old_dropped {
        let next = "`ctl cluster rotate-key --drop-old` makes the coordinators forget the old key.";
        context.output.note(Text::new().push(Meaning::Faint, next).end_line());
    }
    Ok(0)
}

fn text(view: &KeyRotationView) -> Text {
    let moved = view.rewrapped;
    match &view.previous {
        Some(previous) => Text::line(format!(
            "Everything is sealed under cluster key {} now, and no longer under {previous}; {moved} values were moved.",
            view.key
        )),
        None => Text::line(format!("Only cluster key {} is left; {moved} values were moved.", view.key)),
    }
}
