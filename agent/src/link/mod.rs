//! The agent's side of the control plane.
//!
//! The agent dials: one stream to the leader carries everything, and nothing in it is lost by a cut. What must arrive
//! waits in the outbox until it is acknowledged; what the coordinator wants it sends again. A lease is the only thing
//! that time takes away here.

pub mod enroll;
#[cfg(test)]
pub(crate) mod fixture;
pub mod heartbeat;
mod intake;
pub mod lease;
mod local;
pub mod membership;
pub mod outbox;
pub mod renewal;
pub mod secrets;
pub mod session;
mod wire;
