//! The door to secrets: whoever runs a step or serves one asks here, under the right that it has.
//!
//! What is behind it is the daemon's: the coordinator for what is kept in the cluster, the host itself for the rest.
//! A value is held as long as the attempt or the connection that needs it, and never written anywhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{MigrationId, StepId};
use common::reference::Reference;
use common::secret::Secret;
use common::ticket::Ticket;

/// For whom a secret is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The migration.
    pub migration: MigrationId,
    /// Its step.
    pub step: StepId,
    /// The token of the step's lease.
    pub token: FencingToken,
    /// The signed ticket that names this host as source; none for the holder of the lease itself.
    pub ticket: Option<Vec<u8>>,
}

impl Right {
    /// Returns the right of the source that a ticket names.
    pub(crate) fn of_source(ticket: &Ticket, signed: Vec<u8>) -> Self {
        Self {
            migration: ticket.migration.clone(),
            step: ticket.step.clone(),
            token: ticket.token,
            ticket: Some(signed),
        }
    }
}

/// A secret that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = Result<Secret<Vec<u8>>, Failure>> + Send>>;

/// Opens secrets.
pub trait OpenSecret: Send + Sync {
    /// Opens what a reference names.
    fn open(&self, right: Right, reference: Reference) -> Opening;
}

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Secrets(Arc<dyn OpenSecret>);

impl Secrets {
    /// Makes the door to what opens them.
    pub fn new(opener: impl OpenSecret + 'static) -> Self {
        Self(Arc::new(opener))
    }

    /// Makes a door behind which there is nothing.
    pub fn none() -> Self {
        Self::new(Nothing)
    }

    /// Opens what a reference names.
    ///
    /// # Errors
    /// When it cannot be opened under this right, or nobody can be asked.
    pub async fn open(&self, right: Right, reference: Reference) -> Result<Secret<Vec<u8>>, Failure> {
        self.0.open(right, reference).await
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

struct Nothing;

impl OpenSecret for Nothing {
    fn open(&self, _right: Right, reference: Reference) -> Opening {
        Box::pin(async move {
            Err(Failure::new(FailureKind::Unsupported, format!("{reference} cannot be opened by this agent")))
        })
    }
}
