//! The service for operators: check, build a command, propose, convert.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{CONFIRM, Failure, FailureKind};
use common::finding::Finding;
use common::id::{HostName, NodeName, TenantId};
use common::limit::JOIN_TOKEN_TTL;
use common::principal::Principal;
use common::step::file::{FileOutput, ListQuestion, UndoPreview, UndoQuestion};
use common::view::{HostView, JoinView, MigrationView, ReportView};
use proto::status::to_status;
use proto::v1::control_service_server::ControlService;
use proto::v1::question::Question;
use proto::v1::{
    ActRequest, ClusterRequest, Document, DrainRequest, HostRequest, MigrateRequest, MigrationRequest,
    NodeRequest, Page, PageRequest, Piece,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::admission::{self, Admitted};
use super::refuse;
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::hub::Hub;
use crate::live::grant;
use crate::live::sessions::ANSWER_DEADLINE;
use crate::migrate;
use crate::pki::join_token::JoinToken;
use crate::raft::state_machine::Replica;
use crate::state::migration::{Act, Migration};
use crate::state::{Command, cluster, host, migration, query};

/// The least time between two views of a watched migration, except for the last one.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of findings in one view, so that the whole stays below the largest message; all of them are in the list at
/// the agent.
const FINDINGS_BYTES_MAX: usize = 3 * 1024 * 1024;
/// The version of [`ReportView`].
const REPORT_VERSION: u32 = 1;

/// The service.
#[derive(Clone, Debug)]
pub struct ControlDoor {
    hub: Arc<Hub>,
}

type Answer<T> = Result<Response<T>, Status>;
type Lines<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Lets a call pass that this node may answer: its caller is allowed, and this node leads.
    async fn admit<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
        // A stranger is not told who leads; anybody else is sent on before a follower's older knowledge can refuse.
        refuse::check_shown(request)?;
        refuse::check_leader(&self.hub).await?;
        admission::admit(&self.hub, request, call)
    }

    async fn propose(&self, principal: Actor, command: Command) -> Result<crate::state::Outcome, Status> {
        refuse::or_status(&self.hub, self.hub.propose(principal, command).await).await
    }

    fn find(&self, tenant: &TenantId, id: &str) -> Result<Arc<Migration>, Status> {
        self.hub.migration(tenant, id).map_err(|failure| to_status(&failure))
    }

    fn view(&self, migration: &Migration, is_whole: bool) -> MigrationView {
        view(&self.hub, migration, is_whole)
    }

    fn host_view(&self, tenant: &TenantId, name: &str) -> Result<HostView, Status> {
        let absent = || {
            let failure = Failure::new(FailureKind::NotFound, format!("there is no host `{name}`"));
            to_status(&failure.hint("see `ctl host list` for what there is"))
        };
        let name: HostName = name.parse().map_err(|_invalid| absent())?;
        let state = self.hub.state();
        let host = state.hosts().get(tenant, &name).ok_or_else(absent)?;
        Ok(query::host_view(&state, tenant, &name, host, self.hub.sessions.presence(tenant, &name)))
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
            ANSWER_DEADLINE,
        );
        let preview: UndoPreview = serde_json::from_str(&asked.await?).map_err(|error| {
            Failure::new(FailureKind::Bug, format!("the agent's preview of the undo cannot be read: {error}"))
        })?;
        if preview.kept_aside == 0 {
            return Ok(());
        }
        let sentence = format!(
            "{} of {} entries were changed or added by somebody else since; they would be moved to `after/` in the stage.",
            preview.kept_aside, preview.entries
        );
        Err(Failure::new(
            FailureKind::Conflict,
            format!("the destination was changed since migration `{}` wrote it", migration.id),
        )
        .context(CONFIRM, sentence)
        .hint("look at what changed, and agree with --yes"))
    }

    /// Makes a one-time token, stores its digest, and returns what the joiner runs.
    async fn invite(&self, caller: Actor, joiner: Principal) -> Result<JoinView, Status> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| to_status(&Failure::of(FailureKind::Bug, &error)))?;
        let expires =
            WallMs(clock::wall().0.saturating_add(u64::try_from(JOIN_TOKEN_TTL.as_millis()).unwrap_or(0)));
        let (token, command, name, program) = match &joiner {
            Principal::Agent { tenant, host: name } => {
                let token = JoinToken::for_host(tenant.clone(), random);
                let digest = token.digest(self.hub.cluster_key.expose(), &joiner);
                let change = host::Change::Invite { token: digest, expires };
                let command = host::Command { tenant: tenant.clone(), host: name.clone(), change };
                (token, Command::Host(command), name.to_string(), "drover-agent")
            }
            Principal::Node { name } => {
                let token = JoinToken::for_node(random);
                let digest = token.digest(self.hub.cluster_key.expose(), &joiner);
                let command = cluster::Command::InviteNode { name: name.clone(), token: digest, expires };
                (token, Command::Cluster(command), name.to_string(), "drover-coordinator")
            }
            Principal::Person { .. } | Principal::Key { .. } => {
                return Err(Status::internal("a person does not join"));
            }
        };
        self.propose(caller, command).await?;
        let seals = self.hub.seals().map_err(|failure| to_status(&failure))?;
        let (token, ca_digest) = (token.reveal(), seals.authority.digest());
        let coordinators = self.hub.state().cluster().api_addresses();
        // A node takes its name from its settings, a host from the command.
        let named = if program == "drover-agent" { format!(" --name {name}") } else { String::new() };
        let command = format!(
            "{program} join{named} --token {token} --ca-digest {ca_digest} {}",
            coordinators.join(" ")
        );
        Ok(JoinView { name, token, ca_digest, coordinators, command, expires })
    }
}

