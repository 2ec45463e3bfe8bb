//! Who is allowed to call what.
//!
//! A caller is what its certificate says at the handshake; what it may call is one pure table, whose default is no.

pub mod policy;
