//! The service for operators: check, build a command, propose, convert.

use std::pin::Pin;
use std::sync::Arc;

use common::clock;
use common::control::ControlChange;
use common::failure::{CONFIRM, Failure, FailureKind};
use common::human;
use common::id::{HostName, NodeName, TenantId};
use common::principal::Principal;
use common::step::file::{FileOutput, ListQuestion, UndoPreview, UndoQuestion};
use common::view::{HostView, MigrationView, ReportView};
use proto::status::to_status;
use proto::v1::control_service_server::ControlService;
use proto::v1::question::Question;
use proto::v1::{
    ActRequest, ClusterRequest, Document, DrainRequest, HostRequest, LimitHostRequest, MigrateRequest,
    MigrationRequest, NodeRequest, Page, PageRequest, Piece, SetMigrationRequest,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::admission::{self, Admitted};
use super::document::{Answer, answer, document, from, from_document, page};
use super::invite::invite;
use super::watch::{view, watch};
use super::{list, refuse};
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::access::policy::Decision;
use crate::hub::Hub;
use crate::live::grant;
use crate::live::sessions::PREVIEW_DEADLINE;
use crate::migrate;
use crate::state::migration::{Act, Migration};
use crate::state::{Command, host, migration, query};

/// The version of [`ReportView`].
const REPORT_VERSION: u32 = 1;

/// The service.
#[derive(Clone, Debug)]
pub struct ControlDoor {
    hub: Arc<Hub>,
}

type Lines<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Lets a call pass that this node may answer: its caller is allowed, and this node leads.
    async fn admit<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
        admission::admit_at_leader(&self.hub, request, call).await
    }

    async fn propose(&self, principal: Actor, command: Command) -> Result<crate::state::Outcome, Status> {
        refuse::or_status(&self.hub, self.hub.propose_once(principal, command).await).await
    }

    /// Admits a call about one migration and returns that migration.
    async fn admit_to<T: Sync>(
        &self,
        request: &Request<T>,
        call: Call,
        id: &str,
    ) -> Result<(Admitted, Arc<Migration>), Status> {
        let admitted = self.admit(request, call).await?;
        let found = admitted.migration(&self.hub, call, id);
        found.map(|migration| (admitted, migration)).map_err(|failure| to_status(&failure))
    }

    fn host_view(&self, tenant: &TenantId, name: &str) -> Result<HostView, Status> {
        let absent = || to_status(&migrate::absent_host(name));
        let name: HostName = name.parse().map_err(|_invalid| absent())?;
        let state = self.hub.state();
        let host = state.hosts().get(tenant, &name).ok_or_else(absent)?;
        let running = query::steps_running(&state, tenant);
        Ok(query::host_view(&state, tenant, &name, host, &running, self.hub.sessions.presence(tenant, &name)))
    }

    /// Admits a call about one host, known or not, and returns its name.
    async fn admit_host<T: Sync>(
        &self,
        request: &Request<T>,
        call: Call,
        name: &str,
    ) -> Result<(Admitted, HostName), Status> {
        let admitted = self.admit(request, call).await?;
        let name = host_name(name)?;
        let checked = admitted.check_host(&self.hub.state(), call, &name);
        checked.map(|()| (admitted, name)).map_err(|failure| to_status(&failure))
    }

    /// Refuses a rollback that would move aside what others changed, until a person agreed.
    async fn preview_rollback(&self, migration: &Migration) -> Result<(), Failure> {
        let copies = migration.plan.steps.iter().find(|planned| planned.peer.is_some());
        let Some(planned) = copies.filter(|_| migration.is_rollback_available()) else { return Ok(()) };
        let question = UndoQuestion { migration: migration.id.clone(), params: grant::params(planned)? };
        let question =
            serde_json::to_string(&question).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let asked = self.hub.sessions.ask(
            &migration.tenant,
            &planned.host,
            Question::UndoPreview(question),
            PREVIEW_DEADLINE,
        );
        let preview: UndoPreview = serde_json::from_str(&asked.await?).map_err(|error| {
            Failure::new(FailureKind::Bug, format!("the agent's preview of the undo cannot be read: {error}"))
        })?;
        if preview.kept_aside == 0 {
            return Ok(());
        }
        let were = if preview.kept_aside == 1 { "was" } else { "were" };
        let sentence = format!(
            "{} of {} entries {were} changed or added by somebody else since; what is there now would be moved to `after/` in the stage.",
            human::count(preview.kept_aside),
            human::count(preview.entries)
        );
        Err(Failure::new(
            FailureKind::Conflict,
            format!("the destination was changed since migration `{}` wrote it", migration.id),
        )
        .context(CONFIRM, sentence)
        .hint("look at what changed, and agree with --yes"))
    }
}

