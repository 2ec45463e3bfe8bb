//! One content lane: requests to a thread, its answers to the peer.

use std::sync::Arc;

use common::shutdown::Shutdown;
use sync::wire::content::Request;
use sync::wire::error_code::ErrorCode;
use tokio::sync::mpsc;

use crate::lane::{Lane, LaneReceiver};
use crate::serve::outgoing::{self, UNITS_WAITING};
use crate::serve::worker::Worker;
use crate::serve::{Session, describe_lane};

/// Batches that wait for the thread of one lane; further ones wait in the lane's window.
const BATCHES_WAITING: usize = 2;

/// Serves the lane until the peer finishes it.
pub(super) async fn serve(
    session: Arc<Session>,
    lane: Lane,
    nonce: Option<[u8; 32]>,
    follows: bool,
    tasks: &Shutdown,
) -> Result<(), (ErrorCode, String)> {
    let Lane { sender, receiver } = lane;
    let (batches, requests) = mpsc::channel(BATCHES_WAITING);
    let (units, waiting) = mpsc::channel(UNITS_WAITING);
    let worked = Arc::clone(&session);
    let worker = tasks.spawn(async move {
        tokio::task::spawn_blocking(move || {
            Worker::new(worked, units, nonce, follows).and_then(|worker| worker.run(requests))
        })
        .await
    });
    let hearing = tasks.spawn(async move { hear(receiver, batches).await });
    let written = outgoing::write(&session, sender, waiting).await;
    if let Err(error) = written {
        // The thread finds its channel closed. A lost connection is no fault of anybody here.
        return Err((ErrorCode::Internal, describe_lane(&error)));
    }
    match worker.await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(failure))) => return Err((ErrorCode::Internal, failure.message)),
        Ok(Err(_)) | Err(_) => {
            return Err((ErrorCode::Internal, "a thread that reads files panicked".to_owned()));
        }
    }
    match hearing.await {
        Ok(outcome) => outcome,
        Err(_) => Err((ErrorCode::Internal, "a task that hears requests panicked".to_owned())),
    }
}

async fn hear(mut receiver: LaneReceiver, batches: mpsc::Sender<Request>) -> Result<(), (ErrorCode, String)> {
    let mut body = Vec::new();
    loop {
        match receiver.message::<Request>(&mut body).await {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => {
                if batches.send(request).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => return Err((ErrorCode::Protocol, describe_lane(&error))),
        }
    }
}
