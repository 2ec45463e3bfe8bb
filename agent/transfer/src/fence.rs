//! The fence of a root: what makes a holder of an older token harmless.
//!
//! A file in the stage holds the highest token that ever worked here. Whoever makes a group of effects holds the
//! fence's lock meanwhile and has compared its token; so two agents on one machine are held apart too, and the one
//! with the older token changes nothing any more, not even the ledger.

use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use tree::{Dir, HeldLock, Name};

use crate::trouble::of_stage;

const FENCE: &str = "fence";
const LOCK: &str = "fence.lock";
/// What holds others off: it goes last when a stage is removed.
pub(crate) const PARTS: [&str; 2] = [FENCE, LOCK];
/// A token is two numbers as JSON.
const FENCE_BYTES_MAX: u64 = 4096;
/// A group holds the lock for seconds at most; a holder that stands still for longer is stopped or hangs on its disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How often a lock that another holds is asked for again.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The right to change a root, as long as nobody with a higher token came.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    stage: Dir,
    token: FencingToken,
}

/// The fence's lock, with the token compared: effects may be made while it is held.
#[derive(Debug)]
pub(crate) struct Inside {
    _lock: HeldLock,
}

impl Fence {
    /// Returns the fence of a stage without storing the token.
    pub(crate) fn of(stage: &Dir, token: FencingToken) -> Self {
        Self { stage: stage.clone(), token }
    }

    /// Puts up the fence: stores the token durably unless a higher one stands. Returns inside of it.
    pub(crate) fn claim(stage: &Dir, token: FencingToken) -> Result<(Self, Inside), Failure> {
        let fence = Self::of(stage, token);
        let inside = fence.enter()?;
        if fence.read()?.is_none_or(|standing| standing < token) {
            let content = serde_json::to_vec(&token).map_err(|error| {
                Failure::new(FailureKind::Bug, format!("failed to write a token: {error}"))
            })?;
            stage.write_atomic(&name(FENCE), &content, 0o600).map_err(|error| of_stage(&error))?;
        }
        Ok((fence, inside))
    }

    /// Takes the lock and compares the token.
    ///
    /// # Errors
    /// `Fenced` when somebody with a higher token was here; `Timeout` when another holder does not let go.
    pub(crate) fn enter(&self) -> Result<Inside, Failure> {
        let lock = self.lock()?;
        match self.read()? {
            Some(standing) if standing > self.token => Err(Failure::new(
                FailureKind::Fenced,
                format!("another attempt ({standing}) works on this root; this one ({}) is over", self.token),
            )
            .hint("Nothing to do: the newer attempt goes on.")),
            Some(_) | None => Ok(Inside { _lock: lock }),
        }
    }

    fn lock(&self) -> Result<HeldLock, Failure> {
        let deadline = clock::boot().after(LOCK_PATIENCE);
        loop {
            match self.stage.lock_exclusive(&name(LOCK)) {
                Ok(lock) => return Ok(lock),
                Err(error) if error.is_busy() => {}
                Err(error) => return Err(of_stage(&error)),
            }
            if clock::boot() >= deadline {
                return Err(Failure::new(
                    FailureKind::Timeout,
                    "another agent on this machine holds the root's fence and does not let go",
                )
                .hint("Look for a stopped or hanging drover-agent process on the destination host."));
            }
            std::thread::sleep(LOCK_RETRY);
        }
    }

    fn read(&self) -> Result<Option<FencingToken>, Failure> {
        match self.stage.read_small(&name(FENCE), FENCE_BYTES_MAX) {
            Ok(content) => serde_json::from_slice(&content).map(Some).map_err(|error| {
                Failure::new(FailureKind::Conflict, format!("the fence of this root cannot be read: {error}"))
                    .hint("Something wrote into the migration's stage; settle the migration and start a new one.")
            }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(of_stage(&error)),
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a constant without slash")
}

#[cfg(test)]
mod tests {
    use tree::Root;

    use super::*;

    fn token(index: u64) -> FencingToken {
        FencingToken { epoch: 1, index }
    }

    #[test]
    fn the_newer_token_shuts_the_older_one_out() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Root::open(folder.path()).unwrap().dir();
        let (old, inside) = Fence::claim(&stage, token(5)).unwrap();
        drop(inside);
        assert!(old.enter().is_ok());
        let (new, inside) = Fence::claim(&stage, token(6)).unwrap();
        drop(inside);
        assert_eq!(old.enter().unwrap_err().kind, FailureKind::Fenced);
        assert_eq!(Fence::claim(&stage, token(5)).unwrap_err().kind, FailureKind::Fenced);
        assert!(new.enter().is_ok());
        // A higher epoch beats any index: a restored cluster.
        assert!(Fence::claim(&stage, FencingToken { epoch: 2, index: 0 }).is_ok());
        assert_eq!(new.enter().unwrap_err().kind, FailureKind::Fenced);
    }

    #[test]
    fn two_holders_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Root::open(folder.path()).unwrap().dir();
        let (fence, inside) = Fence::claim(&stage, token(5)).unwrap();
        let other = fence.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let entered = other.enter().is_ok();
            sender.send(entered).unwrap();
        });
        assert!(receiver.try_recv().is_err());
        drop(inside);
        assert_eq!(receiver.recv(), Ok(true));
        waiter.join().unwrap();
    }
}
