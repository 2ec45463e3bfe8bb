//! Step `file.catch_up`: a pass while the source is live.

use common::failure::Failure;
use common::step::StepDescriptor;
use common::step::file::{self, FileParams};
use transfer::{Endpoint, StepContext};

use super::{Step, StepFuture, read, write};

/// The kind `file.catch_up`.
#[derive(Clone, Copy, Debug)]
pub struct FileCatchUp;

impl Step for FileCatchUp {
    fn descriptor(&self) -> &'static StepDescriptor {
        &file::CATCH_UP
    }

    fn subject(&self, params: &str) -> Result<String, Failure> {
        Ok(read::<FileParams>(params)?.destination_root)
    }

    fn run(&self, context: StepContext, endpoint: Endpoint, params: String) -> StepFuture {
        Box::pin(async move { write(&transfer::run_copy(context, &endpoint, read(&params)?).await?) })
    }

    fn undo(&self, context: StepContext, params: String) -> StepFuture {
        Box::pin(async move { write(&transfer::undo(context, read(&params)?).await?) })
    }
}
