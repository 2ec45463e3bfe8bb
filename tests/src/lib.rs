//! Harness of the test tiers: real processes, real trees, independent judges.

#![expect(clippy::panic, clippy::print_stderr, reason = "a harness ends the test that asked, and says why")]

pub mod alteration;
pub mod canary;
pub mod churn;
pub mod cluster;
pub mod gate;
pub mod home;
pub mod intruder;
pub mod judge;
pub mod long_link;
pub mod memory;
pub mod mount;
pub mod random;
pub mod skip;
pub mod stranger;
pub mod tree;
pub mod wait;
