//! Large files cost their changes: a range is sent without what the destination has of it.
//!
//! ```text
//! destination                                         source
//! hashes of the blocks at this place      ─▶          compares: most of them are there  ─▶ the others
//! a signature of the window around it     ◀─ else: unlike, with samples of the range
//!                                         ─▶          librsync's delta, if it is worth it; else the whole range
//! ```
//!
//! What is put together is a range like any other: written only once it has the chaining value that the source
//! computed over what it read. So neither short hashes nor a file of the destination that changes meanwhile can make it
//! wrong, only dearer. Windows are read into reused buffers; nothing is ever mapped.

pub(crate) mod blocks;
pub(crate) mod gauge;
pub(crate) mod rolling;
pub(crate) mod samples;
