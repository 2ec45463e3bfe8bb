//! Asking the coordinator about users, API keys, tenants and labels.

use std::time::Duration;

use common::account::{KeyView, NewKeyView, TenantView, UserView, WhoView};
use common::failure::{Failure, FailureKind};
use common::grant::ScopeItem;
use common::id::{HostName, KeyId, OperatorName, SecretName, TenantId};
use common::role::Role;
use common::secret::Secret;
use common::view::{HostView, SecretView};
use proto::channel::{Way, access_client, secret_client};
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::{
    CreateKeyRequest, CreateUserRequest, DisableUserRequest, Document, GrantUserRequest, KeyRequest,
    LabelHostRequest, LabelSecretRequest, LimitTenantRequest, OwnPasswordRequest, RoleGrant,
    SetPasswordRequest, TenantRequest, WhoRequest,
};
use serde::de::DeserializeOwned;
use tonic::{Response, Status};

use crate::client::{Client, read};

/// How long a call may take; hashing a password waits for its turn.
const DEADLINE: Duration = Duration::from_secs(30);

/// Returns a role with its scope as the wire has it.
pub(crate) fn role_grant(role: Role, scope: &[ScopeItem]) -> RoleGrant {
    let scope = scope.iter().map(|item| match item {
        ScopeItem::Host(host) => format!("host:{host}"),
        ScopeItem::Label(key, value) => format!("label:{key}={value}"),
    });
    RoleGrant { role: role.to_string(), scope: scope.collect() }
}

/// Refuses what is no label before the cluster is asked.
fn check_labels(labels: &[String]) -> Result<(), Failure> {
    for label in labels {
        let parsed: Result<ScopeItem, _> = format!("label:{label}").parse();
        parsed.map_err(|_error| {
            let message = format!("`{label}` is not a label");
            Failure::new(FailureKind::Invalid, message).hint("write it as KEY=VALUE, as team=shop")
        })?;
    }
    Ok(())
}

impl Client {
    /// Makes a call whose answer is one document.
    async fn document<T, R, F, Fut>(&self, request: R, call: F) -> Result<T, Failure>
    where
        T: DeserializeOwned,
        R: Clone,
        F: Fn(AccessServiceClient<Way>, R) -> Fut,
        Fut: Future<Output = Result<Response<Document>, Status>>,
    {
        let asked = self.coordinators().call(DEADLINE, |way| call(access_client(way), request.clone()));
        read(&asked.await?)
    }

    /// Returns who we are to the cluster.
    pub(crate) async fn who_am_i(&self) -> Result<WhoView, Failure> {
        self.document(WhoRequest {}, |mut client, request| async move { client.who_am_i(request).await })
            .await
    }

    /// Changes our own password.
    pub(crate) async fn set_own_password(
        &self,
        current: &Secret<String>,
        password: &Secret<String>,
    ) -> Result<UserView, Failure> {
        let request =
            OwnPasswordRequest { current: current.expose().clone(), password: password.expose().clone() };
        self.document(request, |mut client, request| async move { client.set_own_password(request).await })
            .await
    }

    /// Returns all users of the tenant.
    pub(crate) async fn users(&self) -> Result<Vec<UserView>, Failure> {
        self.pages(|way, request| async move { access_client(way).list_users(request).await }).await
    }

    /// Makes a user.
    pub(crate) async fn create_user(
        &self,
        name: &OperatorName,
        grant: RoleGrant,
        password: Option<&Secret<String>>,
    ) -> Result<UserView, Failure> {
        let password = password.map(|password| password.expose().clone()).unwrap_or_default();
        let request = CreateUserRequest { name: name.to_string(), grant: Some(grant), password };
        self.document(request, |mut client, request| async move { client.create_user(request).await }).await
    }

    /// Grants more to a user, or takes away what was granted in a tenant.
    pub(crate) async fn grant_user(
        &self,
        name: &OperatorName,
        within: Option<&TenantId>,
        grant: Option<RoleGrant>,
    ) -> Result<UserView, Failure> {
        let within = within.map(ToString::to_string).unwrap_or_default();
        let request = GrantUserRequest { name: name.to_string(), within, grant };
        self.document(request, |mut client, request| async move { client.grant_user(request).await }).await
    }

    /// Disables a user, or enables it again.
    pub(crate) async fn disable_user(&self, name: &OperatorName, disable: bool) -> Result<UserView, Failure> {
        let request = DisableUserRequest { name: name.to_string(), disable };
        self.document(request, |mut client, request| async move { client.disable_user(request).await }).await
    }

    /// Sets a user's password.
    pub(crate) async fn set_password(
        &self,
        name: &OperatorName,
        password: &Secret<String>,
    ) -> Result<UserView, Failure> {
        let request = SetPasswordRequest { name: name.to_string(), password: password.expose().clone() };
        self.document(request, |mut client, request| async move { client.set_password(request).await }).await
    }

    /// Returns all API keys of the tenant.
    pub(crate) async fn keys(&self) -> Result<Vec<KeyView>, Failure> {
        self.pages(|way, request| async move { access_client(way).list_keys(request).await }).await
    }

    /// Makes an API key.
    pub(crate) async fn create_key(
        &self,
        name: &str,
        grant: RoleGrant,
        lifetime: Option<Duration>,
    ) -> Result<NewKeyView, Failure> {
        let lifetime_ms = lifetime.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let request = CreateKeyRequest { name: name.to_owned(), grant: Some(grant), lifetime_ms };
        self.document(request, |mut client, request| async move { client.create_key(request).await }).await
    }

    /// Revokes an API key.
    pub(crate) async fn revoke_key(&self, id: &KeyId) -> Result<KeyView, Failure> {
        let request = KeyRequest { id: id.to_string() };
        self.document(request, |mut client, request| async move { client.revoke_key(request).await }).await
    }

    /// Returns all tenants.
    pub(crate) async fn tenants(&self) -> Result<Vec<TenantView>, Failure> {
        self.pages(|way, request| async move { access_client(way).list_tenants(request).await }).await
    }

    /// Makes a tenant.
    pub(crate) async fn create_tenant(&self, name: &TenantId) -> Result<TenantView, Failure> {
        let request = TenantRequest { name: name.to_string() };
        self.document(request, |mut client, request| async move { client.create_tenant(request).await }).await
    }

    /// Says what a tenant may do at once.
    pub(crate) async fn limit_tenant(
        &self,
        name: &TenantId,
        migrations: Option<u32>,
    ) -> Result<TenantView, Failure> {
        let request = LimitTenantRequest { name: name.to_string(), migrations: migrations.unwrap_or(0) };
        self.document(request, |mut client, request| async move { client.limit_tenant(request).await }).await
    }

    /// Labels a host, in the place of all labels that it had.
    pub(crate) async fn label_host(&self, host: &HostName, labels: Vec<String>) -> Result<HostView, Failure> {
        check_labels(&labels)?;
        let request = LabelHostRequest { host: host.to_string(), labels };
        self.document(request, |mut client, request| async move { client.label_host(request).await }).await
    }

    /// Labels a secret, in the place of all labels that it had.
    pub(crate) async fn label_secret(
        &self,
        name: &SecretName,
        labels: Vec<String>,
    ) -> Result<SecretView, Failure> {
        check_labels(&labels)?;
        let call = |way| {
            let request = LabelSecretRequest { name: name.to_string(), labels: labels.clone() };
            async move { secret_client(way).label_secret(request).await }
        };
        read(&self.coordinators().call(DEADLINE, call).await?)
    }
}
