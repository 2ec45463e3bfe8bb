//! One-time join tokens, as digests.

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::FailureKind;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// An invitation: who has the token may join once, before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    token: Digest,
    expires: WallMs,
    used_by: Option<Vec<u8>>,
}

impl Join {
    /// Makes an unused invitation.
    pub fn new(token: Digest, expires: WallMs) -> Self {
        Self { token, expires, used_by: None }
    }

    /// Whether somebody has joined with it.
    pub fn is_used(&self) -> bool {
        self.used_by.is_some()
    }

    /// Returns when it ends.
    pub fn expires(&self) -> WallMs {
        self.expires
    }

    /// Uses the token for a key; the same key may ask again after a lost answer.
    ///
    /// # Errors
    /// When the token is another, has ended, or was used by another key.
    pub(crate) fn consume(
        &mut self,
        name: &impl std::fmt::Display,
        token: &Digest,
        public_key: &[u8],
        now: WallMs,
    ) -> Result<(), Refusal> {
        if self.token != *token {
            return Err(Self::refused(name));
        }
        match &self.used_by {
            Some(key) if key == public_key => return Ok(()),
            Some(_) => {
                return Err(unusable(format!("the join token of `{name}` was used already")));
            }
            None => {}
        }
        if now >= self.expires {
            return Err(unusable(format!("the join token of `{name}` has expired")));
        }
        self.used_by = Some(public_key.to_vec());
        Ok(())
    }

    /// What a wrong token gets, and a name that nobody invited: the two cannot be told apart.
    pub(crate) fn refused(name: &impl std::fmt::Display) -> Refusal {
        unusable(format!("the join token does not fit the name `{name}`"))
    }
}

fn unusable(message: String) -> Refusal {
    Refusal::new(
        FailureKind::Unauthenticated,
        message,
        "make a new one with `ctl host enroll` (or `ctl cluster add` for a coordinator) and run the command that it prints",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_used_once_by_one_key_in_time() {
        let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
        let mut join = Join::new(right, WallMs(100));
        assert!(join.consume(&"web1", &wrong, b"key", WallMs(1)).is_err());
        assert!(join.clone().consume(&"web1", &right, b"key", WallMs(100)).is_err());
        assert!(join.consume(&"web1", &right, b"key", WallMs(99)).is_ok());
        assert!(join.consume(&"web1", &right, b"key", WallMs(200)).is_ok());
        assert!(join.consume(&"web1", &right, b"another", WallMs(99)).is_err());
    }
}