/// Returns the view of a migration with what the leader knows of its progress.
fn view(hub: &Hub, migration: &Migration, is_whole: bool) -> MigrationView {
    let mut view = migration.view(clock::wall(), &|step| hub.live(migration, step), is_whole);
    let mut bytes = 0;
    // JSON adds its keys, and an escape may double what it holds.
    let size =
        |finding: &Finding| 128 + 2 * (finding.object.len() + finding.message.len() + finding.hint.len());
    let fits = view.findings.iter().take_while(|finding| {
        bytes += size(finding);
        bytes <= FINDINGS_BYTES_MAX
    });
    let fits = fits.count();
    view.findings.truncate(fits);
    view
}

/// Returns which call a verb stands for.
fn call_of(verb: &str) -> Result<Call, Failure> {
    Ok(match verb {
        "cancel" => Call::Cancel,
        "retry" => Call::Retry,
        "rollback" => Call::Rollback,
        "settle" => Call::Settle,
        "verify" => Call::Verify,
        other => return Err(unknown_verb(other)),
    })
}

fn unknown_verb(verb: &str) -> Failure {
    let verb: String = verb.chars().take(64).collect();
    Failure::new(FailureKind::Invalid, format!("`{verb}` cannot be asked of a migration"))
        .hint("cancel, retry, rollback, settle and verify can")
}

fn document(value: &impl serde::Serialize) -> Result<Document, Status> {
    let document = serde_json::to_string(value);
    document.map(|document| Document { document }).map_err(|error| Status::internal(error.to_string()))
}

fn page(items: &impl serde::Serialize, next: Option<String>) -> Answer<Page> {
    let Document { document } = document(items)?;
    Ok(Response::new(Page { document, next: next.unwrap_or_default() }))
}

fn host_name(text: &str) -> Result<HostName, Status> {
    text.parse().map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))
}

/// Reads where a page begins; nothing for the first.
fn from<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |_error| Status::invalid_argument("`from` is not what a page before this one said");
    text.parse().map(Some).map_err(invalid)
}

#[tonic::async_trait]
impl ControlService for ControlDoor {
    type WatchMigrationStream = Lines<Document>;
    type StreamListStream = Lines<Piece>;

