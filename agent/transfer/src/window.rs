//! Flow-control windows: all connections of an agent share one budget.
//!
//! Content flows one way, so the destination gets a large window to receive into and the source a large one to send
//! from, whoever dialled; what the other direction needs is small. A window is what 10 Gbit/s need over the shortest round trip
//! seen: a larger one would only fill, and overflow, the kernel's buffer whenever the receiver is not scheduled in time.
//! As connections come and go, each one's part changes; a window that shrinks takes effect as its bytes are consumed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::limit::TRANSFER_WINDOW_BYTES;
use quinn::{Connection, VarInt};

/// The most that one connection gets: 1 Gbit/s over 128 ms.
pub(crate) const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The least that lets a connection work at all.
const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
/// For near peers: what the kernel's buffer holds, and several milliseconds of a busy host.
const WINDOW_BYTES_NEAR: u64 = 3 * 1024 * 1024;
/// Bytes per microsecond at 10 Gbit/s.
const BYTES_PER_US: u64 = 1_250;
/// For the direction of requests: several batches with long paths.
const REQUEST_WINDOW_BYTES: u64 = 1024 * 1024;

/// Which way content flows on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It comes in.
    Destination,
    /// It goes out.
    Source,
}

/// The budget of one endpoint; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct WindowBudget {
    open: Arc<Mutex<Vec<(Connection, Role)>>>,
}

/// The part of one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct WindowShare {
    budget: WindowBudget,
    id: usize,
}

impl WindowBudget {
    /// Gives a connection its part, and all others theirs.
    pub(crate) fn share(&self, connection: &Connection, role: Role) -> WindowShare {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push((connection.clone(), role));
        resize(&open);
        WindowShare { budget: self.clone(), id: connection.stable_id() }
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        let mut open = self.budget.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(connection, _)| connection.stable_id() != self.id);
        resize(&open);
    }
}

impl WindowShare {
    /// Sizes all windows anew, now that it is known which way content flows.
    pub(crate) fn turn(&self, role: Role) {
        let mut open = self.budget.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (connection, turned) in open.iter_mut() {
            if connection.stable_id() == self.id {
                *turned = role;
            }
        }
        resize(&open);
    }

    /// Sizes all windows anew, as round trips are known by now.
    pub(crate) fn tune(&self) {
        resize(&self.budget.open.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn resize(open: &[(Connection, Role)]) {
    for (connection, role) in open {
        let part = part_of(open.len()).min(window_of(connection.min_rtt()));
        let (receive, send) = match role {
            Role::Destination => (part, REQUEST_WINDOW_BYTES),
            Role::Source => (REQUEST_WINDOW_BYTES, part),
        };
        connection.set_receive_window(VarInt::from_u64(receive).unwrap_or(VarInt::MAX));
        connection.set_send_window(send);
    }
}

/// Returns the window that a peer at this distance needs.
fn window_of(round_trip: Duration) -> u64 {
    let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    microseconds.saturating_mul(BYTES_PER_US).clamp(WINDOW_BYTES_NEAR, WINDOW_BYTES_MAX)
}

/// Returns the larger window of one of so many connections.
fn part_of(connections: usize) -> u64 {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX).max(1);
    let each = (TRANSFER_WINDOW_BYTES / connections).saturating_sub(REQUEST_WINDOW_BYTES);
    each.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_with_the_distance() {
        assert_eq!(window_of(Duration::from_micros(80)), WINDOW_BYTES_NEAR);
        assert_eq!(window_of(Duration::from_millis(5)), 6_250_000);
        assert_eq!(window_of(Duration::from_millis(80)), WINDOW_BYTES_MAX);
        assert_eq!(window_of(Duration::MAX), WINDOW_BYTES_MAX);
    }

    #[test]
    fn all_windows_stay_within_the_budget() {
        assert_eq!(part_of(1), WINDOW_BYTES_MAX);
        for connections in 1..=32 {
            let each = part_of(connections) + REQUEST_WINDOW_BYTES;
            assert!(each * connections as u64 <= TRANSFER_WINDOW_BYTES, "{connections}");
        }
        assert_eq!(part_of(1_000), WINDOW_BYTES_MIN);
    }
}
