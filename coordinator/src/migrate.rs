//! From a spec to a migration: read it, look at both hosts, refuse what cannot go well, plan, and propose.
//!
//! What agents say about roots is asked anew each time; what must hold while the command is applied (hosts, roots that
//! are taken) is looked at once more by the state.

use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::finding::{Finding, Rule};
use common::host::{HostFacts, HostStatus};
use common::id::{HostName, MigrationId, SecretName, TenantId};
use common::plan::{Plan, PlannedStep};
use common::reference::Reference;
use common::spec::{MigrationSpec, SPEC_VERSION, SideSpec};
use common::step::file::{RootAnswer, RootQuestion, RootSide};
use proto::v1::question::Question;

use crate::access::actor::Actor;
use crate::hub::Hub;
use crate::live::sessions::{ANSWER_DEADLINE, not_connected};
use crate::planner::{self, Side};
use crate::state::migration::{Command as MigrationCommand, Create, Migration};
use crate::state::refusal::Refusal;
use crate::state::roots::{Root, Roots};
use crate::state::{Command, Outcome, State};

/// What an operator asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks, and from where.
    pub principal: Actor,
    /// In which tenant.
    pub tenant: TenantId,
    /// Made by the caller; a repeated one makes no second migration.
    pub request_id: String,
    /// The spec as JSON.
    pub spec: String,
    /// Whether the operator agreed to what the plan ends.
    pub confirmed: bool,
}

/// Makes a migration and returns its id; the same id for a repeated request.
///
/// # Errors
/// When the spec cannot be used, a host is not there, or the roots stand against it.
pub async fn migrate(hub: &Hub, asked: Asked) -> Result<MigrationId, Failure> {
    let state = hub.state();
    if let Some(made) = state.migrations().by_request(&asked.tenant, &asked.request_id) {
        return Ok(made.id.clone());
    }
    let (spec, roots, plan) = prepare(hub, &asked).await?;
    let create = Create {
        tenant: asked.tenant,
        migration: plan.migration.clone(),
        request_id: asked.request_id,
        spec: Arc::new(spec),
        roots,
        plan: Arc::new(plan),
        is_confirmed: asked.confirmed,
    };
    let command = Command::Migration(MigrationCommand::Create(Box::new(create)));
    match hub.propose(asked.principal, command).await? {
        Outcome::Created { migration, .. } => {
            hub.wake.notify_one();
            Ok(migration)
        }
        _ => Err(Failure::new(FailureKind::Bug, "a migration was made without an id")),
    }
}

/// Plans and changes nothing.
///
/// # Errors
/// As [`migrate`].
pub async fn plan_only(hub: &Hub, asked: &Asked) -> Result<Plan, Failure> {
    prepare(hub, asked).await.map(|(_, _, plan)| plan)
}

/// Returns one more verification for a migration that has been verified or could be.
///
/// # Errors
/// When its plan holds nothing that could be verified.
pub fn verification(migration: &Migration, is_deep: bool) -> Result<PlannedStep, Failure> {
    planner::verify_again(&migration.plan, &migration.spec, is_deep).map_err(|finding| refused(&[finding]))
}

