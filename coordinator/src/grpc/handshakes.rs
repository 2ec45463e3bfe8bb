//! Handshakes under way at one port, up to a limit.
//!
//! Who connects and says nothing holds a place. When all are taken and another peer waits, the handshake that has
//! taken longest gives way, unless it is younger than a few round trips: so those that stand still cost the others a
//! moment and not the deadline of a handshake, however many they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What a handshake may take while others wait: two round trips across a continent. A client gives a coordinator a
/// second and a half, so a thousand connections that stand still, and come again when they are cut, keep nobody out.
const GIVE_WAY: Duration = Duration::from_millis(500);

/// The handshakes of one port.
#[derive(Debug)]
pub(super) struct Handshakes {
    places: Arc<Semaphore>,
    next: u64,
    open: Arc<Open>,
}

/// Those under way, in the order in which they began.
#[derive(Debug, Default)]
struct Open(Mutex<BTreeMap<u64, (BootTime, CancellationToken)>>);

/// The place of one handshake.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    open: Arc<Open>,
    cut: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Handshakes {
    /// Begins with none, of so many at the most.
    pub(super) fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), next: 0, open: Arc::default() }
    }

    /// Waits for a place; cancel safe.
    pub(super) async fn turn(&mut self) -> Turn {
        loop {
            let look_again = match self.places.clone().try_acquire_owned() {
                Ok(place) => return self.begin(place),
                Err(_full) => self.open.make_room(),
            };
            tokio::select! {
                biased;
                // The semaphore is never closed.
                Ok(place) = Arc::clone(&self.places).acquire_owned() => return self.begin(place),
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    fn begin(&mut self, place: OwnedSemaphorePermit) -> Turn {
        let (number, cut) = (self.next, CancellationToken::new());
        self.next += 1;
        self.open.lock().insert(number, (clock::boot(), cut.clone()));
        Turn { number, open: Arc::clone(&self.open), cut, _place: place }
    }
}

impl Open {
    /// Cuts the oldest handshake, if it is old enough; returns when to look again.
    fn make_room(&self) -> Duration {
        let mut open = self.lock();
        let Some(oldest) = open.first_entry() else { return GIVE_WAY };
        let age = clock::boot().since(oldest.get().0);
        if age < GIVE_WAY {
            return GIVE_WAY.saturating_sub(age);
        }
        let (_begun, cut) = oldest.remove();
        cut.cancel();
        GIVE_WAY
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (BootTime, CancellationToken)>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Ends when the handshake must give way.
    pub(super) async fn is_over(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.open.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_when_somebody_waits() {
        let mut handshakes = Handshakes::new(2);
        let (oldest, other) = (handshakes.turn().await, handshakes.turn().await);
        let ends = async {
            oldest.is_over().await;
            drop(oldest);
        };
        let (third, ()) = tokio::join!(handshakes.turn(), ends);
        assert!(!other.cut.is_cancelled() && !third.cut.is_cancelled());
        drop((other, third));
        assert!(handshakes.open.lock().is_empty());
    }
}
