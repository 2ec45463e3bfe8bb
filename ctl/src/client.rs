//! Asking the coordinator.
//!
//! Every call follows the leader, waits through an election, and ends at its deadline. A call may reach the cluster
//! twice; it bears the same name both times, and a change is made once. Documents are the types of `common::view`; what is not one of
//! them comes from a newer or older version and is refused by name.

use std::sync::Arc;
use std::time::Duration;

use common::context::Context;
use common::control::{ControlChange, HostLimitChange};
use common::failure::{Failure, FailureKind};
use common::id::{HostName, MigrationId, NodeName, SecretName, TenantId};
use common::secret::Secret;
use common::spec::MigrationSpec;
use common::tls::{self, ALPN_GRPC, Identity, Peer};
use common::view::{ClusterView, HostView, JoinView, KeyRotationView, MigrationView, ReportView, SecretView};
use proto::channel::{Coordinators, Way, control_client, secret_client};
use proto::shown::Shown;
use proto::status::to_failure;
use proto::v1::{
    ActRequest, ClusterRequest, Document, DrainRequest, HostRequest, LimitHostRequest, MigrateRequest,
    MigrationRequest, NodeRequest, Page, PageRequest, Piece, RotateClusterKeyRequest, SecretRequest,
    SetMigrationRequest, SetSecretRequest,
};
use rustls::pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use tonic::Streaming;

use crate::failure::CommandError;
use crate::verb::Verb;

/// How long a question may take; an election in between costs about a second.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// How long a change may take: it asks agents of both sides before it is answered.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
/// Entries of a list in one answer.
const PAGE_LEN: u32 = 500;
/// Entries of a list at the most: what a person or a script still reads; state holds about as many.
const LIST_LEN_MAX: usize = 100_000;

/// The way to one cluster as one operator.
#[derive(Debug)]
pub(crate) struct Client {
    coordinators: Coordinators,
    /// None for a caller with an API key.
    identity: Option<Arc<Identity>>,
    /// How long a question may take.
    ask_deadline: Duration,
}

impl Client {
    /// Makes the way that a context describes, of who shows an API key or the context's certificate.
    ///
    /// # Errors
    /// When its certificates or its key cannot be used, or it has none and no API key is given.
    pub(crate) fn new(
        context: &Context,
        api_key: Option<&Secret<String>>,
        tenant: Option<&TenantId>,
    ) -> Result<Self, CommandError> {
        let authority = authority(context)?;
        let (identity, config) = if api_key.is_some() {
            (None, tls::keyed::client_config(&authority, ALPN_GRPC).map_err(|error| unusable(&error))?)
        } else if context.certificate.is_empty() {
            return Err(Failure::new(
                FailureKind::Unauthenticated,
                "the context holds no certificate and no API key",
            )
            .hint("log in with `ctl login`")
            .into());
        } else {
            let identity = Identity::from_pem(&context.certificate, &context.key);
            let identity = identity.map_err(|error| unusable(&error))?;
            let config = tls::client_config(Arc::clone(&identity), &authority, ALPN_GRPC);
            (Some(identity), config.map_err(|error| unusable(&error))?)
        };
        let shown = Shown::new(api_key, tenant)?;
        let coordinators = Coordinators::new(context.coordinators.clone(), Arc::new(config)).showing(shown);
        Ok(Self { coordinators, identity, ask_deadline: ASK_DEADLINE })
    }

    /// Lets a question take as long as the caller says.
    #[must_use]
    pub(crate) fn asking_for(mut self, deadline: Duration) -> Self {
        self.ask_deadline = deadline;
        self
    }

    /// Returns the way to the leader, for what a file beside this one asks.
    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    /// Returns who we are, by our own certificate; nothing for who shows an API key.
    ///
    /// # Errors
    /// When the certificate was not issued by a cluster.
    pub(crate) fn own_peer(&self) -> Result<Option<Peer>, Failure> {
        let peer = self.identity.as_ref().map(|identity| identity.peer()).transpose();
        peer.map_err(|error| Failure::of(FailureKind::Unauthenticated, &error))
    }