async fn prepare(hub: &Hub, asked: &Asked) -> Result<(MigrationSpec, Roots, Plan), Failure> {
    let mut spec = read_spec(&asked.spec)?;
    check_rules(&spec)?;
    let state = hub.state();
    pin_secrets(&state, &asked.tenant, &mut spec)?;
    let source_facts = check_host(hub, &state, &asked.tenant, &spec.source.location.host)?;
    let destination_facts = check_host(hub, &state, &asked.tenant, &spec.destination.location.host)?;
    let relay_facts = spec
        .transfer
        .relay
        .as_ref()
        .map(|relay| check_host(hub, &state, &asked.tenant, relay))
        .transpose()?;
    let source = ask(hub, &asked.tenant, &spec.source, RootSide::Source);
    let destination = ask(hub, &asked.tenant, &spec.destination, RootSide::Destination);
    let (source, destination) = tokio::try_join!(source, destination)?;
    check_source(&spec.source, &source)?;
    let roots = Roots {
        source: Root::new(spec.source.location.host.clone(), &source),
        destination: Root::new(spec.destination.location.host.clone(), &destination),
    };
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let id = MigrationId::from_random(random);
    let settles = if spec.options.dry_run {
        Vec::new()
    } else {
        let settled = state.migrations().settled_by(&asked.tenant, &roots);
        settled.map_err(Refusal::into_failure)?
    };
    let source = Side { host: &spec.source.location.host, facts: source_facts, root: &source };
    let destination =
        Side { host: &spec.destination.location.host, facts: destination_facts, root: &destination };
    let plan = planner::plan(&id, &spec, source, destination, relay_facts, settles)
        .map_err(|findings| refused(&findings))?;
    Ok((spec, roots, plan))
}

/// Checks what is left out: an agent would refuse it too, but only when the migration runs.
fn check_rules(spec: &MigrationSpec) -> Result<(), Failure> {
    spec.check_rules().map_err(|error| {
        Failure::of(FailureKind::Invalid, &error)
            .hint("`ctl help migrate` says what patterns and limits can say")
    })
}

/// Checks what is sanitised, and notes which version of a secret the migration begins with, so that it goes on with it.
fn pin_secrets(state: &State, tenant: &TenantId, spec: &mut MigrationSpec) -> Result<(), Failure> {
    let Some(sanitize) = &mut spec.sanitize else { return Ok(()) };
    sanitize.check().map_err(|error| {
        let failure = Failure::of(FailureKind::Invalid, &error);
        Failure { message: format!("`sanitize`: {}", failure.message), ..failure }
            .hint("see the section on sanitising in the README for what rules can say")
    })?;
    sanitize.key_version = None;
    if let Some(Reference::Secret(name)) = sanitize.needed_key() {
        let newest = state.secrets().get(tenant, name).and_then(|record| record.newest());
        sanitize.key_version = Some(newest.ok_or_else(|| absent_secret(name))?.number);
    }
    Ok(())
}

/// The path of an absent host, and of one that the caller may not know of; the words are those of the state.
pub fn absent_host(name: &str) -> Failure {
    let name: String = name.chars().take(64).collect();
    Refusal::absent("host", &name).into_failure()
}

/// The path of a secret that a spec names and that is absent, or not for the caller.
pub fn absent_secret(name: &SecretName) -> Failure {
    Failure::new(FailureKind::NotFound, format!("the spec names the secret `{name}`, and there is none"))
        .hint(format!(
            "keep it with `ctl secret set {name}`; one that is kept may lack the labels of your scope"
        ))
}

/// Reads a spec.
///
/// # Errors
/// When it cannot be read, or is of a version that this program does not know.
pub fn read_spec(text: &str) -> Result<MigrationSpec, Failure> {
    let spec: MigrationSpec = serde_json::from_str(text)
        .map_err(|error| Failure::new(FailureKind::Invalid, format!("the spec cannot be read: {error}")))?;
    if spec.version != SPEC_VERSION {
        let message =
            format!("the spec is of version {}, and this coordinator reads {SPEC_VERSION}", spec.version);
        return Err(
            Failure::new(FailureKind::Unsupported, message).hint("install the same version everywhere")
        );
    }
    Ok(spec)
}

