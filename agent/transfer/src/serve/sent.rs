//! Which contents a connection's destination has got already, so that they are sent once.
//!
//! Many sites that share one core are the usual case. The digest of a small file is computed for its pack in any case,
//! so looking costs next to nothing; and what is told, that two of the files which the destination may read have the
//! same content, it would see from the files.

use std::sync::{Mutex, PoisonError};

use sync::stamp::Stamp;
use sync::wire::content::{Fetch, What};

use crate::recent::Recent;

/// Contents that are remembered, of about 100 bytes each; the destination remembers as many.
pub(crate) const REMEMBERED_MAX: usize = 32 * 1024;
/// Below this the bytes are hardly longer than saying which they are.
pub(crate) const WORTH_BYTES_MIN: u64 = 512;

/// Contents that were sent on one connection, by digest, with the wish that each was the answer to.
#[derive(Debug)]
pub(super) struct Sent(Mutex<Recent<[u8; 32], u64>>);

impl Default for Sent {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(REMEMBERED_MAX)))
    }
}

impl Sent {
    /// Returns the wish that was answered with this content, if it may answer this one too; else notes that this one is.
    pub(super) fn before(&self, fetch: &Fetch, stamp: &Stamp, digest: [u8; 32]) -> Option<u64> {
        if stamp.size < WORTH_BYTES_MIN {
            return None;
        }
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fetch.what != What::Bytes
            && let Some(of) = sent.get(&digest)
        {
            return Some(*of);
        }
        sent.insert(digest, fetch.id);
        None
    }
}
