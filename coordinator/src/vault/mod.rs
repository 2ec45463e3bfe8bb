//! Seals and opens secrets; clear text lives only here, in the authority, and in an agent's step.

pub mod envelope;
pub mod hashicorp;
pub mod keeper;
pub mod keyring;
pub mod opening;
pub mod password;
pub mod ring;
pub mod sealed_secret;
