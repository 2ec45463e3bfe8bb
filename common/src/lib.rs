//! The vocabulary of Drover: the types that more than one binary speaks.
//!
//! Knows nothing about gRPC, QUIC, raft or any database.

pub mod account;
pub mod atomic_file;
pub mod audit;
pub mod backoff;
pub mod bandwidth;
pub mod clock;
pub mod context;
pub mod control;
pub mod cost;
pub mod digest;
pub mod document;
pub mod dump;
pub mod failure;
pub mod fence;
pub mod filter;
pub mod finding;
pub mod grant;
pub mod host;
pub mod human;
pub mod id;
pub mod limit;
pub mod location;
pub mod mask;
pub mod owner_map;
pub mod phase;
pub mod plan;
pub mod principal;
pub mod progress;
pub mod reach;
pub mod reference;
pub mod rel_path;
pub mod relay;
pub mod report;
pub mod role;
pub mod rules;
pub mod sanitize;
pub mod sealing;
pub mod secret;
pub mod settings_text;
pub mod shutdown;
pub mod spec;
pub mod step;
pub mod telemetry;
pub mod ticket;
pub mod tls;
pub mod transport;
pub mod version;
pub mod view;

#[cfg(test)]
mod filter_test;
