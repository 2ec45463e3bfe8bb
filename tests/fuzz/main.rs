//! Whatever comes from outside, as it is not meant to be: frames of peers, tickets, commands, snapshots.
//!
//! Each target makes valid values of its types, alters their bytes, and looks at what today's code makes of that: an
//! error, or a value within its bounds that reads the same again; never a panic, and little memory. In CI each has a
//! few hundred cases. Whoever wants more names how many times as many:
//! `DROVER_FUZZ=1000 cargo test -p tests --test fuzz frame`. A case that fails is shrunk and shown with its bytes.
//! What stands in the stage of a step, and what a source says while a step runs, is altered in the contract suite.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

#[path = "../../agent/transfer/src/authority.rs"]
#[expect(dead_code, reason = "others have certificates issued, too")]
mod authority;
mod draw;
mod frame;
mod state;
mod ticket;
