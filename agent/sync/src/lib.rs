//! The file-sync algorithm as values: what a tree is, what differs, what travels, what is proven.
//!
//! Knows no disk, no network, no task and no clock; `transfer` drives it from both ends.
//! Everything that can come from a peer is bounded and checked here: a hostile peer gets an error, never a panic or
//! an allocation by its word.

pub mod acl;
pub mod bounded;
pub mod byte_string;
pub mod codec;
pub mod cursor;
pub mod diff;
pub mod entry;
pub mod frame;
pub mod limits;
pub mod listing;
pub mod only;
pub mod pack;
pub mod range;
pub mod sanitize;
pub mod stamp;
pub mod subtrees;
pub mod wire;
