//! Accepted connections, and who is at their other end.
//!
//! A connection can be cut from here at any time, whatever runs over it: when its host is revoked, and when the
//! process ends while a peer does not let go.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use common::clock::WallMs;
use common::principal::Principal;
use common::tls::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::access::policy::Caller;
use crate::audit::refusals::Refusals;

/// How long a peer without a valid certificate may stay: joining and renewing are one call each.
const STRANGER_TIME: Duration = Duration::from_secs(60);

/// What a handler may know of the connection that its call came over.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// What the peer's certificate says; none for a peer without one.
    pub peer: Option<Arc<Peer>>,
    /// From where.
    pub address: SocketAddr,
    /// Cuts the connection.
    pub cut: CancellationToken,
    /// Where what is refused over it is counted.
    pub refusals: Arc<Refusals>,
    /// How the connection stands with its port.
    pub standing: Arc<Standing>,
}

/// How a connection stands with its port: a stranger's ends by itself and counts against a limit of its own, until a
/// call over it showed an API key that is accepted.
#[derive(Debug, Default)]
pub struct Standing {
    is_vouched: AtomicBool,
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Standing {
    /// Makes the standing of a new connection; a stranger's with its place among strangers.
    pub fn new(place: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self { is_vouched: AtomicBool::new(false), place: Mutex::new(place) })
    }

    /// Notes that somebody known calls: the connection is no stranger's any more.
    pub fn vouch(&self) {
        self.is_vouched.store(true, Ordering::Relaxed);
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_vouched(&self) -> bool {
        self.is_vouched.load(Ordering::Relaxed)
    }
}

impl ConnectionInfo {
    /// Whether the peer has no valid certificate, and so may only join, renew or log in, unless it shows an API key.
    pub fn is_stranger(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.is_expired)
    }

    /// Returns who calls, as the access table knows callers; what is granted is in the state and not here.
    ///
    /// A person's certificate is looked at with each call, because a connection may outlive it. Machines renew theirs
    /// over the connection that the one before opened.
    pub fn caller(&self, now: WallMs) -> Caller {
        match &self.peer {
            None => Caller::Unknown,
            Some(peer) if peer.is_expired => Caller::Expired(peer.principal.clone()),
            Some(peer) => match &peer.principal {
                machine @ (Principal::Agent { .. } | Principal::Node { .. }) => {
                    Caller::Machine(machine.clone())
                }
                other if now > peer.not_after => Caller::Expired(other.clone()),
                other @ (Principal::Person { .. } | Principal::Key { .. }) => {
                    Caller::Granted { principal: other.clone(), grants: Vec::new() }
                }
            },
        }
    }
}

/// One connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When the connection of a peer without a valid certificate ends by itself.
    end: Option<Pin<Box<Sleep>>>,
    /// Counts the connection against the limit of its port, as long as it lives.
    _place: OwnedSemaphorePermit,
    _entry: Entry,
}

impl Connection {
    /// Makes a connection out of an accepted stream.
    pub fn new(
        stream: TlsStream<TcpStream>,
        info: ConnectionInfo,
        place: OwnedSemaphorePermit,
        connections: &Arc<Connections>,
    ) -> Self {
        let is_cut = Box::pin(info.cut.clone().cancelled_owned());
        let end = info.is_stranger().then(|| Box::pin(tokio::time::sleep(STRANGER_TIME)));
        let entry = connections.enter(&info);
        Self { stream, info, is_cut, end, _place: place, _entry: entry }
    }

    /// Returns what handlers may know of it.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn check_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.info.standing.is_vouched() {
            self.end = None;
        }
        let is_over = self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready());
        match self.is_cut.as_mut().poll(context) {
            Poll::Pending if !is_over => Ok(()),
            Poll::Ready(()) | Poll::Pending => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"))
            }
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The open connections of a node, by principal.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: BTreeMap<u64, (Arc<Peer>, CancellationToken)>,
}

impl Connections {
    /// Cuts every connection of such peers.
    pub fn cut(&self, is_meant: impl Fn(&Principal) -> bool) {
        for (peer, cut) in self.open().by_number.values() {
            if !cut.is_cancelled() && is_meant(&peer.principal) {
                cut.cancel();
            }
        }
    }

    fn enter(self: &Arc<Self>, info: &ConnectionInfo) -> Entry {
        let mut open = self.open();
        open.next += 1;
        let number = open.next;
        if let Some(peer) = &info.peer {
            open.by_number.insert(number, (Arc::clone(peer), info.cut.clone()));
        }
        drop(open);
        Entry { number, connections: Arc::clone(self) }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list when it ends.
struct Entry {
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open().by_number.remove(&self.number);
    }
}
