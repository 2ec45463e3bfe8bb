//! Lanes: ordered, reliable, cancellable byte streams with flow control, and what is above them: frames.
//!
//! This and `endpoint` are the only modules that know what a lane is made of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::failure::{Failure, FailureKind};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use sync::codec::{self, Message};
use sync::frame::{FrameError, HEADER_BYTES, Header};
use sync::wire::error_code::ErrorCode;

use crate::breach::{breach, shown};
use crate::tcp::{TcpReceiver, TcpSender};

/// Packets' payloads that are taken at once: each time costs the connection's lock.
const CHUNKS_AT_ONCE: usize = 32;
/// Reserved before the first byte has come.
const RESERVED_BYTES_MAX: usize = 1024 * 1024;

/// What an operator can do about a connection that is gone.
pub(crate) const LOST_HINT: &str = "Is the source's agent running, and does its log say more? What has landed stays; another attempt goes on from there.";

/// Both directions of one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) sender: LaneSender,
    pub(crate) receiver: LaneReceiver,
}

/// The writing half of a lane.
///
/// Dropping it without [`LaneSender::finish`] lets the peer see a reset, never an end.
#[derive(Debug)]
pub(crate) struct LaneSender {
    stream: Sending,
    is_finished: bool,
}

#[derive(Debug)]
enum Sending {
    Quic(SendStream),
    Tcp(TcpSender),
}

/// The reading half of a lane. Dropping it tells the peer to stop sending.
#[derive(Debug)]
pub(crate) struct LaneReceiver {
    stream: Receiving,
    /// Counts the bytes that were taken.
    taken: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Receiving {
    Quic {
        stream: RecvStream,
        /// What was taken and not asked for yet.
        pending: VecDeque<Bytes>,
    },
    Tcp(TcpReceiver),
}

/// Why a lane ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LaneError {
    /// The peer closed the connection and said why.
    #[error("the peer closed the connection ({code:?}): {reason}")]
    Closed { code: ErrorCode, reason: String },
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// This side closed the connection.
    #[error("the connection was closed here")]
    ClosedHere,
    /// The peer gave up this lane.
    #[error("the peer gave up a lane ({0:?})")]
    Reset(ErrorCode),
    /// The lane ended inside of a frame.
    #[error("a lane ended inside of a frame")]
    Cut,
    /// What came is not the protocol.
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
}

impl LaneError {
    /// Returns the failure of the step that needed the lane.
    pub(crate) fn to_failure(&self) -> Failure {
        let kind = match self {
            Self::Closed { code, .. } | Self::Reset(code) => code.failure_kind(),
            // Closing here follows another failure or a stop, which is told first where it is known.
            Self::Lost(_) | Self::Cut | Self::ClosedHere => FailureKind::Unreachable,
            Self::Frame(error) => return breach(error),
        };
        Failure::of(kind, self).hint(LOST_HINT)
    }
}

impl From<ConnectionError> for LaneError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: ErrorCode::from_number(close.error_code.into_inner()),
                reason: shown(&String::from_utf8_lossy(&close.reason)),
            },
            ConnectionError::LocallyClosed => Self::ClosedHere,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<WriteError> for LaneError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Reset(ErrorCode::from_number(code.into_inner())),
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Lost(error.to_string()),
        }
    }
}

impl From<ReadError> for LaneError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(ErrorCode::from_number(code.into_inner())),
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                Self::Lost(error.to_string())
            }
        }
    }
}

impl Lane {
    pub(crate) fn of_quic((send, receive): (SendStream, RecvStream)) -> Self {
        Self::of(Sending::Quic(send), Receiving::Quic { stream: receive, pending: VecDeque::new() })
    }

    pub(crate) fn of_tcp(sender: TcpSender, receiver: TcpReceiver) -> Self {
        Self::of(Sending::Tcp(sender), Receiving::Tcp(receiver))
    }

    /// Returns both halves, if they are of TCP.
    pub(crate) fn as_tcp(&mut self) -> Option<(&mut TcpSender, &mut TcpReceiver)> {
        match (&mut self.sender.stream, &mut self.receiver.stream) {
            (Sending::Tcp(sender), Receiving::Tcp(receiver)) => Some((sender, receiver)),
            (Sending::Quic(_), _) | (_, Receiving::Quic { .. }) => None,
        }
    }

    fn of(sending: Sending, receiving: Receiving) -> Self {
        Self {
            sender: LaneSender { stream: sending, is_finished: false },
            receiver: LaneReceiver { stream: receiving, taken: Arc::default() },
        }
    }
}

