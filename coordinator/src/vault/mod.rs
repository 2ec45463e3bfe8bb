//! Seals and opens secrets; clear text lives only here, in the authority, and in an agent's step.

pub mod envelope;
pub mod keyring;
pub mod password;
