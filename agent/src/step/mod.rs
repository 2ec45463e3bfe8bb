//! The step kinds of this agent: one folder for each way to work, one line for each kind in `registry`.
//!
//! A kind turns its parameters from JSON into its own type, calls the crate that does the work, and turns the output
//! back. Leases, attempts, events and panics are the executor's.

pub mod attempt;
pub mod executor;
pub mod file_pass;
pub mod file_verify;
pub mod order;
pub mod question;
pub mod registry;
pub mod settling;

use std::future::Future;
use std::pin::Pin;

use common::failure::{Failure, FailureKind};
use common::step::StepDescriptor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use transfer::{Endpoint, StepContext};

/// What a run or an undo gives: the step's output as JSON.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<String, Failure>> + Send>>;

/// One kind of step, as the agent runs it.
///
/// Both futures may be asked to stop at any time by the context's lease, notice that within a second, and end only when
/// everything that they began has ended.
pub trait Step: Send + Sync {
    /// Returns what everybody knows of the kind.
    fn descriptor(&self) -> &'static StepDescriptor;

    /// Returns what only one attempt may work at, at a time: the root that is changed.
    ///
    /// # Errors
    /// When the parameters cannot be understood.
    fn subject(&self, params: &str) -> Result<String, Failure>;

    /// Runs the step.
    fn run(&self, context: StepContext, endpoint: Endpoint, params: String) -> StepFuture;

    /// Undoes what any run of it did.
    fn undo(&self, context: StepContext, params: String) -> StepFuture;
}

/// Reads a document that the coordinator made.
///
/// # Errors
/// When it is not of that type, which means that the two are of different versions.
pub fn read<T: DeserializeOwned>(document: &str) -> Result<T, Failure> {
    serde_json::from_str(document).map_err(|error| {
        Failure::new(FailureKind::Unsupported, format!("the coordinator's document cannot be read: {error}"))
            .hint("bring the agent and the coordinator to the same version")
    })
}

/// Writes a document for the coordinator.
///
/// # Errors
/// Never for the types of our vocabulary; a failure of kind bug otherwise.
pub fn write<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::of(FailureKind::Bug, &error))
}
