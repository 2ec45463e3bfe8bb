//! The service for secrets: seals what comes in, and never gives a value back.

use std::sync::Arc;

use crate::access::actor::Actor;
use common::failure::{Failure, FailureKind};
use common::id::{SecretName, TenantId};
use common::limit::SECRET_BYTES_MAX;
use common::secret::Secret;
use common::view::SecretView;
use proto::status::to_status;
use proto::v1::secret_service_server::SecretService;
use proto::v1::{
    Document, LabelSecretRequest, Page, PageRequest, RotateClusterKeyRequest, SecretRequest, SetSecretRequest,
};
use tonic::{Request, Response, Status};

use super::account::read_labels;
use super::admission::{self, Admitted};
use super::refuse;
use crate::access::call::Call;
use crate::access::policy::{Decision, Object};
use crate::hub::Hub;
use crate::state::query::{PAGE_DEFAULT, PAGE_MAX};
use crate::state::refusal::Refusal;
use crate::state::{Command, secret};
use crate::vault::sealed_secret::Place;

/// How often a secret is sealed again because somebody else took its version.
const TRIES_MAX: u32 = 3;

/// The service.
#[derive(Clone, Debug)]
pub struct SecretDoor {
    hub: Arc<Hub>,
}

type Answer<T> = Result<Response<T>, Status>;

impl SecretDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    async fn admit<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
        admission::admit_at_leader(&self.hub, request, call).await
    }

    /// Seals a value and has it kept; once more when somebody else was quicker.
    async fn set(
        &self,
        principal: &Actor,
        (tenant, name): (&TenantId, &SecretName),
        value: &Secret<Vec<u8>>,
        must_exist: bool,
        request_id: &str,
    ) -> Result<(), Failure> {
        for tries in 1.. {
            let version = self.hub.state().secrets().next_version(tenant, name);
            let place = Place { tenant, name, version };
            let (head, body) = place.seal(&self.hub.cluster_key()?, value.expose())?;
            let command = secret::Command::Set {
                tenant: tenant.clone(),
                name: name.clone(),
                version,
                must_exist,
                request_id: request_id.to_owned(),
                head,
                body,
            };
            match self.hub.propose(principal.clone(), Command::Secret(command)).await {
                Err(failure) if failure.kind == FailureKind::Conflict && tries < TRIES_MAX => {}
                Ok(_) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn view(&self, tenant: &TenantId, name: &SecretName) -> Result<SecretView, Status> {
        self.hub
            .state()
            .secrets()
            .view(tenant, name)
            .ok_or_else(|| to_status(Refusal::absent("secret", name).failure()))
    }
}

/// Refuses a value that cannot be one.
fn check_value(value: &[u8]) -> Result<(), Failure> {
    if value.is_empty() {
        let message = "the value is empty";
        return Err(Failure::new(FailureKind::Invalid, message)
            .hint("an empty secret protects nothing; to take one away, use `ctl secret delete`"));
    }
    if value.len() > SECRET_BYTES_MAX {
        let message =
            format!("the value has {} bytes, and a secret holds at most {SECRET_BYTES_MAX}", value.len());
        return Err(Failure::new(FailureKind::Invalid, message).hint("keep larger things in files"));
    }
    Ok(())
}

fn name_of(text: &str) -> Result<SecretName, Status> {
    text.parse().map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))
}

fn document(value: &impl serde::Serialize) -> Result<Document, Status> {
    let document = serde_json::to_string(value);
    document.map(|document| Document { document }).map_err(|error| Status::internal(error.to_string()))
}

#[tonic::async_trait]
impl SecretService for SecretDoor {
    async fn set_secret(&self, request: Request<SetSecretRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::ChangeSecret).await?;
        let SetSecretRequest { name, value, must_exist, request_id } = request.into_inner();
        let (name, value) = (name_of(&name)?, Secret::new(value));
        check_value(value.expose()).map_err(|failure| to_status(&failure))?;
        let set = self.set(&principal, (&tenant, &name), &value, must_exist, &request_id).await;
        refuse::or_status(&self.hub, set).await?;
        Ok(Response::new(document(&self.view(&tenant, &name)?)?))
    }

    async fn list_secrets(&self, request: Request<PageRequest>) -> Answer<Page> {
        let admitted = self.admit(&request, Call::ReadSecret).await?;
        let PageRequest { from, limit } = request.into_inner();
        let after = if from.is_empty() { None } else { Some(name_of(&from)?) };
        let limit = match usize::try_from(limit).unwrap_or(PAGE_MAX) {
            0 => PAGE_DEFAULT,
            limit => limit.min(PAGE_MAX),
        };
        let state = self.hub.state();
        let is_seen = |view: &SecretView| {
            admitted.decide(Call::ReadSecret, Object::Secret { labels: &view.labels }) == Decision::Allowed
        };
        let seen = state.secrets().views(&admitted.tenant, after.as_ref()).filter(is_seen);
        let mut views: Vec<SecretView> = seen.take(limit + 1).collect();
        let has_more = views.len() > limit;
        views.truncate(limit);
        let next = views.last().filter(|_| has_more).map(|last| last.name.to_string()).unwrap_or_default();
        let Document { document } = document(&views)?;
        Ok(Response::new(Page { document, next }))
    }

    async fn delete_secret(&self, request: Request<SecretRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::ChangeSecret).await?;
        let name = name_of(&request.into_inner().name)?;
        let view = self.view(&tenant, &name)?;
        let command = secret::Command::Delete { tenant, name };
        let deleted = self.hub.propose(principal, Command::Secret(command)).await;
        refuse::or_status(&self.hub, deleted).await?;
        Ok(Response::new(document(&view)?))
    }

    async fn label_secret(&self, request: Request<LabelSecretRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::LabelSecret).await?;
        let LabelSecretRequest { name, labels } = request.into_inner();
        let (name, labels) = (name_of(&name)?, read_labels(&labels)?);
        let command = secret::Command::Label { tenant: tenant.clone(), name: name.clone(), labels };
        let labelled = self.hub.propose(principal, Command::Secret(command)).await;
        refuse::or_status(&self.hub, labelled).await?;
        Ok(Response::new(document(&self.view(&tenant, &name)?)?))
    }

    async fn rotate_cluster_key(&self, request: Request<RotateClusterKeyRequest>) -> Answer<Document> {
        let Admitted { principal, .. } = self.admit(&request, Call::RotateClusterKey).await?;
        let RotateClusterKeyRequest { drop_old } = request.into_inner();
        let rotated = crate::rotate::rotate(&self.hub, principal, drop_old).await;
        Ok(Response::new(document(&refuse::or_status(&self.hub, rotated).await?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_too_large_values_are_refused_with_what_to_do() {
        assert_eq!(check_value(&[0xff; SECRET_BYTES_MAX]), Ok(()));
        for bad in [&[][..], &[0; SECRET_BYTES_MAX + 1]] {
            let refused = check_value(bad).unwrap_err();
            assert_eq!(refused.kind, FailureKind::Invalid);
            assert!(refused.hint.is_some());
        }
    }
}
