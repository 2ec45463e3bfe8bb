//! The service among nodes: certificates of nodes only, bytes to bytes.

use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::principal::Principal;
use proto::status::to_status;
use proto::v1::RaftMessage;
use proto::v1::raft_service_server::RaftService;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use crate::access::call::Call;
use crate::audit::exchange;
use crate::hub::Hub;
use crate::raft::membership::Admission;
use crate::raft::server::Server;
use crate::raft::wire;
use crate::rotate;

/// The service.
#[derive(Clone, Debug)]
pub struct RaftDoor {
    server: Server,
    hub: Arc<Hub>,
}

type Answered = Result<Response<RaftMessage>, Status>;

impl RaftDoor {
    /// Makes the service.
    pub fn new(server: Server, hub: Arc<Hub>) -> Self {
        Self { server, hub }
    }
}

fn answer(result: Result<Vec<u8>, Failure>) -> Answered {
    result.map(|payload| Response::new(RaftMessage { payload })).map_err(|failure| to_status(&failure))
}

/// Lets nodes pass, and returns what they said.
fn admit(request: Request<RaftMessage>) -> Result<Vec<u8>, Status> {
    refuse::check_known(&request, Call::Raft)?;
    Ok(request.into_inner().payload)
}

#[tonic::async_trait]
impl RaftService for RaftDoor {
    async fn append(&self, request: Request<RaftMessage>) -> Answered {
        answer(self.server.append(&admit(request)?).await)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Answered {
        answer(self.server.vote(&admit(request)?).await)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Answered {
        answer(self.server.pre_vote(&admit(request)?).await)
    }

    async fn snapshot(&self, request: Request<Streaming<RaftMessage>>) -> Answered {
        refuse::check_known(&request, Call::Raft)?;
        let mut pieces = request.into_inner();
        let header =
            pieces.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        let mut receiving =
            self.server.begin_snapshot(&header.payload).map_err(|failure| to_status(&failure))?;
        while let Some(RaftMessage { payload }) = pieces.message().await? {
            receiving.piece(&payload).await.map_err(|failure| to_status(&failure))?;
        }
        answer(receiving.finish().await)
    }

    async fn hand_over(&self, request: Request<RaftMessage>) -> Answered {
        answer(self.server.hand_over(&admit(request)?).await)
    }

    async fn admit(&self, request: Request<RaftMessage>) -> Answered {
        let Principal::Node { name } = refuse::check_known(&request, Call::Raft)? else {
            return Err(Status::permission_denied("only nodes are admitted"));
        };
        let payload = request.into_inner().payload;
        let admitted = async {
            let admission: Admission = wire::decode(&payload)?;
            if self.hub.is_leader() {
                rotate::check_newcomer(&self.hub, &admission.member.raft_address).await?;
            }
            self.server.admit(&name, admission).await
        };
        answer(admitted.await)
    }

    async fn audit(&self, request: Request<RaftMessage>) -> Answered {
        let Principal::Node { name } = refuse::check_known(&request, Call::Raft)? else {
            return Err(Status::permission_denied("only nodes ask this"));
        };
        answer(exchange::serve(&self.hub, &name, &request.into_inner().payload).await)
    }

    async fn holds_key(&self, request: Request<RaftMessage>) -> Answered {
        let id: Result<[u8; 8], _> = admit(request)?.as_slice().try_into();
        let held = match id.map_err(|error| Failure::of(FailureKind::Invalid, &error)) {
            Ok(id) => rotate::holds(&self.hub, id).await,
            Err(failure) => Err(failure),
        };
        answer(held.map(|is_held| vec![u8::from(is_held)]))
    }
}
