//! The first frames of a connection, before it is known what it is.

use std::io;

use sync::codec::{self, Message};
use sync::frame::{FrameError, HEADER_BYTES, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsStream;

use super::socket::Socket;

/// Says one message.
pub(super) async fn say<M: Message>(stream: &mut TlsStream<Socket>, message: &M) -> io::Result<()> {
    let mut frame = Vec::new();
    codec::encode(message, &mut frame).map_err(io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Hears one message of a few bytes, and takes nothing of what follows.
pub(super) async fn hear<M: Message>(stream: &mut TlsStream<Socket>) -> io::Result<M> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = Header::parse(head).map_err(io::Error::other)?;
    if header.kind != M::KIND {
        let misplaced = FrameError::Misplaced { wanted: M::KIND, found: header.kind };
        return Err(io::Error::other(misplaced));
    }
    let mut body = vec![0; header.body_bytes];
    stream.read_exact(&mut body).await?;
    codec::decode(header, &body).map_err(io::Error::other)
}
