//! What every command is given.

use common::secret::Secret;

use crate::client::Client;
use crate::failure::CommandError;
use crate::output::Output;
use crate::settings::Settings;

/// The door to the terminal and the way to the cluster.
#[derive(Debug)]
pub(crate) struct CommandContext {
    /// The only writer to the terminal.
    pub(crate) output: Output,
    /// Which cluster is meant.
    pub(crate) settings: Settings,
}

impl CommandContext {
    /// Returns the way to the cluster that is meant. Nothing is connected before the first call.
    ///
    /// # Errors
    /// When the context cannot be read or its certificates cannot be used.
    pub(crate) fn client(&self) -> Result<Client, CommandError> {
        let context = self.settings.context()?;
        self.output.detail(format!("coordinators: {}", context.coordinators.join(", ")));
        let api_key = match self.settings.api_key()? {
            Some(key) => Some(key),
            None => Some(context.api_key.clone()).filter(|key| !key.is_empty()).map(Secret::new),
        };
        Client::new(&context, api_key.as_ref(), self.settings.tenant())
    }
}
