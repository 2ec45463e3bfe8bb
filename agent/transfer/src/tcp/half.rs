//! Both halves of a lane that is a TCP connection of its own.
//!
//! The end of a lane is the end of its TLS stream, which is authenticated: a connection that is cut does not look whole.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BufMut;
use rustix::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsStream;

use super::fate::Fate;
use super::slots::Slot;
use super::socket::Socket;
use crate::lane::{Lane, LaneError};

/// The writing half.
#[derive(Debug)]
pub(crate) struct TcpSender {
    stream: WriteHalf<TlsStream<Socket>>,
    descriptor: OwnedFd,
    fate: Fate,
    _slot: Option<Arc<Slot>>,
}

/// The reading half.
#[derive(Debug)]
pub(crate) struct TcpReceiver {
    stream: ReadHalf<TlsStream<Socket>>,
    fate: Fate,
    _slot: Option<Arc<Slot>>,
}

/// Makes a lane that belongs to no link yet.
pub(super) fn lane(stream: TlsStream<Socket>, descriptor: OwnedFd) -> Lane {
    let (reading, writing) = tokio::io::split(stream);
    let fate = Fate::alone();
    let receiver = TcpReceiver { stream: reading, fate: fate.clone(), _slot: None };
    Lane::of_tcp(TcpSender { stream: writing, descriptor, fate, _slot: None }, receiver)
}

/// Lets a lane share the fate of a link, and count among the lanes that its peer opened.
pub(super) fn bind(lane: &mut Lane, fate: &Fate, slot: Option<&Arc<Slot>>) {
    if let Some((sender, receiver)) = lane.as_tcp() {
        (sender.fate, sender._slot) = (fate.clone(), slot.cloned());
        (receiver.fate, receiver._slot) = (fate.clone(), slot.cloned());
    }
}

impl TcpSender {
    /// Hands bytes to the kernel.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> Result<(), LaneError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            // TLS keeps what the socket did not take.
            self.stream.flush().await
        };
        let written = tokio::select! {
            biased;
            verdict = self.fate.parted() => return Err(verdict),
            written = writing => written,
        };
        match written {
            Ok(()) => Ok(()),
            Err(_broken) => Err(self.fate.explain().await),
        }
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        tokio::select! {
            biased;
            _verdict = self.fate.parted() => {}
            // It fails only for a connection that has ended already.
            _ended = self.stream.shutdown() => {}
        }
    }

    /// Lets the peer see a broken lane, and not an end.
    pub(crate) fn reset(&mut self) {
        // It fails only for a connection that has ended already.
        rustix::net::shutdown(&self.descriptor, Shutdown::Write).ok();
    }
}

impl TcpReceiver {
    /// Appends what has come, at most so much; an error when nothing comes any more.
    pub(crate) async fn take(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<usize, LaneError> {
        let mut room = bytes.limit(most);
        let read = tokio::select! {
            biased;
            read = self.stream.read_buf(&mut room) => read,
            verdict = self.fate.over() => return Err(verdict),
        };
        match read {
            Ok(0) => Err(LaneError::Cut),
            Ok(count) => Ok(count),
            Err(_broken) => Err(self.fate.explain().await),
        }
    }
}
