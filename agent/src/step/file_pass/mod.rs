//! Steps `file.copy`, `file.catch_up` and `file.finish`: the same pass over the tree, at different times; `file.catch_up`
//! goes on with passes until it is asked to come to its end.

use common::failure::Failure;
use common::step::StepDescriptor;
use common::step::file::{self, FileParams};
use transfer::{Endpoint, StepContext};

use super::{Step, StepFuture, read, write};

/// A kind that is one pass.
#[derive(Clone, Copy, Debug)]
pub struct FilePass(&'static StepDescriptor);

/// The bulk pass.
pub const COPY: FilePass = FilePass(&file::COPY);
/// A pass that brings what changed meanwhile.
pub const CATCH_UP: FilePass = FilePass(&file::CATCH_UP);
/// The pass under the freeze.
pub const FINISH: FilePass = FilePass(&file::FINISH);

impl Step for FilePass {
    fn descriptor(&self) -> &'static StepDescriptor {
        self.0
    }

    fn subject(&self, params: &str) -> Result<String, Failure> {
        Ok(read::<FileParams>(params)?.destination_root)
    }

    fn run(&self, context: StepContext, endpoint: Endpoint, params: String) -> StepFuture {
        let is_continuous = self.0.is_continuous;
        Box::pin(async move {
            let params = read(&params)?;
            let done = match is_continuous {
                true => transfer::run_catch_up(context, &endpoint, params).await,
                false => transfer::run_copy(context, &endpoint, params).await,
            };
            write(&done?)
        })
    }

    fn undo(&self, context: StepContext, params: String) -> StepFuture {
        Box::pin(async move { write(&transfer::undo(context, read(&params)?).await?) })
    }
}
