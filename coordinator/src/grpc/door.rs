//! The door of a port: accepts connections, makes the TLS handshake, and hands over those that passed.
//!
//! Handshakes run beside each other up to a limit and under a deadline, the oldest giving way to who waits; connections
//! are counted, and whatever is not TLS with our own names and certificates is dropped without an answer. Each port has a door of its own, so a flood
//! on one leaves the others alone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::shutdown::Shutdown;
use common::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ConnectionInfo, Connections, Standing};
use super::handshakes::Handshakes;
use crate::audit::refusals::{Refusals, Refused};

/// How long a handshake may take; it is two round trips.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The pause after an accept that failed, as it does when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that passed and wait to be served; they are taken at once.
const PASSED_MAX: usize = 64;

/// What a port bears.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Handshakes beside each other; one more is accepted and waits, the others wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections; the ones above are dropped.
    pub connections: usize,
    /// Connections of peers without a valid certificate, which are counted among the others too.
    pub strangers: usize,
}

/// The door of one port.
pub struct Door {
    /// Which port, for the log.
    pub name: &'static str,
    /// The port.
    pub listener: TcpListener,
    /// The server half of the handshake.
    pub acceptor: TlsAcceptor,
    /// What the port bears.
    pub limits: DoorLimits,
    /// Where open connections are listed.
    pub connections: Arc<Connections>,
    /// Where what is refused is counted.
    pub refusals: Arc<Refusals>,
}

impl Door {
    /// Accepts until the shutdown is asked for; the stream ends then.
    pub fn open(self, shutdown: &Shutdown) -> ReceiverStream<io::Result<Connection>> {
        let (passed, stream) = mpsc::channel(PASSED_MAX);
        let tasks = shutdown.clone();
        shutdown.spawn(async move { self.run(tasks, passed).await });
        ReceiverStream::new(stream)
    }

    async fn run(self, shutdown: Shutdown, passed: mpsc::Sender<io::Result<Connection>>) {
        let mut handshakes = Handshakes::new(self.limits.handshakes);
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let strangers = Arc::new(Semaphore::new(self.limits.strangers));
        let door = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = door.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(port = door.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(port = door.name, %address, limit = door.limits.connections, "too many connections");
                continue;
            };
            let turn = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                turn = handshakes.turn() => turn,
            };
            let (door, passed, strangers) = (Arc::clone(&door), passed.clone(), Arc::clone(&strangers));
            let token = shutdown.token().clone();
            shutdown.spawn(async move {
                let admitted = tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    () = turn.is_over() => {
                        tracing::debug!(port = door.name, %address, "a handshake gave way to another");
                        return;
                    }
                    admitted = tokio::time::timeout(HANDSHAKE_DEADLINE, door.admit(stream, address, place, &strangers)) => admitted,
                };
                drop(turn);
                match admitted {
                    // A closed channel means that the server has ended; the connection ends with it.
                    Ok(Ok(connection)) => drop(passed.send(Ok(connection)).await),
                    Ok(Err(reason)) => tracing::debug!(port = door.name, %address, reason, "refused a connection"),
                    Err(_elapsed) => tracing::debug!(port = door.name, %address, "a handshake took too long"),
                }
            });
        }
    }

    async fn admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
        strangers: &Arc<Semaphore>,
    ) -> Result<Connection, String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let accepted = self.acceptor.accept(stream).await;
        let stream = accepted.map_err(|error| self.refuse_handshake(address, &error))?;
        let peer = match stream.get_ref().1.peer_certificates() {
            None => None,
            Some(chain) => {
                let peer = tls::peer_of(chain, clock::wall()).map_err(|error| error.to_string())?;
                Some(Arc::new(peer))
            }
        };
        let (cut, refusals) = (CancellationToken::new(), Arc::clone(&self.refusals));
        let mut info = ConnectionInfo { peer, address, cut, refusals, standing: Arc::default() };
        if info.is_stranger() {
            let place = Arc::clone(strangers).try_acquire_owned();
            let place = place.map_err(|_full| "too many peers without a valid certificate".to_owned())?;
            info.standing = Standing::new(Some(place));
        }
        Ok(Connection::new(stream, info, place, &self.connections))
    }
}

impl Door {
    /// Counts a handshake that was refused; one that merely broke off was none.
    fn refuse_handshake(&self, address: SocketAddr, error: &io::Error) -> String {
        let reason = error.to_string();
        if error.kind() == io::ErrorKind::InvalidData {
            self.refusals.note(Refused {
                principal: None,
                tenant: None,
                address: Some(address.ip()),
                action: "connect".to_owned(),
                object: format!("port {}", self.name),
                reason: reason.clone(),
            });
        }
        reason
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}