    async fn migrate(&self, request: Request<MigrateRequest>) -> Answer<Document> {
        let call = if request.get_ref().plan_only { Call::Plan } else { Call::Migrate };
        let Admitted { principal, tenant, .. } = self.admit(&request, call).await?;
        let MigrateRequest { request_id, spec, plan_only, confirmed } = request.into_inner();
        let asked = migrate::Asked { principal, tenant: tenant.clone(), request_id, spec, confirmed };
        let made = if plan_only {
            let plan = refuse::or_status(&self.hub, migrate::plan_only(&self.hub, &asked).await).await?;
            return Ok(Response::new(document(&plan)?));
        } else {
            refuse::or_status(&self.hub, migrate::migrate(&self.hub, asked).await).await?
        };
        let migration = self.find(&tenant, made.as_str())?;
        Ok(Response::new(document(&self.view(&migration, true))?))
    }

    async fn act(&self, request: Request<ActRequest>) -> Answer<Document> {
        let call = call_of(&request.get_ref().verb).map_err(|failure| to_status(&failure))?;
        let Admitted { principal, tenant, .. } = self.admit(&request, call).await?;
        let ActRequest { migration: id, verb, deep, confirmed } = request.into_inner();
        let migration = self.find(&tenant, &id)?;
        let act = match call {
            Call::Cancel => Act::Cancel,
            Call::Retry => Act::Retry,
            Call::Rollback => {
                if !confirmed {
                    refuse::or_status(&self.hub, self.preview_rollback(&migration).await).await?;
                }
                Act::Rollback
            }
            Call::Settle => Act::Settle,
            Call::Verify => Act::Verify {
                step: migrate::verification(&migration, deep).map_err(|failure| to_status(&failure))?,
            },
            _ => return Err(to_status(&unknown_verb(&verb))),
        };
        let command =
            migration::Command::Act { tenant: tenant.clone(), migration: migration.id.clone(), act };
        self.propose(principal, Command::Migration(command)).await?;
        let migration = self.find(&tenant, &id)?;
        Ok(Response::new(document(&self.view(&migration, true))?))
    }

