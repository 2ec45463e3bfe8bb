//! Harness of the test tiers: real processes, real trees, independent judges.

pub mod cluster;
pub mod judge;
pub mod mount;
pub mod skip;
pub mod tree;
pub mod wait;
