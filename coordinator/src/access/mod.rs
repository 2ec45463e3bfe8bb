//! Who is allowed to call what.
//!
//! Who calls is what a certificate says at the handshake, or an API key with the call. What that caller may do is one
//! pure table over callers, calls and what they touch, whose default is no.

pub mod actor;
pub mod call;
pub mod policy;
#[cfg(test)]
mod policy_test;
pub mod throttle;
