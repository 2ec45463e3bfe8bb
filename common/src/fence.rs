//! Fencing tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The right under which an effect is made: cluster epoch first, then the raft log index of the grant.
///
/// Any two tokens can be compared, whatever step or attempt they come from; the higher one wins.
/// `init` and `restore` of a cluster raise the epoch, so that a restored cluster never grants an old token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// Raised by `init` and `restore` of the cluster.
    pub epoch: u64,
    /// The raft log index of the command that granted the lease.
    pub index: u64,
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.index)
    }
}
