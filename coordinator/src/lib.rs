//! The coordinator: plans, leases and progress of all migrations, replicated; certificates; and the doors for agents,
//! operators and the other nodes.

pub mod access;
pub mod config;
pub mod pki;
pub mod planner;
pub mod raft;
pub mod saga;
pub mod state;
pub mod vault;