/// Returns which call a verb stands for.
fn call_of(verb: &str) -> Result<Call, Failure> {
    Ok(match verb {
        "cancel" => Call::Cancel,
        "retry" => Call::Retry,
        "cutover" => Call::Cutover,
        "rollback" => Call::Rollback,
        "settle" => Call::Settle,
        "verify" => Call::Verify,
        "pause" => Call::Pause,
        "resume" => Call::Resume,
        other => return Err(unknown_verb(other)),
    })
}

fn unknown_verb(verb: &str) -> Failure {
    let verb: String = verb.chars().take(64).collect();
    Failure::new(FailureKind::Invalid, format!("`{verb}` cannot be asked of a migration"))
        .hint("cancel, cutover, pause, resume, retry, rollback, settle and verify can")
}

fn host_name(text: &str) -> Result<HostName, Status> {
    text.parse().map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))
}

#[tonic::async_trait]
impl ControlService for ControlDoor {
    type WatchMigrationStream = Lines<Document>;
    type StreamListStream = Lines<Piece>;

    async fn migrate(&self, request: Request<MigrateRequest>) -> Answer<Document> {
        let call = if request.get_ref().plan_only { Call::Plan } else { Call::Migrate };
        let admitted = self.admit(&request, call).await?;
        let MigrateRequest { request_id, spec, plan_only, confirmed } = request.into_inner();
        let checked =
            migrate::read_spec(&spec).and_then(|spec| admitted.check_spec(&self.hub.state(), call, &spec));
        checked.map_err(|failure| to_status(&failure))?;
        let (principal, tenant) = (admitted.principal.clone(), admitted.tenant.clone());
        let asked = migrate::Asked { principal, tenant, request_id, spec, confirmed };
        if plan_only {
            let plan = refuse::or_status(&self.hub, migrate::plan_only(&self.hub, &asked).await).await?;
            return answer(&plan);
        }
        let made = refuse::or_status(&self.hub, migrate::migrate(&self.hub, asked).await).await?;
        // A repeated request finds the one that it made, which another's narrower grant may not reach.
        let migration = admitted.migration(&self.hub, Call::ReadMigration, made.as_str());
        answer(&view(&self.hub, migration.map_err(|failure| to_status(&failure))?.as_ref(), true))
    }

    async fn act(&self, request: Request<ActRequest>) -> Answer<Document> {
        let call = call_of(&request.get_ref().verb).map_err(|failure| to_status(&failure))?;
        let (admitted, migration) = self.admit_to(&request, call, &request.get_ref().migration).await?;
        let ActRequest { migration: _, verb, deep, confirmed } = request.into_inner();
        let act = match verb.as_str() {
            "cancel" => Act::Cancel,
            "retry" => Act::Retry,
            "cutover" => Act::Cutover,
            "rollback" => {
                if !confirmed {
                    refuse::or_status(&self.hub, self.preview_rollback(&migration).await).await?;
                }
                Act::Rollback
            }
            "settle" => Act::Settle,
            "pause" => Act::Pause,
            "resume" => Act::Resume,
            "verify" => Act::Verify {
                step: migrate::verification(&migration, deep).map_err(|failure| to_status(&failure))?,
            },
            other => return Err(to_status(&unknown_verb(other))),
        };
        let (tenant, id) = (admitted.tenant.clone(), migration.id.clone());
        let command = migration::Command::Act { tenant, migration: id, act };
        self.propose(admitted.principal.clone(), Command::Migration(command)).await?;
        let changed = self.hub.migration(&admitted.tenant, migration.id.as_str());
        answer(&view(&self.hub, changed.map_err(|failure| to_status(&failure))?.as_ref(), true))
    }

