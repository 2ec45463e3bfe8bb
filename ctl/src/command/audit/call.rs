//! Asking the coordinator about the audit.

use std::time::Duration;

use common::audit::line::Line;
use common::audit::view::AuditVerifyView;
use common::failure::{Failure, FailureKind};
use proto::channel::audit_client;
use proto::status::to_failure;
use proto::v1::{AuditExportRequest, AuditListRequest, AuditVerifyRequest, Document, Page, Piece};
use serde::de::DeserializeOwned;
use tonic::Streaming;

use crate::client::Client;

/// How long a part of a list, or the beginning of an export, may take.
const ASK_DEADLINE: Duration = Duration::from_secs(30);
/// How long all nodes may take to walk along their copies.
const VERIFY_DEADLINE: Duration = Duration::from_secs(330);

/// Returns a part of the list, and where the next one begins.
pub(super) async fn list(
    client: &Client,
    request: &AuditListRequest,
) -> Result<(Vec<Line>, String), Failure> {
    let call = |channel| {
        let request = request.clone();
        async move { audit_client(channel).list(request).await }
    };
    let Page { document, next } = client.coordinators().call(ASK_DEADLINE, call).await?;
    Ok((read(&document)?, next))
}

/// Returns what every node found along its own copy.
pub(super) async fn verify(client: &Client) -> Result<AuditVerifyView, Failure> {
    let call = |channel| async move { audit_client(channel).verify(AuditVerifyRequest {}).await };
    let Document { document } = client.coordinators().call(VERIFY_DEADLINE, call).await?;
    read(&document)
}

/// The whole chain as it arrives.
#[derive(Debug)]
pub(super) struct Export {
    stream: Streaming<Piece>,
}

impl Export {
    /// Begins to read it.
    pub(super) async fn begin(client: &Client, all_tenants: bool) -> Result<Self, Failure> {
        let call =
            |channel| async move { audit_client(channel).export(AuditExportRequest { all_tenants }).await };
        Ok(Self { stream: client.coordinators().call(ASK_DEADLINE, call).await? })
    }

    /// Returns the next whole lines; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        let piece = self.stream.message().await.map_err(|status| to_failure(&status))?;
        let Some(Piece { lines }) = piece else { return Ok(None) };
        let text = String::from_utf8(lines).map_err(|error| Failure::of(FailureKind::Corrupt, &error))?;
        Ok(Some(text))
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::of(FailureKind::Unsupported, &error)
            .context("answer", "not a document that this version of ctl knows")
            .hint("use the ctl of the coordinator's version")
    })
}
