//! Moves a tree from one agent to another: the I/O half of the file steps.
//!
//! The destination holds the lease, dials the source and pulls. What is decided about entries is in `sync`; every
//! path system call is in `tree`; here bytes are moved, staged and committed. `DESIGN.md` has the order of a commit
//! and what a crash leaves after each of its arrows.

mod buffer;
mod context;
mod endpoint;
mod findings;
mod lane;
mod link;
mod peer;
mod serve;
mod throttle;
mod window;

pub use buffer::Buffer;
pub use context::{LeaseGuard, LeaseKeeper, Peer, StepContext, hold_lease};
pub use endpoint::{Endpoint, EndpointSettings};
pub use findings::{FindingSink, FindingTotals};
pub use peer::{ContentReceiver, Delivery, FetchSender, ManifestReceiver, Source};
