//! The doors as callers meet them: real ports, real certificates, one node.

mod accounts;
#[path = "../../../../tests/src/alteration.rs"]
#[expect(unreachable_pub, reason = "it is the harness's own, where others reach it")]
mod alteration;
mod altered;
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