/// A host takes part when it has joined, takes steps, and its agent is connected; returns what its agent found.
fn check_host<'state>(
    hub: &Hub,
    state: &'state State,
    tenant: &TenantId,
    name: &HostName,
) -> Result<&'state HostFacts, Failure> {
    let host = state.hosts().get(tenant, name).ok_or_else(|| absent_host(name.as_str()))?;
    let (kind, message, hint) = match host.status {
        HostStatus::Enrolled => {
            let is_connected = hub.sessions.of(tenant, name).is_some();
            return host.facts.as_ref().filter(|_| is_connected).ok_or_else(|| not_connected(name));
        }
        HostStatus::Invited => (
            FailureKind::Conflict,
            "has not joined yet",
            "run the command that `ctl host enroll` printed on it".to_owned(),
        ),
        HostStatus::Draining => (
            FailureKind::Conflict,
            "is draining and takes no new migration",
            format!("end the draining with `ctl host drain {name} --end`, or wait until who drained it has"),
        ),
        HostStatus::Revoked => {
            (FailureKind::Denied, "is revoked", format!("let it join again with `ctl host enroll {name}`"))
        }
    };
    Err(Failure::new(kind, format!("the host `{name}` {message}")).hint(hint))
}

async fn ask(
    hub: &Hub,
    tenant: &TenantId,
    side: &SideSpec,
    root_side: RootSide,
) -> Result<RootAnswer, Failure> {
    let host = &side.location.host;
    let question = RootQuestion { path: side.location.path.clone(), side: root_side };
    let question = serde_json::to_string(&question).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let answer = hub.sessions.ask(tenant, host, Question::Root(question), ANSWER_DEADLINE).await?;
    serde_json::from_str(&answer).map_err(|error| {
        Failure::new(
            FailureKind::Bug,
            format!("what the agent of `{host}` says of its root cannot be read: {error}"),
        )
    })
}

fn check_source(side: &SideSpec, answer: &RootAnswer) -> Result<(), Failure> {
    if answer.exists {
        return Ok(());
    }
    let message = format!("the source {} does not exist", side.location);
    Err(Failure::new(FailureKind::NotFound, message).hint("look at the path on that host"))
}

/// The refusal of a plan: the first finding decides the kind, all are told.
fn refused(findings: &[Finding]) -> Failure {
    let Some(first) = findings.first() else {
        return Failure::new(FailureKind::Bug, "a plan was refused without a reason");
    };
    let kind = match first.rule {
        Rule::Unreadable | Rule::Unwritable => FailureKind::Denied,
        Rule::Capacity => FailureKind::Exhausted,
        Rule::Attribute | Rule::SpecialFile | Rule::HardLink | Rule::NotSanitized => FailureKind::Unsupported,
        Rule::Plan
        | Rule::Vanished
        | Rule::Changed
        | Rule::Conflict
        | Rule::Corrupt
        | Rule::UnknownOwner
        | Rule::NotDeleted
        | Rule::Stage
        | Rule::InTheWay
        | Rule::KeptAside
        | Rule::LeftOut
        | Rule::Differs => FailureKind::Invalid,
    };
    let told: Vec<String> =
        findings.iter().map(|finding| format!("{}: {}", finding.object, finding.message)).collect();
    let failure = Failure::new(kind, told.join("; "));
    if first.hint.is_empty() { failure } else { failure.hint(first.hint.clone()) }
}

#[cfg(test)]
mod tests {
    use common::finding::Severity;

    use super::*;

    #[test]
    fn a_refused_plan_tells_every_finding_and_the_first_decides() {
        let finding = |rule, object: &str| Finding {
            rule,
            severity: Severity::Error,
            object: object.to_owned(),
            message: "no".to_owned(),
            hint: "mend it".to_owned(),
        };
        let failure = refused(&[finding(Rule::Unreadable, "/a"), finding(Rule::Plan, "/b")]);
        assert_eq!(failure.kind, FailureKind::Denied);
        assert_eq!(failure.message, "/a: no; /b: no");
        assert_eq!(failure.hint.as_deref(), Some("mend it"));
    }

    #[test]
    fn a_spec_of_another_version_is_refused() {
        assert_eq!(read_spec("{").unwrap_err().kind, FailureKind::Invalid);
    }
}
