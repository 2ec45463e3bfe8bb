//! The list of a migration, on its way from the agent that keeps it to who reads it.

use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use proto::status::to_status;
use proto::v1::Piece;
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::Admitted;
use crate::access::call::Call;
use crate::hub::Hub;

/// Hands pieces on until the last one, until nobody reads, or until the reader may not look at the migration any more:
/// a list may take long, and whoever loses the grant meanwhile reads no further.
pub async fn hand_on(
    hub: Arc<Hub>,
    admitted: Admitted,
    id: String,
    mut pieces: mpsc::Receiver<Result<Vec<u8>, Failure>>,
    lines: mpsc::Sender<Result<Piece, Status>>,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = lines.closed() => return,
            next = pieces.recv() => next,
        };
        let next = match next {
            // An empty piece is the end; a channel that closes without it broke off.
            Some(Ok(piece)) if piece.is_empty() => return,
            Some(Ok(lines)) => {
                let again = admitted.again(&hub.state());
                again
                    .and_then(|again| again.migration(&hub, Call::ReadMigration, &id))
                    .map(|_| Piece { lines })
            }
            Some(Err(failure)) => Err(failure),
            None => Err(Failure::new(FailureKind::Unreachable, "the list broke off")),
        };
        let is_end = next.is_err();
        if lines.send(next.map_err(|failure| to_status(&failure))).await.is_err() || is_end {
            return;
        }
    }
}
