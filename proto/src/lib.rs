//! Messages between the binaries.
//!
//! The generated types stay at the edges; `status` carries a whole failure across a refused call, and `channel` finds
//! the leader.

pub mod channel;
mod passwords;
mod redacted;
pub mod shown;
pub mod status;

/// Version of the protocol between agent, `ctl` and coordinator.
pub const PROTOCOL: u32 = 1;

/// Metadata key under which a follower names the leader's address.
pub const LEADER_KEY: &str = "drover-leader";

/// Metadata key under which a call names the tenant that it means; the caller's own without it.
pub const TENANT_KEY: &str = "drover-tenant";

/// Metadata key under which a call names itself, drawn anew for each call and the same for all of its tries: a change
/// that was made already for this name is answered like the first time and not made again.
pub const REQUEST_KEY: &str = "drover-request";

/// Metadata key under which a call shows an API key, behind [`BEARER`].
pub const AUTHORIZATION_KEY: &str = "authorization";

/// What stands before an API key.
pub const BEARER: &str = "Bearer ";

/// The path of every method of every service.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The generated messages and services.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("migration.v1");
}
