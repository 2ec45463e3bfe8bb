//! API keys: their keyed digests, what they may do, and until when.

use common::clock::WallMs;
use common::digest::Digest;
use common::grant::Grant;
use common::principal::Principal;
use serde::{Deserialize, Serialize};

/// Keys of one tenant that are neither revoked nor expired.
pub const KEYS_MAX: usize = 1_000;
/// Longest name of a key.
pub const KEY_NAME_BYTES_MAX: usize = 64;
/// How long a key that is over is still listed.
const KEPT_MS: u64 = 90 * 24 * 3_600_000;

/// One key. The key itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Who made it.
    pub principal: Principal,
    /// When.
    pub created: WallMs,
    /// What it is for, for people.
    pub name: String,
    /// Digest of its secret part, under a key that only the coordinators have.
    pub digest: Digest,
    /// What it may do.
    pub grant: Grant,
    /// When it ends.
    pub expires: Option<WallMs>,
    /// When it was revoked.
    pub revoked: Option<WallMs>,
}

impl Key {
    /// Whether it counts at this time.
    pub fn is_alive(&self, now: WallMs) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it has been over for so long that nobody asks for it any more.
    pub(super) fn is_forgotten(&self, now: WallMs) -> bool {
        let is_long_ago = |then: WallMs| now.since(then) > KEPT_MS;
        self.revoked.is_some_and(is_long_ago) || self.expires.is_some_and(is_long_ago)
    }
}
