//! What threads hand to a lane, and the lane's writer.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::lane::{LaneError, LaneSender};
use crate::serve::Session;

/// Units that wait for the writer of one lane, of at most a mebibyte each: one that is written, one that is ready.
pub(super) const UNITS_WAITING: usize = 2;
/// Written at once, so that a slow limit lets bytes through evenly.
const WRITE_BYTES: usize = 128 * 1024;

/// A frame and the raw bytes that belong to it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Bytes,
    pub(super) raw: Bytes,
}

/// Writes what threads hand in, as fast as the limit allows, until they are done.
pub(super) async fn write(
    session: &Session,
    mut sender: LaneSender,
    mut units: mpsc::Receiver<Outgoing>,
) -> Result<(), LaneError> {
    while let Some(Outgoing { frame, raw }) = units.recv().await {
        write_one(session, &mut sender, frame).await?;
        write_one(session, &mut sender, raw).await?;
    }
    sender.finish().await;
    Ok(())
}

async fn write_one(session: &Session, sender: &mut LaneSender, mut bytes: Bytes) -> Result<(), LaneError> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(WRITE_BYTES));
        let length = piece.len();
        // A load that is too high says nothing about the link.
        session.throttle.released().await;
        session.meter.begin();
        session.throttle.take(length).await;
        let written = sender.bytes(piece).await;
        session.meter.end(length);
        written?;
    }
    Ok(())
}
