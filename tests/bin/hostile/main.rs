//! An agent that is a member of the cluster and means harm; never shipped.
//!
//! ```text
//! hostile source CONFIG PLAN            an honest daemon whose data port is somebody else
//! hostile destination CONFIG PLAN       an honest session whose file steps attack the source
//! ```
//!
//! It joined with a real token and holds a real session, so everything that the coordinator and the other agents learn
//! of it is true, except for what stands in PLAN: a file that names the attack, read anew for every connection or
//! step, so that one process and one cluster serve a whole table of attacks. What a hostile destination got out of its
//! victim it writes beside that file, as `PLAN.loot`.

#![expect(clippy::unwrap_used, reason = "an attacker that cannot attack ends, and its test with it")]
#![expect(
    clippy::disallowed_methods,
    reason = "an attacker cleans up nothing: its tasks end with its process"
)]

mod attack;
mod delta;
mod destination;
mod manifest;
mod source;
mod tree;
mod wire;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use agent::config::Settings;
use agent::link::membership::Membership;
use common::failure::Failure;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["source", config, plan] => run(Path::new(config), |settings| be_source(settings, Path::new(plan))),
        ["destination", config, plan] => {
            run(Path::new(config), |settings| be_destination(settings, Path::new(plan)))
        }
        _ => Err(usage()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            drop(writeln!(std::io::stderr(), "hostile: {text}"));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    "usage: hostile source CONFIG PLAN | hostile destination CONFIG PLAN".to_owned()
}

/// Runs an agent to its end.
fn run<F: Future<Output = Result<(), Failure>>>(
    config: &Path,
    daemon: impl FnOnce(Settings) -> F,
) -> Result<(), String> {
    let settings = Settings::load(Some(config)).map_err(|error| error.to_string())?;
    common::telemetry::init(None, settings.log_form.into());
    // More threads than attacks that compute without rest: its heartbeats are honest.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async { daemon(settings).await.map_err(|failure| failure.message) })
}

/// Serves the data protocol by its own rules, and is an honest agent in everything else.
async fn be_source(mut settings: Settings, plan: &Path) -> Result<(), Failure> {
    let membership = Membership::load(&settings.state_dir)?;
    let address = source::serve(&membership, plan.to_owned())?;
    settings.advertise_data = vec![address];
    agent::daemon::run(settings, agent::step::registry::STEPS).await
}

/// Takes grants as a destination does, and uses their tickets for what they are not for.
async fn be_destination(settings: Settings, plan: &Path) -> Result<(), Failure> {
    let membership = Membership::load(&settings.state_dir)?;
    let attacker = destination::Attacker { membership: Arc::new(membership), plan: plan.to_owned() };
    let steps = destination::steps(attacker);
    agent::daemon::run(settings, steps).await
}
