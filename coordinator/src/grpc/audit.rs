//! The service for auditors.

use std::pin::Pin;
use std::sync::Arc;

use common::audit::line::Line;
use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use proto::status::to_status;
use proto::v1::audit_service_server::AuditService;
use proto::v1::{AuditExportRequest, AuditListRequest, AuditVerifyRequest, Document, Page, Piece};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::admission::{self, Admitted};
use crate::access::call::Call;
use crate::audit::read::{self, Filter};
use crate::audit::verify;
use crate::hub::Hub;
use crate::state::query::{PAGE_DEFAULT, PAGE_MAX};

/// Pieces of an export that wait for the network; each has a few hundred KiB.
const PIECES_MAX: usize = 2;

/// The service.
#[derive(Clone, Debug)]
pub struct AuditDoor {
    hub: Arc<Hub>,
}

impl AuditDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    async fn admit<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
        admission::admit_at_leader(&self.hub, request, call).await
    }
}

/// Reads the filter of a list.
fn filter_of(request: AuditListRequest) -> Result<Filter, Failure> {
    let AuditListRequest { from: _, limit: _, since_ms, until_ms, principal, object, action, outcome } =
        request;
    let is_refused = match outcome.as_str() {
        "" => None,
        "done" => Some(false),
        "refused" => Some(true),
        other => {
            let other: String = other.chars().take(64).collect();
            return Err(Failure::new(FailureKind::Invalid, format!("`{other}` is no outcome"))
                .hint("ask for `done`, for `refused`, or for both by naming none"));
        }
    };
    let moment = |ms: u64| (ms > 0).then_some(WallMs(ms));
    Ok(Filter { since: moment(since_ms), until: moment(until_ms), principal, object, action, is_refused })
}

fn text(value: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(value).map_err(|error| Status::internal(error.to_string()))
}

#[tonic::async_trait]
impl AuditService for AuditDoor {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<Piece, Status>> + Send>>;

    async fn list(&self, request: Request<AuditListRequest>) -> Result<Response<Page>, Status> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadAudit).await?;
        let request = request.into_inner();
        let before =
            match request.from.as_str() {
                "" => None,
                from => Some(read::place_of(&self.hub, &tenant, from).ok_or_else(|| {
                    Status::invalid_argument("`from` is not what a page before this one said")
                })?),
            };
        let limit = match usize::try_from(request.limit).unwrap_or(PAGE_MAX) {
            0 => PAGE_DEFAULT,
            limit => limit.min(PAGE_MAX),
        };
        let filter = filter_of(request).map_err(|failure| to_status(&failure))?;
        let part = read::list(&self.hub, &tenant, before, limit, &filter).await;
        let mut part = part.map_err(|failure| to_status(&failure))?;
        if tenant != TenantId::default_tenant() {
            // Whoever reads the audit of `default` may read all of it.
            part.lines = part.lines.iter().map(Line::placeless).collect();
        }
        let next = part.next.map(|next| read::place_text(&self.hub, &tenant, next)).transpose();
        let next = next.map_err(|failure| to_status(&failure))?.unwrap_or_default();
        Ok(Response::new(Page { document: text(&part.lines)?, next }))
    }

    async fn export(
        &self,
        request: Request<AuditExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let all_tenants = request.get_ref().all_tenants;
        let call = if all_tenants { Call::VerifyAudit } else { Call::ReadAudit };
        let admitted = self.admit(&request, call).await?;
        let (pieces, stream) = mpsc::channel(PIECES_MAX);
        let tenant = (!all_tenants).then(|| admitted.tenant.clone());
        self.hub.shutdown.spawn(read::export(Arc::clone(&self.hub), tenant, pieces));
        let hub = Arc::clone(&self.hub);
        // An export may take long, and whoever loses the grant meanwhile reads no further.
        let handed = move |piece: Result<Vec<u8>, Failure>| {
            let lines = piece.and_then(|lines| admitted.check_again(&hub.state(), call).map(|()| lines));
            lines.map(|lines| Piece { lines }).map_err(|failure| to_status(&failure))
        };
        let stream = ReceiverStream::new(stream).map(handed);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn verify(&self, request: Request<AuditVerifyRequest>) -> Result<Response<Document>, Status> {
        self.admit(&request, Call::VerifyAudit).await?;
        let view = verify::all(&self.hub).await.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(Document { document: text(&view)? }))
    }
}
