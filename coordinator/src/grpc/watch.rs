//! A migration as an operator sees it, once and as it changes.

use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::finding::Finding;
use common::host::HostStatus;
use common::view::MigrationView;
use proto::status::to_status;
use proto::v1::Document;
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::Admitted;
use super::document::document;
use super::refuse;
use crate::access::call::Call;
use crate::hub::Hub;
use crate::raft::state_machine::Replica;
use crate::state::attempt::Startable;
use crate::state::migration::Migration;

/// The least time between two views of a watched migration, except for the last one.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of findings in one view, so that the whole stays below the largest message; all of them are in the list at
/// the agent.
const FINDINGS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Returns the view of a migration with what the leader knows of its progress.
pub fn view(hub: &Hub, migration: &Migration, is_whole: bool) -> MigrationView {
    let mut view = migration.view(clock::wall(), &|step| hub.live(migration, step), is_whole);
    view.waits_for = is_whole.then(|| hub.state().migrations().waits_for(migration)).flatten();
    view.bandwidth_now = hub.pace(migration).and_then(|pace| pace.bytes_per_s);
    view.warnings.extend(waits(hub, migration));
    let mut bytes = 0;
    let size = |finding: &Finding| serde_json::to_string(finding).map_or(0, |text| text.len() + ",".len());
    let fits = view.findings.iter().take_while(|finding| {
        bytes += size(finding);
        bytes <= FINDINGS_BYTES_MAX
    });
    let fits = fits.count();
    view.findings.truncate(fits);
    view
}

/// Returns what steps that could go on wait for, where that is a host.
fn waits(hub: &Hub, migration: &Migration) -> Vec<String> {
    let state = hub.state();
    let waits = migration.startable(clock::wall()).into_iter().filter_map(|Startable { place, is_undo }| {
        let planned = &migration.plan.steps[place];
        let (step, host) = (&planned.id, &planned.host);
        let is_draining = state
            .hosts()
            .get(&migration.tenant, host)
            .is_some_and(|host| host.status == HostStatus::Draining && !is_undo);
        if is_draining {
            return Some(format!("`{step}` waits, because the host `{host}` is draining; `ctl host drain {host} --end` lets it go on"));
        }
        hub.sessions
            .of(&migration.tenant, host)
            .is_none()
            .then(|| format!("`{step}` waits for the agent on `{host}`, which is not connected"))
    });
    waits.collect()
}

/// Pushes views of a migration until its end, until nobody reads, or until this node leads no more.
///
/// What was granted is looked at with each view, so that whoever loses it sees no more.
pub async fn watch(hub: &Hub, admitted: &Admitted, id: &str, views: &mpsc::Sender<Result<Document, Status>>) {
    let mut replicas = hub.proposer.replicas();
    let mut last = String::new();
    loop {
        replicas.mark_unchanged();
        let is_leader = hub.leads_surely().await;
        let again = admitted.again(&hub.state());
        let found = again.and_then(|again| again.migration(hub, Call::ReadMigration, id));
        let next = found.map(|migration| view(hub, &migration, true));
        let is_end = next.as_ref().map_or(true, |view| view.status.is_end());
        let message = match next {
            _ if !is_leader => Err(refuse::elsewhere(hub)),
            Ok(view) => document(&view),
            Err(failure) => Err(to_status(&failure)),
        };
        let is_new = message.as_ref().map_or(true, |message| message.document != last);
        let is_failed = message.is_err();
        if let Ok(message) = &message {
            last.clone_from(&message.document);
        }
        if (is_new && views.send(message).await.is_err()) || is_end || is_failed {
            return;
        }
        let has_ended = |replica: &Arc<Replica>| {
            let id = id.parse().ok();
            let found = id.and_then(|id| {
                let migration = replica.state.migrations().get(&admitted.tenant, &id);
                migration.map(|it| it.status.is_end())
            });
            found.unwrap_or(true)
        };
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => {
                drop(views.try_send(Err(refuse::elsewhere(hub))));
                return;
            }
            () = views.closed() => return,
            // The end is told at once; what lies before it, twice a second.
            _ = replicas.wait_for(has_ended) => {}
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
    }
}