    async fn get_migration(&self, request: Request<MigrationRequest>) -> Answer<Document> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadMigration).await?;
        let migration = self.find(&tenant, &request.into_inner().migration)?;
        Ok(Response::new(document(&self.view(&migration, true))?))
    }

    async fn list_migrations(&self, request: Request<PageRequest>) -> Answer<Page> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadMigration).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let state = self.hub.state();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let found = query::migrations(&state, &tenant, from(&begin)?.as_ref(), limit);
        let views: Vec<MigrationView> =
            found.items.iter().map(|migration| self.view(migration, false)).collect();
        page(&views, found.next)
    }

    async fn watch_migration(
        &self,
        request: Request<MigrationRequest>,
    ) -> Answer<Self::WatchMigrationStream> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadMigration).await?;
        let id = request.into_inner().migration;
        self.find(&tenant, &id)?;
        // One view waits while another is on its way; a slow reader gets the newest.
        let (views, stream) = mpsc::channel(1);
        let hub = Arc::clone(&self.hub);
        self.hub.shutdown.spawn(async move { watch(&hub, &tenant, &id, &views).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_report(&self, request: Request<MigrationRequest>) -> Answer<Document> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadMigration).await?;
        let migration = self.find(&tenant, &request.into_inner().migration)?;
        let report = ReportView {
            version: REPORT_VERSION,
            migration: self.view(&migration, true),
            spec: migration.spec.as_ref().clone(),
            plan: migration.plan.as_ref().clone(),
            made: clock::wall(),
            support_contact: self.hub.support_contact.clone(),
        };
        Ok(Response::new(document(&report)?))
    }

    async fn stream_list(&self, request: Request<MigrationRequest>) -> Answer<Self::StreamListStream> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadMigration).await?;
        let migration = self.find(&tenant, &request.into_inner().migration)?;
        let (host, list_file) = list_of(&migration).ok_or_else(|| {
            let message = format!("migration `{}` has no list at its agent", migration.id);
            to_status(
                &Failure::new(FailureKind::NotFound, message).hint("its findings are all in `ctl report`"),
            )
        })?;
        let question = ListQuestion { migration: migration.id.clone(), list_file };
        let Document { document } = document(&question)?;
        let asked = self.hub.sessions.list(&tenant, &host, Question::ListOfMigration(document));
        let mut pieces = asked.map_err(|failure| to_status(&failure))?;
        let (lines, stream) = mpsc::channel(crate::live::sessions::PIECES_MAX);
        self.hub.shutdown.spawn(async move {
            loop {
                let next = match pieces.recv().await {
                    // An empty piece is the end; a channel that closes without it broke off.
                    Some(Ok(piece)) if piece.is_empty() => break,
                    Some(Ok(lines)) => Ok(Piece { lines }),
                    Some(Err(failure)) => Err(to_status(&failure)),
                    None => Err(to_status(&Failure::new(FailureKind::Unreachable, "the list broke off"))),
                };
                let is_end = next.is_err();
                if lines.send(next).await.is_err() || is_end {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_hosts(&self, request: Request<PageRequest>) -> Answer<Page> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadHost).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let state = self.hub.state();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let found = query::hosts(&state, &tenant, from(&begin)?.as_ref(), limit);
        let presence = |name| self.hub.sessions.presence(&tenant, name);
        let views: Vec<HostView> = found
            .items
            .iter()
            .map(|(name, host)| query::host_view(&state, &tenant, name, host, presence(name)))
            .collect();
        page(&views, found.next)
    }

    async fn get_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadHost).await?;
        let view = self.host_view(&tenant, &request.into_inner().host)?;
        Ok(Response::new(document(&view)?))
    }

    async fn enroll_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::EnrollHost).await?;
        let joiner = Principal::Agent { tenant, host: host_name(&request.into_inner().host)? };
        Ok(Response::new(document(&self.invite(principal, joiner).await?)?))
    }

    async fn drain_host(&self, request: Request<DrainRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::DrainHost).await?;
        let DrainRequest { host: name, drain } = request.into_inner();
        let change = host::Change::Drain(drain);
        let command = host::Command { tenant: tenant.clone(), host: host_name(&name)?, change };
        self.propose(principal, Command::Host(command)).await?;
        self.hub.wake.notify_one();
        Ok(Response::new(document(&self.host_view(&tenant, &name)?)?))
    }

    async fn revoke_host(&self, request: Request<HostRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::RevokeHost).await?;
        let name = request.into_inner().host;
        let host = host_name(&name)?;
        let command =
            host::Command { tenant: tenant.clone(), host: host.clone(), change: host::Change::Revoke };
        self.propose(principal, Command::Host(command)).await?;
        self.hub.cut(&tenant, &host);
        Ok(Response::new(document(&self.host_view(&tenant, &name)?)?))
    }

    async fn get_cluster(&self, request: Request<ClusterRequest>) -> Answer<Document> {
        admission::admit(&self.hub, &request, Call::ReadCluster)?;
        // Without a leader every node says what it knows: that is when the question matters most.
        if let Some(leader) = self.hub.leader_address().filter(|_| !self.hub.is_leader()) {
            return Err(refuse::not_leader(Some(leader)));
        }
        Ok(Response::new(document(&self.hub.cluster_view())?))
    }

    async fn enroll_node(&self, request: Request<NodeRequest>) -> Answer<Document> {
        let Admitted { principal, .. } = self.admit(&request, Call::ChangeCluster).await?;
        let name: NodeName = request
            .into_inner()
            .name
            .parse()
            .map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
        Ok(Response::new(document(&self.invite(principal, Principal::Node { name }).await?)?))
    }
}

/// Pushes views of a migration until its end, until nobody reads, or until this node leads no more.
async fn watch(hub: &Hub, tenant: &TenantId, id: &str, views: &mpsc::Sender<Result<Document, Status>>) {
    let mut replicas = hub.proposer.replicas();
    let mut last = String::new();
    loop {
        replicas.mark_unchanged();
        let is_leader = hub.leads_surely().await;
        let next = hub.migration(tenant, id).map(|migration| view(hub, &migration, true));
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
            let found =
                id.and_then(|id| replica.state.migrations().get(tenant, &id).map(|it| it.status.is_end()));
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
