//! Flow-control windows: all connections of an agent share one budget.
//!
//! Content flows one way, so the dialling side gets a large window to receive into and the serving side a large one to
//! send from; what the other direction needs is small. As connections come and go, each one's part changes; a window
//! that shrinks takes effect as its bytes are consumed.

use std::sync::{Arc, Mutex, PoisonError};

use common::limit::TRANSFER_WINDOW_BYTES;
use quinn::{Connection, VarInt};

/// The most that one connection gets: 1 Gbit/s over 128 ms.
pub(crate) const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The least that lets a connection work at all.
const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
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

fn resize(open: &[(Connection, Role)]) {
    let part = part_of(open.len());
    for (connection, role) in open {
        let (receive, send) = match role {
            Role::Destination => (part, REQUEST_WINDOW_BYTES),
            Role::Source => (REQUEST_WINDOW_BYTES, part),
        };
        connection.set_receive_window(VarInt::from_u64(receive).unwrap_or(VarInt::MAX));
        connection.set_send_window(send);
    }
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
    fn all_windows_stay_within_the_budget() {
        assert_eq!(part_of(1), WINDOW_BYTES_MAX);
        for connections in 1..=32 {
            let each = part_of(connections) + REQUEST_WINDOW_BYTES;
            assert!(each * connections as u64 <= TRANSFER_WINDOW_BYTES, "{connections}");
        }
        assert_eq!(part_of(1_000), WINDOW_BYTES_MIN);
    }
}
