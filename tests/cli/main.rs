//! What people and scripts see of the three programs: words, documents, exit codes.
//!
//! Everything runs in an environment of its own: no variable, a home directory that is new, a fixed width. What is
//! printed stands in `golden/`; after a change it is written anew by `DROVER_WRITE_GOLDEN=1 cargo test -p tests --test
//! cli golden` and read as prose.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod completion;
mod environment;
mod live;
mod refused;