impl LaneSender {
    /// Sends one message.
    pub(crate) async fn message<M: Message>(&mut self, message: &M) -> Result<(), LaneError> {
        let mut frame = Vec::new();
        codec::encode(message, &mut frame)?;
        self.bytes(frame.into()).await
    }

    /// Sends bytes that are a frame, or belong to one.
    pub(crate) async fn bytes(&mut self, bytes: Bytes) -> Result<(), LaneError> {
        match &mut self.stream {
            Sending::Quic(stream) => Ok(stream.write_chunk(bytes).await?),
            Sending::Tcp(stream) => stream.bytes(&bytes).await,
        }
    }

    /// Says that nothing more comes; what was sent still arrives.
    pub(crate) async fn finish(&mut self) {
        self.is_finished = true;
        match &mut self.stream {
            // It fails only for a stream that has ended already.
            Sending::Quic(stream) => drop(stream.finish()),
            Sending::Tcp(stream) => stream.finish().await,
        }
    }

    /// Waits until the end of the connection takes nothing from the peer that was sent on this finished lane.
    pub(crate) async fn flushed(&mut self) -> Result<(), LaneError> {
        match &mut self.stream {
            Sending::Quic(stream) => match stream.stopped().await {
                Ok(_) => Ok(()),
                Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
                Err(quinn::StoppedError::ZeroRttRejected) => Err(LaneError::Cut),
            },
            // The kernel brings what it has, and the peer reads a lane to its end.
            Sending::Tcp(_) => Ok(()),
        }
    }
}

impl Drop for LaneSender {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        match &mut self.stream {
            // quinn would finish the stream, and a cut-off sequence would look whole.
            Sending::Quic(stream) => {
                stream.reset(VarInt::from_u32(ErrorCode::ResumeLater.number())).ok();
            }
            Sending::Tcp(stream) => stream.reset(),
        }
    }
}

impl LaneReceiver {
    /// Counts from now on what comes together with other lanes.
    pub(crate) fn count_in(&mut self, taken: Arc<AtomicU64>) {
        self.taken = taken;
    }

    /// Receives the next message; nothing when the peer finished the lane.
    pub(crate) async fn message<M: Message>(&mut self, body: &mut Vec<u8>) -> Result<Option<M>, LaneError> {
        let Some(header) = self.frame(body).await? else { return Ok(None) };
        Ok(Some(codec::decode(header, body)?))
    }

    /// Receives the next frame and leaves its body in `body`; nothing when the peer finished the lane.
    pub(crate) async fn frame(&mut self, body: &mut Vec<u8>) -> Result<Option<Header>, LaneError> {
        let mut head = Vec::with_capacity(HEADER_BYTES);
        match self.exact(HEADER_BYTES, &mut head).await {
            Err(LaneError::Cut) if head.is_empty() => return Ok(None),
            outcome => outcome?,
        }
        let head = head.first_chunk::<HEADER_BYTES>().ok_or(LaneError::Cut)?;
        let header = Header::parse(*head)?;
        self.exact(header.body_bytes, body).await?;
        Ok(Some(header))
    }

    /// Receives exactly so many bytes in place of what `bytes` held; memory grows with what arrives.
    pub(crate) async fn exact(&mut self, count: usize, bytes: &mut Vec<u8>) -> Result<(), LaneError> {
        bytes.clear();
        while bytes.len() < count {
            if bytes.len() == bytes.capacity() {
                bytes.reserve((count - bytes.len()).min(RESERVED_BYTES_MAX));
            }
            let wanted = count - bytes.len();
            match &mut self.stream {
                Receiving::Quic { stream, pending } => {
                    let Some(chunk) = pending.front_mut() else {
                        take_chunks(stream, pending, &self.taken).await?;
                        continue;
                    };
                    let wanted = chunk.len().min(wanted);
                    bytes.extend_from_slice(&chunk.split_to(wanted));
                    if chunk.is_empty() {
                        pending.pop_front();
                    }
                }
                Receiving::Tcp(stream) => {
                    let taken = stream.take(bytes, wanted).await?;
                    self.taken.fetch_add(taken as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

async fn take_chunks(
    stream: &mut RecvStream,
    pending: &mut VecDeque<Bytes>,
    taken: &AtomicU64,
) -> Result<(), LaneError> {
    let mut chunks: [Bytes; CHUNKS_AT_ONCE] = std::array::from_fn(|_| Bytes::new());
    let count = stream.read_chunks(&mut chunks).await?.ok_or(LaneError::Cut)?;
    let bytes: usize = chunks.iter().take(count).map(Bytes::len).sum();
    taken.fetch_add(bytes as u64, Ordering::Relaxed);
    pending.extend(chunks.into_iter().take(count));
    Ok(())
}