    async fn set_migration(&self, request: Request<SetMigrationRequest>) -> Answer<Document> {
        let id = &request.get_ref().migration;
        let (admitted, migration) = self.admit_to(&request, Call::SetMigration, id).await?;
        let change: ControlChange = from_document(&request.get_ref().change)?;
        let (tenant, id) = (admitted.tenant.clone(), migration.id.clone());
        let command = migration::Command::Act { tenant, migration: id, act: Act::Set(change) };
        self.propose(admitted.principal.clone(), Command::Migration(command)).await?;
        let changed = self.hub.migration(&admitted.tenant, migration.id.as_str());
        answer(&view(&self.hub, changed.map_err(|failure| to_status(&failure))?.as_ref(), true))
    }

    async fn get_migration(&self, request: Request<MigrationRequest>) -> Answer<Document> {
        let id = &request.get_ref().migration;
        let (_, migration) = self.admit_to(&request, Call::ReadMigration, id).await?;
        answer(&view(&self.hub, &migration, true))
    }

    async fn list_migrations(&self, request: Request<PageRequest>) -> Answer<Page> {
        let admitted = self.admit(&request, Call::ReadMigration).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let state = self.hub.state();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_seen = |migration: &Migration| {
            admitted.decide_migration(Call::ReadMigration, migration) == Decision::Allowed
        };
        let found = query::migrations(&state, &admitted.tenant, from(&begin)?.as_ref(), limit, &is_seen);
        let views: Vec<MigrationView> =
            found.items.iter().map(|migration| view(&self.hub, migration, false)).collect();
        page(&views, found.next)
    }

