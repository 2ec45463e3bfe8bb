//! Who may join the cluster, and as whom.
//!
//! One authority signs every certificate; its key lies in the replicated state, sealed, and is opened by every node.
//! A one-time token turns into a first certificate, a certificate into the next one. Names come from the token and
//! from the caller's certificate, never from the request.

pub mod api_key;
pub mod authority;
pub mod join_token;
pub mod node_document;
