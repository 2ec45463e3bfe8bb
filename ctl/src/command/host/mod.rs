//! `ctl host`.

use common::host::HostStatus;
use common::view::HostView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Meaning;

mod drain;
mod enroll;
mod label;
mod limit;
mod list;
mod revoke;
mod show;

/// Look at hosts, add one, take one out
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HostCommand {
    Drain(drain::DrainArgs),
    Enroll(enroll::EnrollArgs),
    Label(label::LabelArgs),
    Limit(limit::LimitArgs),
    List(list::ListArgs),
    Revoke(revoke::RevokeArgs),
    Show(show::ShowArgs),
}

impl HostCommand {
    /// Runs the command.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Drain(args) => drain::run(context, args).await,
            Self::Enroll(args) => enroll::run(context, args).await,
            Self::Label(args) => label::run(context, args).await,
            Self::Limit(args) => limit::run(context, args).await,
            Self::List(args) => list::run(context, args).await,
            Self::Revoke(args) => revoke::run(context, args).await,
            Self::Show(args) => show::run(context, args).await,
        }
    }
}

/// Returns where a host stands, in a word or two.
fn status(host: &HostView) -> (Meaning, &'static str) {
    match (host.status, host.connected) {
        (HostStatus::Invited, _) => (Meaning::Caution, "invited"),
        (HostStatus::Enrolled, true) => (Meaning::Good, "connected"),
        (HostStatus::Enrolled, false) => (Meaning::Bad, "not connected"),
        (HostStatus::Draining, true) => (Meaning::Caution, "draining"),
        (HostStatus::Draining, false) => (Meaning::Caution, "draining, not connected"),
        (HostStatus::Revoked, _) => (Meaning::Faint, "revoked"),
    }
}
