//! The list of commands: one variant and one line each.

use crate::context::CommandContext;
use crate::failure::CommandError;

mod audit;
mod cancel;
mod cluster;
mod completion;
mod cutover;
mod dev;
mod doctor;
mod host;
mod key;
mod list;
mod login;
mod logout;
mod migrate;
mod pause;
mod report;
mod resume;
mod retry;
mod rollback;
mod secret;
mod set;
mod settle;
mod status;
mod tenant;
mod user;
mod verify;
mod version;
mod watch;
mod whoami;

/// What `ctl` is asked to do. The help of each is the doc comment of its arguments.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    Cancel(cancel::CancelArgs),
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    Completion(completion::CompletionArgs),
    Cutover(cutover::CutoverArgs),
    #[command(subcommand)]
    Dev(dev::DevCommand),
    Doctor(doctor::DoctorArgs),
    #[command(subcommand)]
    Host(host::HostCommand),
    #[command(subcommand)]
    Key(key::KeyCommand),
    List(list::ListArgs),
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Migrate(Box<migrate::MigrateArgs>),
    Pause(pause::PauseArgs),
    Report(report::ReportArgs),
    Resume(resume::ResumeArgs),
    Retry(retry::RetryArgs),
    Rollback(rollback::RollbackArgs),
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    Set(set::SetArgs),
    Settle(settle::SettleArgs),
    Status(status::StatusArgs),
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    #[command(subcommand)]
    User(user::UserCommand),
    Verify(verify::VerifyArgs),
    Version(version::VersionArgs),
    Watch(watch::WatchArgs),
    Whoami(whoami::WhoamiArgs),
}

impl Command {
    /// Runs the command and returns the exit code of what it did.
    pub(crate) async fn run(self, context: &CommandContext) -> Result<u8, CommandError> {
        match self {
            Self::Audit(command) => command.run(context).await,
            Self::Cancel(args) => cancel::run(context, args).await,
            Self::Cluster(command) => command.run(context).await,
            Self::Completion(args) => completion::run(context, &args),
            Self::Cutover(args) => cutover::run(context, args).await,
            Self::Dev(command) => command.run(context).await,
            Self::Doctor(args) => doctor::run(context, args).await,
            Self::Host(command) => command.run(context).await,
            Self::Key(command) => command.run(context).await,
            Self::List(args) => list::run(context, args).await,
            Self::Login(args) => login::run(context, args).await,
            Self::Logout(args) => logout::run(context, args),
            Self::Migrate(args) => migrate::run(context, *args).await,
            Self::Pause(args) => pause::run(context, args).await,
            Self::Report(args) => report::run(context, args).await,
            Self::Resume(args) => resume::run(context, args).await,
            Self::Retry(args) => retry::run(context, args).await,
            Self::Rollback(args) => rollback::run(context, args).await,
            Self::Secret(command) => command.run(context).await,
            Self::Set(args) => set::run(context, args).await,
            Self::Settle(args) => settle::run(context, args).await,
            Self::Status(args) => status::run(context, args).await,
            Self::Tenant(command) => command.run(context).await,
            Self::User(command) => command.run(context).await,
            Self::Verify(args) => verify::run(context, args).await,
            Self::Version(args) => version::run(context, args),
            Self::Watch(args) => watch::run(context, args).await,
            Self::Whoami(args) => whoami::run(context, args).await,
        }
    }
}
