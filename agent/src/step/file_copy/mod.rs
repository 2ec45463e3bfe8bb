//! Step `file.copy`: the bulk pass.

use common::failure::Failure;
use common::step::StepDescriptor;
use common::step::file::{self, FileParams};
use transfer::{Endpoint, StepContext};

use super::{Step, StepFuture, read, write};

/// The kind `file.copy`.
#[derive(Clone, Copy, Debug)]
pub struct FileCopy;

impl Step for FileCopy {
    fn descriptor(&self) -> &'static StepDescriptor {
        &file::COPY
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
