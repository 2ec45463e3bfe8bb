//! The end of a process, in order: a token that everything watches and a tracker that everything runs on.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cancels and joins tasks; cheap to clone, and every clone stands for the same process or part.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// Makes a shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a part that ends with the whole and can be ended alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tracker: TaskTracker::new() }
    }

    /// Returns the token to hand to code that only needs to know whether to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a task that [`Shutdown::finish`] joins.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Waits until somebody asks for the end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Whether somebody asked for the end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks for the end without waiting for it.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Asks for the end and waits until every task has ended.
    pub async fn finish(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