    async fn watch_migration(
        &self,
        request: Request<MigrationRequest>,
    ) -> Answer<Self::WatchMigrationStream> {
        let id = &request.get_ref().migration;
        let (admitted, _) = self.admit_to(&request, Call::ReadMigration, id).await?;
        let id = request.into_inner().migration;
        // One view waits while another is on its way; a slow reader gets the newest.
        let (views, stream) = mpsc::channel(1);
        let hub = Arc::clone(&self.hub);
        self.hub.shutdown.spawn(async move { watch(&hub, &admitted, &id, &views).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_report(&self, request: Request<MigrationRequest>) -> Answer<Document> {
        let id = &request.get_ref().migration;
        let (_, migration) = self.admit_to(&request, Call::ReadMigration, id).await?;
        answer(&ReportView {
            version: REPORT_VERSION,
            migration: view(&self.hub, &migration, true),
            spec: migration.spec.as_ref().clone(),
            plan: migration.plan.as_ref().clone(),
            made: clock::wall(),
            support_contact: self.hub.support_contact.clone(),
        })
    }

    async fn stream_list(&self, request: Request<MigrationRequest>) -> Answer<Self::StreamListStream> {
        let id = &request.get_ref().migration;
        let (admitted, migration) = self.admit_to(&request, Call::ReadMigration, id).await?;
        let (host, list_file) = list_of(&migration).ok_or_else(|| {
            let message = format!("migration `{}` has no list at its agent", migration.id);
            to_status(
                &Failure::new(FailureKind::NotFound, message).hint("its findings are all in `ctl report`"),
            )
        })?;
        let question = ListQuestion { migration: migration.id.clone(), list_file };
        let Document { document } = document(&question)?;
        let asked = self.hub.sessions.list(&admitted.tenant, &host, Question::ListOfMigration(document));
        let pieces = asked.map_err(|failure| to_status(&failure))?;
        let (lines, stream) = mpsc::channel(crate::live::sessions::PIECES_MAX);
        let (hub, id) = (Arc::clone(&self.hub), migration.id.to_string());
        self.hub.shutdown.spawn(list::hand_on(hub, admitted, id, pieces, lines));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_hosts(&self, request: Request<PageRequest>) -> Answer<Page> {
        let admitted = self.admit(&request, Call::ReadHost).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let (state, tenant) = (self.hub.state(), &admitted.tenant);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_seen =
            |name: &HostName| admitted.decide_host(&state, Call::ReadHost, name) == Decision::Allowed;
        let found = query::hosts(&state, tenant, from(&begin)?.as_ref(), limit, &is_seen);
        let presence = |name| self.hub.sessions.presence(tenant, name);
        let running = query::steps_running(&state, tenant);
        let views: Vec<HostView> = found
            .items
            .iter()
            .map(|(name, host)| query::host_view(&state, tenant, name, host, &running, presence(name)))
            .collect();
        page(&views, found.next)
    }

    async fn get_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let admitted = self.admit(&request, Call::ReadHost).await?;
        let name = request.into_inner().host;
        if let Ok(parsed) = name.parse() {
            let checked = admitted.check_host(&self.hub.state(), Call::ReadHost, &parsed);
            checked.map_err(|failure| to_status(&failure))?;
        }
        answer(&self.host_view(&admitted.tenant, &name)?)
    }

    async fn enroll_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let name = &request.get_ref().host;
        let (admitted, host) = self.admit_host(&request, Call::EnrollHost, name).await?;
        let joiner = Principal::Agent { tenant: admitted.tenant, host };
        answer(&invite(&self.hub, admitted.principal, joiner).await?)
    }

    async fn drain_host(&self, request: Request<DrainRequest>) -> Answer<Document> {
        let DrainRequest { host: name, drain } = request.get_ref().clone();
        let (admitted, host) = self.admit_host(&request, Call::DrainHost, &name).await?;
        let Admitted { principal, tenant, .. } = admitted;
        let command = host::Command { tenant: tenant.clone(), host, change: host::Change::Drain(drain) };
        self.propose(principal, Command::Host(command)).await?;
        self.hub.wake.notify_one();
        answer(&self.host_view(&tenant, &name)?)
    }

    async fn limit_host(&self, request: Request<LimitHostRequest>) -> Answer<Document> {
        let LimitHostRequest { host: name, change } = request.get_ref().clone();
        let (admitted, host) = self.admit_host(&request, Call::LimitHost, &name).await?;
        let Admitted { principal, tenant, .. } = admitted;
        let change = host::Change::Limit(from_document(&change)?);
        let command = host::Command { tenant: tenant.clone(), host, change };
        self.propose(principal, Command::Host(command)).await?;
        self.hub.wake.notify_one();
        answer(&self.host_view(&tenant, &name)?)
    }

    async fn revoke_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let name = &request.get_ref().host;
        let (admitted, host) = self.admit_host(&request, Call::RevokeHost, name).await?;
        let Admitted { principal, tenant, .. } = admitted;
        let command =
            host::Command { tenant: tenant.clone(), host: host.clone(), change: host::Change::Revoke };
        self.propose(principal, Command::Host(command)).await?;
        answer(&self.host_view(&tenant, name)?)
    }

    async fn get_cluster(&self, request: Request<ClusterRequest>) -> Answer<Document> {
        refuse::check_shown(&request)?;
        // Without a leader every node says what it knows: that is when the question matters most.
        if let Some(leader) = self.hub.leader_address().filter(|_| !self.hub.is_leader()) {
            return Err(refuse::not_leader(Some(leader)));
        }
        let admitted = admission::admit(&self.hub, &request, Call::ReadCluster)?;
        let mut view = self.hub.cluster_view();
        if admitted.tenant != TenantId::default_tenant() {
            // How far the log is tells how much all tenants do.
            view.applied_index = 0;
            view.members.iter_mut().for_each(|member| member.matched_index = None);
        }
        answer(&view)
    }

    async fn enroll_node(&self, request: Request<NodeRequest>) -> Answer<Document> {
        let Admitted { principal, .. } = self.admit(&request, Call::ChangeCluster).await?;
        let name: NodeName = request
            .into_inner()
            .name
            .parse()
            .map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
        answer(&invite(&self.hub, principal, Principal::Node { name }).await?)
    }
}

/// Returns where the whole list of a migration is: at the agent of the last step that wrote one.
fn list_of(migration: &Migration) -> Option<(HostName, String)> {
    migration
        .planned()
        .filter_map(|(planned, step)| {
            let output: FileOutput = serde_json::from_str(step.output.as_deref()?).ok()?;
            Some((planned.host.clone(), output.list_file?))
        })
        .last()
}
