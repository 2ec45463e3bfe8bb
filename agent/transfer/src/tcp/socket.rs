//! A TCP socket below TLS: what passes through it is counted, and read in large pieces.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Read at once: rustls asks for 4 KiB, and a system call for each would cost more than the cipher.
const READ_BYTES: usize = 128 * 1024;

/// Payload that one socket has sent and received.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A socket as TLS sees it.
pub(super) type Socket = BufReader<Counted>;

/// A socket that counts.
#[derive(Debug)]
pub(super) struct Counted {
    stream: Pin<Box<dyn Carrier>>,
    tally: Arc<Tally>,
}

/// What TLS is spoken on: a TCP connection, or one through a relay.
trait Carrier: AsyncRead + AsyncWrite + Send + std::fmt::Debug {}

impl Carrier for TcpStream {}
impl Carrier for TlsStream<Socket> {}

/// What of a socket is needed while TLS has it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) descriptor: OwnedFd,
    pub(super) tally: Arc<Tally>,
    /// The address at the other end.
    pub(super) address: SocketAddr,
    /// Whether both ends are on one machine.
    pub(super) is_local: bool,
}

/// Makes a connection ready to be spoken TLS on.
pub(super) fn prepare(stream: TcpStream) -> io::Result<(Socket, Handle)> {
    stream.set_nodelay(true)?;
    let (address, own) = (stream.peer_addr()?, stream.local_addr()?);
    let tally = Arc::<Tally>::default();
    let handle = Handle {
        descriptor: stream.as_fd().try_clone_to_owned()?,
        tally: Arc::clone(&tally),
        address,
        is_local: address.ip() == own.ip(),
    };
    Ok((counted(Box::pin(stream), tally), handle))
}

/// Lets the kernel notice a peer that is gone: nothing else does while a connection is passed on.
pub(super) fn keep_alive(handle: &Handle) -> io::Result<()> {
    let socket = &handle.descriptor;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    Ok(sockopt::set_tcp_keepcnt(socket, 3)?)
}

/// Makes a connection through a relay ready to be spoken TLS on; what is counted is what passes to the relay and from it.
pub(super) fn through(relay: TlsStream<Socket>) -> Socket {
    counted(Box::pin(relay), Arc::default())
}

fn counted(stream: Pin<Box<dyn Carrier>>, tally: Arc<Tally>) -> Socket {
    BufReader::with_capacity(READ_BYTES, Counted { stream, tally })
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.stream.as_mut().poll_read(cx, buf));
        self.tally.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.as_mut().poll_write(cx, bytes));
        Poll::Ready(self.tally.count(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.as_mut().poll_write_vectored(cx, bytes));
        Poll::Ready(self.tally.count(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

impl Tally {
    fn count(&self, written: io::Result<usize>) -> io::Result<usize> {
        if let Ok(count) = written {
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }
}
