//! The audit chain: what a line says, how lines hang together, and how a broken chain is found.
//!
//! The coordinators write lines; whoever holds pages or an export can check them with this module alone, without the
//! cluster. A line's digest covers its fields, and its hash covers the hash before it, its number and its digest. What
//! leaves the cluster for one tenant is a chain of its own lines, numbered and linked anew (`own`), so that it tells
//! nothing of others, not even how many lines they have.
//!
//! A chain alone proves that its lines belong together, not that nobody wrote the whole of it anew. That is what heads
//! are for: a head is signed by the cluster's authority and can be kept elsewhere, as an anchor.

pub mod file;
pub mod finding;
pub mod head;
pub mod line;
pub mod own;
mod range;
#[cfg(test)]
mod tests;
pub mod view;
pub mod walk;
