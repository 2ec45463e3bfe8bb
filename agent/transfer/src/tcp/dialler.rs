//! The side of a link that dials: its spine, and then every lane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::principal::Principal;
use common::tls;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sync::wire::hello::PROTOCOL_VERSION;
use sync::wire::spine::{Knock, LinkId, Spine};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::bond::{LANE_DEADLINE, Shared};
use super::slots::Slot;
use super::socket::{Handle, Socket, prepare};
use super::{WRITE_BYTES, half, peer_of};
use crate::lane::{Lane, LaneError};

/// Before a connection that found no room at the peer's door is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Dials one peer.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) config: Arc<ClientConfig>,
    pub(super) address: SocketAddr,
    pub(super) wanted: Principal,
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dialler {
    /// Dials the spine of a new link; returns it with what the link is to know of it.
    pub(super) async fn spine(&self, lanes: u32) -> Result<(Lane, Arc<Shared>), String> {
        let (mut lane, peer, handle, connected_in) = self.connect().await?;
        let describe = |error: LaneError| error.to_string();
        let knocked = Instant::now();
        lane.sender.message(&Knock::Link { version: PROTOCOL_VERSION }).await.map_err(describe)?;
        let link = match lane.receiver.message::<Spine>(&mut Vec::new()).await.map_err(describe)? {
            Some(Spine::Welcome { link }) => link,
            Some(Spine::Close { code: _, reason }) => return Err(crate::breach::shown(&reason)),
            Some(_) | None => return Err("it does not speak the protocol of the data port".to_owned()),
        };
        let shared = Shared::new(link, peer, &handle, lanes);
        shared.measured(connected_in.min(knocked.elapsed()));
        Ok((lane, Arc::new(shared)))
    }

    /// Dials a lane of a link, again and again until it is there; whoever asks gives up at some time.
    pub(super) async fn lane(&self, shared: &Arc<Shared>, is_asked: bool) -> Result<Lane, LaneError> {
        self.lane_within(shared, is_asked, None).await
    }

    /// The same for a lane that the peer asked for, which takes a place among its own.
    pub(super) async fn asked(&self, shared: &Arc<Shared>, slot: &Arc<Slot>) -> Result<Lane, LaneError> {
        let lane = self.lane_within(shared, true, Some(slot));
        let late = |_elapsed| Err(LaneError::Lost("a lane could not be dialled in time".to_owned()));
        tokio::time::timeout(LANE_DEADLINE, lane).await.unwrap_or_else(late)
    }

    async fn lane_within(
        &self,
        shared: &Arc<Shared>,
        is_asked: bool,
        slot: Option<&Arc<Slot>>,
    ) -> Result<Lane, LaneError> {
        let knock = Knock::Lane { link: shared.id, is_asked };
        loop {
            match self.connect().await {
                Ok((mut lane, _peer, handle, _connected_in)) => {
                    shared.count_in(handle.tally);
                    half::bind(&mut lane, &shared.fate, slot);
                    lane.sender.message(&knock).await?;
                    return Ok(lane);
                }
                Err(reason) => tracing::debug!(address = %self.address, reason, "a lane was not dialled"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn connect(&self) -> Result<(Lane, tls::Peer, Handle, Duration), String> {
        let describe = |error: std::io::Error| error.to_string();
        let began = Instant::now();
        let stream = TcpStream::connect(self.address).await.map_err(describe)?;
        let connected_in = began.elapsed();
        let (socket, handle) = prepare(stream).map_err(describe)?;
        let name = tls::server_name_of(&self.wanted).unwrap_or_default();
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect_with(name, socket, |tls| tls.set_buffer_limit(Some(WRITE_BYTES)));
        let stream: TlsStream<Socket> = connecting.await.map_err(describe)?.into();
        let peer = peer_of(&stream, clock::wall()).ok_or("it shows no certificate of this cluster")?;
        if peer.principal != self.wanted {
            return Err(format!("it is {}", peer.principal));
        }
        let descriptor = handle.descriptor.try_clone().map_err(describe)?;
        Ok((half::lane(stream, descriptor), peer, handle, connected_in))
    }
}

/// A name for a link that nobody guesses.
pub(super) fn draw() -> Result<LinkId, getrandom::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(LinkId(id))
}
