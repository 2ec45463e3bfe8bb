//! Passing on what two agents say to each other that do not reach each other.
//!
//! Both dial this agent and show the coordinator's ticket for it; two connections with one token are joined. What
//! passes is TLS between both ends, so that nothing can be read or changed here without its being noticed; a relay can
//! only drop. How much is passed on is bounded by the number of connections, and by what both ends take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::fence::FencingToken;
use common::relay::{RelayEnd, RelayTicket};
use common::shutdown::Shutdown;
use sync::wire::spine::Spine;
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_rustls::TlsStream;

use super::Unheard;
use super::first_frame::say;
use super::socket::Socket;

/// Connections that are joined or wait for it: some thirty attempts, of a dozen each at both ends.
const RELAYED_MAX: usize = 768;
/// Connections of one end of one attempt that wait.
const WAITING_MAX: usize = 16;
/// How long one waits for the other end; who still wants it dials again.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Taken from one end and given to the other at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Who waits for whom.
type Waiting = BTreeMap<(FencingToken, RelayEnd), Vec<oneshot::Sender<Leg>>>;

/// The connections that this agent passes on; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    waiting: Arc<Mutex<Waiting>>,
    room: Arc<Semaphore>,
}

/// One of the two connections.
#[derive(Debug)]
struct Leg {
    stream: TlsStream<Socket>,
    _room: OwnedSemaphorePermit,
}

impl Default for Relay {
    fn default() -> Self {
        Self { waiting: Arc::default(), room: Arc::new(Semaphore::new(RELAYED_MAX)) }
    }
}

impl Relay {
    /// Joins a connection to one of the other end, now or when that comes, and passes on until either ends.
    pub(super) fn take(
        &self,
        stream: TlsStream<Socket>,
        ticket: &RelayTicket,
        end: RelayEnd,
        tasks: &Shutdown,
    ) -> Result<(), Unheard> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_full| Unheard::Full)?;
        let mut leg = Leg { stream, _room: room };
        let other = match end {
            RelayEnd::Source => RelayEnd::Destination,
            RelayEnd::Destination => RelayEnd::Source,
        };
        let mut waiting = self.waiting();
        waiting.retain(|_, those| {
            those.retain(|one| !one.is_closed());
            !those.is_empty()
        });
        while let Some(partner) = waiting.get_mut(&(ticket.token, other)).and_then(Vec::pop) {
            match partner.send(leg) {
                Ok(()) => return Ok(()),
                Err(back) => leg = back,
            }
        }
        let those = waiting.entry((ticket.token, end)).or_default();
        if those.len() >= WAITING_MAX {
            return Err(Unheard::Full);
        }
        let (partner, comes) = oneshot::channel();
        those.push(partner);
        let (stop, ticket) = (tasks.clone(), ticket.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = wait_and_join(leg, comes, &ticket) => {}
            }
        });
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Whatever a panic elsewhere leaves is a list of those who wait.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait_and_join(mut leg: Leg, comes: oneshot::Receiver<Leg>, ticket: &RelayTicket) {
    let mut early = [0];
    let partner = tokio::select! {
        biased;
        partner = comes => partner,
        // Who speaks before it is joined, or goes, is not waited for.
        _gone = leg.stream.read(&mut early) => return,
        () = tokio::time::sleep(WAIT_MAX) => return,
    };
    let Ok(mut partner) = partner else { return };
    let (one, other) = (&mut leg.stream, &mut partner.stream);
    let joined = async {
        say(one, &Spine::Joined).await?;
        say(other, &Spine::Joined).await?;
        tokio::io::copy_bidirectional_with_sizes(one, other, PIECE_BYTES, PIECE_BYTES).await
    };
    let outcome = joined.await;
    tracing::debug!(source = %ticket.source, destination = %ticket.destination, ?outcome, "relayed");
}
