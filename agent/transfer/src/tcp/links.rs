//! The links that were accepted, as lanes find them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::tls::Peer;
use sync::wire::spine::LinkId;
use tokio::sync::mpsc;

use super::Unheard;
use super::bond::{LANES_WAITING, Shared};
use super::half;
use super::socket::Tally;
use crate::lane::Lane;

/// Links that others made: those that are served, those that wait for their attempts, and some on their way.
const LINKS_MAX: usize = 512;
/// Links of one host: as many attempts as may run between two, and some on their way.
const LINKS_OF_ONE_MAX: usize = 128;

/// Every accepted link; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    open: Arc<Mutex<BTreeMap<LinkId, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    opened: mpsc::Sender<Lane>,
    answers: mpsc::Sender<Lane>,
}

/// Where lanes of a link come out.
#[derive(Debug)]
pub(super) struct Doors {
    /// Those that the peer opened.
    pub(super) opened: mpsc::Receiver<Lane>,
    /// Those that were asked for.
    pub(super) answers: mpsc::Receiver<Lane>,
}

/// A link that lanes find, until this is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    id: LinkId,
    links: Links,
}

impl Links {
    /// Lets lanes find a link.
    pub(super) fn enter(&self, shared: &Arc<Shared>) -> Result<(Entered, Doors), Unheard> {
        let mut open = self.open();
        let of_peer = open.values().filter(|entry| entry.shared.peer.principal == shared.peer.principal);
        if open.len() >= LINKS_MAX || of_peer.count() >= LINKS_OF_ONE_MAX {
            return Err(Unheard::Full);
        }
        let (opened, openings) = mpsc::channel(LANES_WAITING);
        let (answers, answered) = mpsc::channel(LANES_WAITING);
        open.insert(shared.id, Entry { shared: Arc::clone(shared), opened, answers });
        let entered = Entered { id: shared.id, links: self.clone() };
        Ok((entered, Doors { opened: openings, answers: answered }))
    }

    /// Hands a lane to its link, if its peer is the link's.
    pub(super) fn join(
        &self,
        id: LinkId,
        peer: &Peer,
        tally: Arc<Tally>,
        mut lane: Lane,
        is_asked: bool,
    ) -> Result<(), Unheard> {
        let open = self.open();
        let entry = open.get(&id).ok_or(Unheard::NoSuchLink)?;
        // The certificate may have been renewed since the link was made.
        let is_of_link = entry.shared.peer.principal == peer.principal
            && entry.shared.peer.cluster == peer.cluster
            && entry.shared.peer.generation <= peer.generation;
        if !is_of_link {
            return Err(Unheard::NoSuchLink);
        }
        let slot = if is_asked { None } else { Some(entry.shared.slots.take().ok_or(Unheard::Full)?) };
        half::bind(&mut lane, &entry.shared.fate, slot.as_ref());
        let door = if is_asked { &entry.answers } else { &entry.opened };
        door.try_send(lane).map_err(|_full| Unheard::Full)?;
        entry.shared.count_in(tally);
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<LinkId, Entry>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.links.open().remove(&self.id);
    }
}
