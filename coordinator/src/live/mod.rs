//! What only the leader knows: who is connected, when leases were last renewed, and how far steps are right now.
//!
//! None of it is replicated. A new leader begins with nothing, treats every lease as renewed at that moment, and
//! learns the rest from its sessions; what was lost costs latency and the last seconds of a progress bar.

pub mod grant;
pub mod introductions;
pub mod lease_clock;
pub mod paces;
pub mod progress;
pub mod sessions;
pub mod settling;
