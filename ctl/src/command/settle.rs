//! `ctl settle`.

use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use common::view::{HostView, MigrationView};

use crate::client::Client;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{act, show};
use crate::verb::Verb;

/// The pause between two looks whether it is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the destination's agent may be away; a restart takes less.
const AWAY_MAX: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(10) };
/// How long the removal may take; the agent is asked for two minutes, and then again.
const REMOVAL_MAX: Duration = Duration::from_secs(150);

/// End the way back of a migration and remove what was kept for it
///
/// Afterwards `ctl rollback` is no longer possible, and the space of the kept files is free again. Waits until it is
/// removed. Exit code 11 means that the agent could not remove it yet; it does so by itself once it is back.
#[derive(Debug, clap::Args)]
pub(crate) struct SettleArgs {
    /// The migration
    id: MigrationId,
}

/// Runs `ctl settle`.
pub(crate) async fn run(context: &CommandContext, args: SettleArgs) -> Result<u8, CommandError> {
    let client = context.client()?;
    let asked = act(context, &client, &args.id, Verb::Settle).await?;
    let view = removed(&client, asked).await?;
    show(context, &client, &view).await?;
    if view.settling { Err(not_removed(&view).into()) } else { Ok(0) }
}

/// Waits until nothing is left of the way back, or until it takes too long; returns the newest view.
async fn removed(client: &Client, mut view: MigrationView) -> Result<MigrationView, Failure> {
    let begun = clock::boot();
    let mut away_since = None;
    while view.settling && clock::boot().since(begun) < REMOVAL_MAX {
        // Who may not see the host waits for the removal alone.
        if host(client, &view).await.is_some_and(|host| !host.connected) {
            let since = *away_since.get_or_insert_with(clock::boot);
            if clock::boot().since(since) >= AWAY_MAX {
                return client.migration(&view.id).await;
            }
        } else {
            away_since = None;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        view = client.migration(&view.id).await?;
    }
    Ok(view)
}

/// Returns what the cluster knows of the destination's host.
async fn host(client: &Client, view: &MigrationView) -> Option<HostView> {
    client.host(&destination(view).parse().ok()?).await.ok()
}

fn destination(view: &MigrationView) -> &str {
    view.destination.split(':').next().unwrap_or_default()
}

fn not_removed(view: &MigrationView) -> Failure {
    let host = destination(view);
    let message = format!("the way back of {} has ended, but what was kept for it is still there", view.id);
    Failure::new(FailureKind::Unreachable, message).hint(format!(
        "the agent of {host} removes it by itself once it is connected; see `ctl host show {host}`"
    ))
}

#[cfg(test)]
mod tests {
    use common::view::MigrationStatus;

    use super::*;
    use crate::client::tests::host;
    use crate::fake::{Fake, Script};
    use crate::output::progress::tests::view;

    async fn settle(views: Vec<MigrationView>, connected: bool) -> (Result<u8, CommandError>, Vec<String>) {
        let mut views = views.into_iter();
        let changes = [Ok(views.next().unwrap())].into();
        let hosts = [vec![HostView { connected, ..host("web2") }]].into();
        let script = Script { changes, migrations: views.collect(), hosts, ..Script::default() };
        let fake = Fake::start(script).await;
        let context = fake.context(true);
        let answer = run(&context, SettleArgs { id: view().id }).await;
        (answer, fake.asked())
    }

    fn ended(settling: bool) -> MigrationView {
        MigrationView { status: MigrationStatus::Completed, settling, ..view() }
    }

    #[tokio::test]
    async fn it_waits_until_what_was_kept_is_removed() {
        let (answer, asked) = settle(vec![ended(true), ended(true), ended(false)], true).await;
        assert_eq!(answer.unwrap(), 0);
        assert_eq!(asked.iter().filter(|line| *line == "migration").count(), 2, "{asked:?}");
    }

    #[tokio::test]
    async fn an_agent_that_is_away_makes_it_fail() {
        let (answer, _) = settle(vec![ended(true); 4], false).await;
        let Err(CommandError::Failure(failure)) = answer else { panic!("{answer:?}") };
        assert_eq!(failure.kind.exit_code(), 11);
        assert!(failure.hint.is_some_and(|hint| hint.contains("ctl host show")));
    }
}
