//! `ctl login` and what it writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::account::WhoView;
use common::context::{Context, Contexts};
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::{OperatorName, TenantId};
use common::secret::Secret;
use common::tls::{self, ALPN_GRPC};
use proto::channel::{Coordinators, access_client};
use proto::v1::{LoginRequest, LoginResponse};
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;

use super::whoami;
use crate::client::{self, Client};
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::Text;
use crate::password;

/// How long a login may take; passwords wait for their turn.
const DEADLINE: Duration = Duration::from_secs(30);
/// The context that is written where there is none and none is named.
const CONTEXT: &str = "default";

/// Log in to a cluster, and keep what it gives in your contexts
///
/// With a password you get a certificate for 90 days, for a private key that is made on this machine and never leaves
/// it. With --api-key-file or CTL_API_KEY the key is kept instead. The contexts file is readable by you only. From a
/// machine that does not know the cluster yet, name its coordinators and the digest that `ctl user create` printed.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// Coordinators, as HOST:PORT [default: those of the context]
    coordinators: Vec<String>,
    /// Your name; --tenant names its tenant
    #[arg(long, value_name = "NAME")]
    user: Option<OperatorName>,
    /// Digest of the cluster's certificate, for a machine that does not know the cluster yet
    #[arg(long, value_name = "DIGEST")]
    ca_digest: Option<Digest>,
    /// Take the password from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct LoggedIn {
    context: String,
    who: WhoView,
}

/// Runs `ctl login`.
pub(crate) async fn run(context: &CommandContext, args: LoginArgs) -> Result<u8, CommandError> {
    let path = context.settings.context_file()?;
    let mut contexts = if path.exists() { Contexts::open(path)? } else { Contexts::default() };
    let name = match context.settings.context_name() {
        Some(name) => name.to_owned(),
        None if contexts.current.is_empty() => CONTEXT.to_owned(),
        None => contexts.current.clone(),
    };
    let known = contexts.contexts.get(&name);
    let entered = match context.settings.api_key()? {
        Some(key) => with_key(known, &args, &key)?,
        None => with_password(context, known, &args).await?,
    };
    let api_key = Some(entered.api_key.clone()).filter(|key| !key.is_empty()).map(Secret::new);
    let who = Client::new(&entered, api_key.as_ref(), None)?.who_am_i().await?;
    contexts.contexts.insert(name.clone(), entered);
    if contexts.current.is_empty() {
        contexts.current.clone_from(&name);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| CommandError::io("making the folder of", path.display(), &error))?;
    }
    contexts.write(path)?;
    context.output.answer(&LoggedIn { context: name, who }, |answer: &LoggedIn| -> Text {
        whoami::text(&answer.who)
    })?;
    Ok(0)
}

/// Keeps an API key in the place of a certificate.
fn with_key(
    known: Option<&Context>,
    args: &LoginArgs,
    key: &Secret<String>,
) -> Result<Context, CommandError> {
    let known = known.ok_or_else(|| {
        Failure::new(FailureKind::NotFound, "an API key alone does not say how the cluster is known").hint(
            "take a contexts file with the cluster's certificate, or log in once with a password and --ca-digest",
        )
    })?;
    Ok(Context {
        coordinators: addresses(Some(known), args)?,
        ca_certificate: known.ca_certificate.clone(),
        certificate: String::new(),
        key: String::new(),
        api_key: key.expose().trim().to_owned(),
    })
}

/// Turns a password into a certificate.
async fn with_password(
    context: &CommandContext,
    known: Option<&Context>,
    args: &LoginArgs,
) -> Result<Context, CommandError> {
    let name = args.user.as_ref().ok_or_else(|| {
        CommandError::invalid(
            "who logs in is not named",
            "name yourself with --user, or an API key with --api-key-file",
        )
    })?;
    let coordinators = addresses(known, args)?;
    let config = match (args.ca_digest, known) {
        (Some(digest), _) => tls::enrolling_client_config(digest, ALPN_GRPC),
        (None, Some(known)) => tls::keyed::client_config(&client::authority(known)?, ALPN_GRPC),
        (None, None) => {
            return Err(CommandError::invalid(
                "this machine does not know the cluster yet",
                "name its certificate with --ca-digest; `ctl user create` printed the whole command",
            ));
        }
    };
    let config = config.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let question = format!("Password of {name}: ");
    let password = password::present(&context.output, &question, args.password_file.as_deref())?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| bug(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| bug(&error))?;
    let tenant = context.settings.tenant().cloned().unwrap_or_else(TenantId::default_tenant);
    let request = LoginRequest {
        tenant: tenant.to_string(),
        name: name.to_string(),
        password: password.expose().clone(),
        certificate_request: request.der().to_vec(),
    };
    let way = Coordinators::new(coordinators.clone(), Arc::new(config));
    let answered = way.call(DEADLINE, |way| {
        let request = request.clone();
        async move { access_client(way).login(request).await }
    });
    let LoginResponse { certificate, ca_certificate, coordinators: told } = answered.await?;
    let is_pinned = args.ca_digest.is_none_or(|digest| Digest::of(&ca_certificate) == digest);
    if !is_pinned {
        let message =
            "the coordinator answered with another certificate of the cluster than --ca-digest names";
        return Err(Failure::new(FailureKind::Unauthenticated, message)
            .hint("look who answered there")
            .into());
    }
    Ok(Context {
        coordinators: if told.is_empty() { coordinators } else { told },
        ca_certificate: pem("CERTIFICATE", ca_certificate),
        certificate: pem("CERTIFICATE", certificate),
        key: key.serialize_pem(),
        api_key: String::new(),
    })
}

fn addresses(known: Option<&Context>, args: &LoginArgs) -> Result<Vec<String>, CommandError> {
    if !args.coordinators.is_empty() {
        return Ok(args.coordinators.clone());
    }
    known.map(|known| known.coordinators.clone()).ok_or_else(|| {
        CommandError::invalid(
            "no coordinator is named",
            "name one as HOST:PORT, or a context that exists with --context",
        )
    })
}

fn pem(label: &str, der: Vec<u8>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

fn bug(error: &rcgen::Error) -> Failure {
    Failure::of(FailureKind::Bug, error)
}
