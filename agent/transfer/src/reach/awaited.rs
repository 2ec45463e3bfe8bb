//! Which sources this destination waits for: a source that dials is handed to the attempt that its ticket names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::fence::FencingToken;
use tokio::sync::{mpsc, watch};

use crate::link::Link;

/// A connection that a source made.
#[derive(Debug)]
pub(crate) struct Offered {
    /// The connection.
    pub(crate) link: Link,
    /// The start of the source's agent that made it.
    pub(crate) incarnation: u64,
}

/// The attempts that wait; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited {
    waiting: Arc<Mutex<BTreeMap<FencingToken, mpsc::Sender<Offered>>>>,
    changed: watch::Sender<()>,
}

/// One attempt that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    token: FencingToken,
    offered: mpsc::Receiver<Offered>,
    awaited: Awaited,
}

impl Awaited {
    /// Lets the source of the attempt with this token come.
    pub(crate) fn wait(&self, token: FencingToken) -> Wait {
        let (sender, offered) = mpsc::channel(1);
        self.waiting().insert(token, sender);
        self.changed.send_replace(());
        Wait { token, offered, awaited: self.clone() }
    }

    /// Hands a connection to the attempt with this token, as soon as it waits.
    pub(crate) async fn hand_over(&self, token: FencingToken, mut offered: Offered) {
        let mut changed = self.changed.subscribe();
        loop {
            let waiting = self.waiting().get(&token).cloned();
            if let Some(waiting) = waiting {
                match waiting.try_send(offered) {
                    Ok(()) => return,
                    // It has another one already, or has just ended.
                    Err(error) => offered = error.into_inner(),
                }
            }
            // The sender lives as long as `self`, so this cannot fail.
            changed.changed().await.ok();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<FencingToken, mpsc::Sender<Offered>>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Waits until the source has come.
    pub(crate) async fn next(&mut self) -> Offered {
        match self.offered.recv().await {
            Some(offered) => offered,
            // Another attempt took the place of this one.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.awaited.waiting();
        self.offered.close();
        if waiting.get(&self.token).is_some_and(mpsc::Sender::is_closed) {
            waiting.remove(&self.token);
        }
    }
}
