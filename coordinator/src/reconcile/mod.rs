//! Reconcilers: what the leader does by itself.
//!
//! Each one takes no input, looks at the state, and brings the world nearer to it; running one twice is running it
//! once. They are woken by effects, which are hints, and by a timer, which is enough. Losing every effect costs
//! latency and nothing else.

pub mod dispatch;
pub mod driver;
pub mod expiry;
pub mod introduce;
pub mod pace;
pub mod renewal;
pub mod retention;
pub mod revocation;
pub mod settle;
pub mod share;
pub mod timeout;
