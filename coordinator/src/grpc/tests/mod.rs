//! The doors as callers meet them: real ports, real certificates, one node.

mod doors;
mod fixture;
mod join;
mod sessions;
