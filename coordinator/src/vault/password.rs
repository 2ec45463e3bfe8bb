//! Passwords: argon2, on a pool of its own.
//!
//! A comparison costs tens of milliseconds and 19 MiB on purpose. So few run at once, few more wait, and the others are
//! told to come again: whatever is offered, agents and operators keep the rest of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::Argon2;
use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use common::failure::{Failure, FailureKind};
use common::secret::Secret;
use tokio::sync::Semaphore;

use crate::state::access::user::PasswordHash;

/// Comparisons at once on a machine with many cores; on a small one half of its cores.
const TURNS_MAX: usize = 4;
/// Comparisons that wait for their turn: about a second's worth of one turn.
const WAITING_MAX: usize = 16;
/// Shortest password: what no list of common ones is short of.
const LENGTH_MIN: usize = 10;
/// Longest password in bytes.
pub const LENGTH_MAX: usize = 1024;
/// What a password is compared with when there is nobody to compare with, so that the answer takes as long. It was made
/// with the parameters of [`Argon2::default`], and no password fits it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ZHJvdmVyLW5vYm9keS1hdC1hbGw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Where passwords are hashed and compared.
#[derive(Debug)]
pub struct PasswordPool {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for PasswordPool {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = Arc::new(Semaphore::new((cores / 2).clamp(1, TURNS_MAX)));
        Self { turns, waiting: AtomicUsize::new(0) }
    }
}

impl PasswordPool {
    /// Hashes a new password.
    ///
    /// # Errors
    /// When it is too short or too long, or too many wait already.
    pub async fn hash(&self, password: Secret<String>) -> Result<PasswordHash, Failure> {
        let length = password.expose().len();
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&length) {
            let message = format!("a password has {LENGTH_MIN} to {LENGTH_MAX} bytes");
            return Err(Failure::new(FailureKind::Invalid, message).hint("take a longer sentence"));
        }
        self.run(move || {
            let hash = Argon2::default().hash_password(password.expose().as_bytes());
            hash.map(|hash| PasswordHash::new(hash.to_string()))
        })
        .await?
        .map_err(|error| Failure::new(FailureKind::Bug, format!("hashing a password: {error}")))
    }

    /// Says whether a password is the one of a hash; without a hash it takes as long and says no.
    ///
    /// # Errors
    /// When too many wait already.
    pub async fn is_right(
        &self,
        password: Secret<String>,
        hash: Option<PasswordHash>,
    ) -> Result<bool, Failure> {
        if password.expose().len() > LENGTH_MAX {
            return Ok(false);
        }
        self.run(move || {
            let text = hash.as_ref().map_or(NOBODY, PasswordHash::as_str);
            let parsed = phc::PasswordHash::new(text);
            let is_right = parsed.is_ok_and(|parsed| {
                Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok()
            });
            is_right && hash.is_some()
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let _place = Place::take(&self.waiting)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        // The turn goes with the work, so that a caller who leaves frees no turn that is still being worked on.
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        worked.await.map_err(|error| Failure::of(FailureKind::Bug, &error))
    }
}

/// Counts who waits or is worked for.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Result<Self, Failure> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::SeqCst) >= WAITING_MAX {
            return Err(Failure::new(FailureKind::Throttled, "too many log in at once")
                .hint("try again in a few seconds; an API key or a certificate needs no login"));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_fits_its_hash_and_nobody_elses() {
        let pool = PasswordPool::default();
        let hash = pool.hash(password("correct horse")).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(pool.is_right(password("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!pool.is_right(password("correct house"), Some(hash)).await.unwrap());
        assert!(!pool.is_right(password("correct horse"), None).await.unwrap());
        assert!(phc::PasswordHash::new(NOBODY).is_ok(), "nobody's hash would be answered at once");
        assert_eq!(pool.hash(password("short")).await.unwrap_err().kind, FailureKind::Invalid);
        let long = pool.is_right(password(&"x".repeat(LENGTH_MAX + 1)), None);
        assert!(!long.await.unwrap());
    }

    #[tokio::test]
    async fn more_than_may_wait_are_told_to_come_again() {
        let pool = PasswordPool::default();
        let held = Arc::clone(&pool.turns)
            .acquire_many_owned(u32::try_from(pool.turns.available_permits()).unwrap());
        let held = held.await.unwrap();
        let offered = (0..WAITING_MAX + 3).map(|_| Box::pin(pool.is_right(password("x"), None)));
        let mut offered: Vec<_> = offered.collect();
        let mut refused = 0;
        for asking in &mut offered {
            if let std::task::Poll::Ready(answer) = futures_poll(asking) {
                assert_eq!(answer.unwrap_err().kind, FailureKind::Throttled);
                refused += 1;
            }
        }
        assert_eq!(refused, 3);
        drop(offered);
        drop(held);
        assert!(!pool.is_right(password("x"), None).await.unwrap());
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context)
    }
}