    /// Makes and runs a migration; `request_id` makes a repeated call the same migration.
    ///
    /// # Errors
    /// When the cluster refuses the spec or its plan, or cannot be reached.
    pub(crate) async fn migrate(
        &self,
        spec: &MigrationSpec,
        request_id: &str,
        confirmed: bool,
    ) -> Result<MigrationView, Failure> {
        let spec = serde_json::to_string(spec).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let request = MigrateRequest { request_id: request_id.to_owned(), spec, plan_only: false, confirmed };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).migrate(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Asks for a change of a migration.
    ///
    /// # Errors
    /// When the cluster refuses it or cannot be reached.
    pub(crate) async fn act(
        &self,
        migration: &MigrationId,
        verb: Verb,
        confirmed: bool,
    ) -> Result<MigrationView, Failure> {
        let deep = matches!(verb, Verb::Verify { deep: true });
        let request =
            ActRequest { migration: migration.to_string(), verb: verb.as_str().to_owned(), deep, confirmed };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).act(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Changes how a migration runs.
    ///
    /// # Errors
    /// When the cluster refuses it or cannot be reached.
    pub(crate) async fn set(
        &self,
        migration: &MigrationId,
        change: &ControlChange,
    ) -> Result<MigrationView, Failure> {
        let change = serde_json::to_string(change).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let request = SetMigrationRequest { migration: migration.to_string(), change };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).set_migration(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Returns one migration.
    ///
    /// # Errors
    /// When it does not exist or the cluster cannot be reached.
    pub(crate) async fn migration(&self, migration: &MigrationId) -> Result<MigrationView, Failure> {
        let call = |channel| {
            let request = MigrationRequest { migration: migration.to_string() };
            async move { control_client(channel).get_migration(request).await }
        };
        read(&self.coordinators.call(self.ask_deadline, call).await?)
    }

    /// Returns all migrations.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub(crate) async fn migrations(&self) -> Result<Vec<MigrationView>, Failure> {
        self.pages(|channel, request| async move { control_client(channel).list_migrations(request).await })
            .await
    }

    /// Begins to watch a migration.
    ///
    /// # Errors
    /// When it does not exist or the cluster cannot be reached.
    pub(crate) async fn watch(&self, migration: &MigrationId) -> Result<Watch, Failure> {
        let call = |channel| {
            let request = MigrationRequest { migration: migration.to_string() };
            async move { control_client(channel).watch_migration(request).await }
        };
        Ok(Watch { stream: self.coordinators.call(self.ask_deadline, call).await? })
    }

    /// Returns everything about a migration.
    ///
    /// # Errors
    /// When it does not exist or the cluster cannot be reached.
    pub(crate) async fn report(&self, migration: &MigrationId) -> Result<ReportView, Failure> {
        let call = |channel| {
            let request = MigrationRequest { migration: migration.to_string() };
            async move { control_client(channel).get_report(request).await }
        };
        read(&self.coordinators.call(self.ask_deadline, call).await?)
    }

    /// Begins to read the whole list of a dry run's changes, or of findings.
    ///
    /// # Errors
    /// When there is none, its agent is not connected, or the cluster cannot be reached.
    pub(crate) async fn list(&self, migration: &MigrationId) -> Result<List, Failure> {
        let call = |channel| {
            let request = MigrationRequest { migration: migration.to_string() };
            async move { control_client(channel).stream_list(request).await }
        };
        Ok(List { stream: self.coordinators.call(CHANGE_DEADLINE, call).await? })
    }

    /// Returns all hosts.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub(crate) async fn hosts(&self) -> Result<Vec<HostView>, Failure> {
        self.pages(|channel, request| async move { control_client(channel).list_hosts(request).await }).await
    }

    /// Returns one host.
    ///
    /// # Errors
    /// When it is not registered or the cluster cannot be reached.
    pub(crate) async fn host(&self, host: &HostName) -> Result<HostView, Failure> {
        let call = |channel| {
            let request = HostRequest { host: host.to_string() };
            async move { control_client(channel).get_host(request).await }
        };
        read(&self.coordinators.call(self.ask_deadline, call).await?)
    }

    /// Makes a one-time token for a host.
    ///
    /// # Errors
    /// When the host is enrolled already or the cluster cannot be reached.
    pub(crate) async fn enroll_host(&self, host: &HostName) -> Result<JoinView, Failure> {
        let call = |channel| {
            let request = HostRequest { host: host.to_string() };
            async move { control_client(channel).enroll_host(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Makes a one-time token for a coordinator node.
    ///
    /// # Errors
    /// When the node is a member already or the cluster cannot be reached.
    pub(crate) async fn enroll_node(&self, node: &NodeName) -> Result<JoinView, Failure> {
        let call = |channel| {
            let request = NodeRequest { name: node.to_string() };
            async move { control_client(channel).enroll_node(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Gives a host no new steps, or gives it steps again.
    ///
    /// # Errors
    /// When the host is not registered or the cluster cannot be reached.
    pub(crate) async fn drain_host(&self, host: &HostName, drain: bool) -> Result<HostView, Failure> {
        let call = |channel| {
            let request = DrainRequest { host: host.to_string(), drain };
            async move { control_client(channel).drain_host(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Limits what all migrations of a host share.
    ///
    /// # Errors
    /// When the host is not registered or the cluster cannot be reached.
    pub(crate) async fn limit_host(
        &self,
        host: &HostName,
        change: &HostLimitChange,
    ) -> Result<HostView, Failure> {
        let change = serde_json::to_string(change).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let request = LimitHostRequest { host: host.to_string(), change };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).limit_host(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Voids a host's certificate for good.
    ///
    /// # Errors
    /// When the host is not registered or the cluster cannot be reached.
    pub(crate) async fn revoke_host(&self, host: &HostName) -> Result<HostView, Failure> {
        let call = |channel| {
            let request = HostRequest { host: host.to_string() };
            async move { control_client(channel).revoke_host(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Returns the cluster.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) async fn cluster(&self) -> Result<ClusterView, Failure> {
        let call = |channel| async move { control_client(channel).get_cluster(ClusterRequest {}).await };
        read(&self.coordinators.call(self.ask_deadline, call).await?)
    }

    /// Keeps a secret.
    ///
    /// # Errors
    /// When the cluster refuses it or cannot be reached.
    pub(crate) async fn set_secret(
        &self,
        name: &SecretName,
        value: &Secret<Vec<u8>>,
        must_exist: bool,
    ) -> Result<SecretView, Failure> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let call = |channel| {
            let request = SetSecretRequest {
                name: name.to_string(),
                value: value.expose().clone(),
                must_exist,
                request_id: request_id.clone(),
            };
            async move { secret_client(channel).set_secret(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Returns the names of all secrets.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub(crate) async fn secrets(&self) -> Result<Vec<SecretView>, Failure> {
        self.pages(|channel, request| async move { secret_client(channel).list_secrets(request).await }).await
    }

    /// Forgets a secret; returns it as it was.
    ///
    /// # Errors
    /// When there is none or the cluster cannot be reached.
    pub(crate) async fn delete_secret(&self, name: &SecretName) -> Result<SecretView, Failure> {
        let call = |channel| {
            let request = SecretRequest { name: name.to_string() };
            async move { secret_client(channel).delete_secret(request).await }
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Moves everything sealed under another cluster key, or drops the keys before the present one.
    ///
    /// # Errors
    /// When a coordinator lacks the next key or the cluster cannot be reached.
    pub(crate) async fn rotate_cluster_key(&self, drop_old: bool) -> Result<KeyRotationView, Failure> {
        let call = |channel| async move {
            secret_client(channel).rotate_cluster_key(RotateClusterKeyRequest { drop_old }).await
        };
        read(&self.coordinators.call(CHANGE_DEADLINE, call).await?)
    }

    /// Reads a list to its end.
    pub(crate) async fn pages<T, F, Fut>(&self, call: F) -> Result<Vec<T>, Failure>
    where
        T: DeserializeOwned,
        F: Fn(Way, PageRequest) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Page>, tonic::Status>>,
    {
        let mut items = Vec::new();
        let mut from = String::new();
        loop {
            let request = PageRequest { from: from.clone(), limit: PAGE_LEN };
            let answer = self.coordinators.call(self.ask_deadline, |channel| call(channel, request.clone()));
            let Page { document, next } = answer.await?;
            let page: Vec<T> = parse(&document)?;
            let is_end = page.is_empty() || next.is_empty() || next == from;
            items.extend(page);
            if is_end || items.len() >= LIST_LEN_MAX {
                return Ok(items);
            }
            from = next;
        }
    }
}

/// Returns the cluster's certificate in a context.
///
/// # Errors
/// When there is none.
pub(crate) fn authority(context: &Context) -> Result<CertificateDer<'static>, CommandError> {
    let found = tls::certificates_of_pem(&context.ca_certificate).map_err(|error| unusable(&error))?;
    let none = || Failure::new(FailureKind::Invalid, "the context holds no certificate of the cluster");
    Ok(found.into_iter().next().ok_or_else(none)?)
}

fn unusable(error: &tls::TlsError) -> Failure {
    Failure::of(FailureKind::Invalid, error)
        .hint("the context is damaged; log in again with `ctl login`, or copy the file again from where `drover-coordinator init` wrote it")
}

/// A migration as it changes.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Streaming<Document>,
}

impl Watch {
    /// Returns where the migration stands next; nothing once the coordinator has no more to say.
    ///
    /// # Cancel safety
    /// May be dropped at any time; nothing is lost.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<MigrationView>, Failure> {
        match self.stream.message().await {
            Ok(Some(document)) => read(&document).map(Some),
            Ok(None) => Ok(None),
            Err(status) => Err(to_failure(&status)),
        }
    }
}

/// A long list as it arrives.
#[derive(Debug)]
pub(crate) struct List {
    stream: Streaming<Piece>,
}

impl List {
    /// Returns the next whole lines; nothing at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.stream.message().await {
            Ok(piece) => Ok(piece.map(|Piece { lines }| lines)),
            Err(status) => Err(to_failure(&status)),
        }
    }
}

/// Reads a document.
pub(crate) fn read<T: DeserializeOwned>(document: &Document) -> Result<T, Failure> {
    let Document { document } = document;
    parse(document)
}

/// Reads JSON of the coordinator's.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::of(FailureKind::Unsupported, &error)
            .context("answer", "not a document that this version of ctl knows")
            .hint(
                "use the ctl of the coordinator's version; `ctl version` and `ctl cluster status` show both",
            )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use common::host::HostStatus;

    use super::*;
    use crate::fake::{Fake, Script};

    /// A host that is there.
    pub(crate) fn host(name: &str) -> HostView {
        HostView {
            name: name.parse().unwrap(),
            tenant: "default".parse().unwrap(),
            status: HostStatus::Enrolled,
            connected: true,
            last_seen: None,
            facts: None,
            steps_running: 0,
            clock_ahead_ms: None,
            limits: Default::default(),
        }
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let hosts = [vec![host("a"), host("b")], vec![host("c")]].into();
        let fake = Fake::start(Script { hosts, ..Script::default() }).await;
        let found = fake.context(false).client().unwrap().hosts().await.unwrap();
        assert_eq!(found, [host("a"), host("b"), host("c")]);
        assert_eq!(fake.asked(), ["hosts from=", "hosts from=b"]);
    }

    #[tokio::test]
    async fn a_document_of_another_version_is_refused_by_name() {
        let fake = Fake::start(Script::default()).await;
        let client = fake.context(false).client().unwrap();
        let refused = client.migration(&"b7".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unsupported);
        assert!(refused.hint.is_some_and(|hint| hint.contains("ctl version")));
        assert_eq!(client.own_peer().unwrap().unwrap().principal.to_string(), "user:default/admin");
    }

    #[tokio::test]
    async fn a_long_list_arrives_in_pieces() {
        let list = vec![b"{\"a\":1}\n{\"a\"".to_vec(), b":2}\n".to_vec()];
        let fake = Fake::start(Script { list: list.clone(), ..Script::default() }).await;
        let mut read = fake.context(false).client().unwrap().list(&"b7".parse().unwrap()).await.unwrap();
        assert_eq!(read.next().await.unwrap().as_ref(), list.first());
        assert_eq!(read.next().await.unwrap().as_ref(), list.get(1));
        assert_eq!(read.next().await.unwrap(), None);
    }
}
