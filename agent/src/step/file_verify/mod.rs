//! Step `file.verify`: the proof of what was written. It changes nothing, so its undo has nothing to do.

use common::failure::Failure;
use common::step::StepDescriptor;
use common::step::file::{self, FileOutput, FileParams};
use transfer::{Endpoint, StepContext};

use super::{Step, StepFuture, read, write};

/// The kind `file.verify`.
#[derive(Clone, Copy, Debug)]
pub struct FileVerify;

impl Step for FileVerify {
    fn descriptor(&self) -> &'static StepDescriptor {
        &file::VERIFY
    }

    fn subject(&self, params: &str) -> Result<String, Failure> {
        Ok(read::<FileParams>(params)?.destination_root)
    }

    fn run(&self, context: StepContext, endpoint: Endpoint, params: String) -> StepFuture {
        Box::pin(async move { write(&transfer::run_verify(context, &endpoint, read(&params)?).await?) })
    }

    fn undo(&self, _context: StepContext, _params: String) -> StepFuture {
        Box::pin(async { write(&FileOutput { version: file::VERSION, ..FileOutput::default() }) })
    }
}
