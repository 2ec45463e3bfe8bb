//! The data protocol between two agents, `drover-data/1`.
//!
//! Participants: the *destination* dials, asks and writes; the *source* only reads, and only beneath the root that
//! the destination's ticket names. One connection serves one attempt of one step. Its lanes are bidirectional byte
//! streams opened by the destination; the first frame on each is a [`hello::Hello`] that says what it is:
//!
//! ```text
//! control   Hello::Control(Open)      ─▶  Opened | Bye          then ToSource ─▶, ◀─ ToDestination (counters each second)
//! manifest  Hello::Manifest           ─▶  blocks of Item: Head, (Names | Listing)*, End
//! content   Hello::Content[Proven]    ─▶  Request ─▶, ◀─ Reply (+ raw bytes), in any number and order
//! ```
//!
//! Goals: bounded memory on both sides whatever the other sends; no round trip per file; every unit of content is
//! verifiable by itself. Non-goals: the source keeps no state between connections and knows nothing of the
//! destination's tree; content is never pushed unasked; nothing is written at the source.
//!
//! Over TCP, where a lane is a connection, [`spine`] says how they belong together.
//!
//! A lane of kind manifest or content before the control lane was answered with [`control::Opened`] is refused.

pub mod content;
pub mod control;
pub mod delta;
pub mod error_code;
pub mod hello;
pub mod manifest;
pub mod spine;
