//! The doors as callers meet them: real ports, real certificates, one node.

mod accounts;
mod attack;
mod audit;
mod doors;
mod fixture;
mod join;
mod list;
mod raw;
mod secrets;
mod sessions;
mod vault;
mod walls;
