//! `${vault:PATH#KEY}`: a HashiCorp Vault's key-value engine, version 2, by its HTTP API.
//!
//! Each tenant has a vault of its own in the settings, or none: with one token for all, a tenant could name another's
//! paths. The first part of a path is the engine's mount. The token is read anew for each request from where the
//! settings say, so that it can be renewed there. Nothing is cached, and no value or token is logged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::limit::SECRET_BYTES_MAX;
use common::reference::Reference;
use common::secret::Secret;
use common::tls;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroize;

use super::opening::open_kept;
use crate::config::VaultSettings;
use crate::hub::Hub;

/// How long a request may take, from dialling to the last byte.
const DEADLINE: Duration = Duration::from_secs(8);
/// The largest answer: a value may be escaped, and others stand beside it.
const ANSWER_BYTES_MAX: usize = 4 * SECRET_BYTES_MAX;
/// Where systems keep the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The vaults of all tenants.
#[derive(Debug)]
pub struct Vaults {
    by_tenant: BTreeMap<TenantId, Vault>,
}

#[derive(Debug)]
struct Vault {
    settings: VaultSettings,
    address: Address,
    /// None for plain HTTP on this machine.
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    is_tls: bool,
    /// What stands before `/v1`.
    prefix: String,
}

impl Vaults {
    /// Makes the ways to the vaults of the settings.
    ///
    /// # Errors
    /// When an address or an authority cannot be used.
    pub fn new(settings: &BTreeMap<TenantId, VaultSettings>) -> Result<Self, Failure> {
        let vault = |(tenant, settings): (&TenantId, &VaultSettings)| {
            let made = Vault::new(settings.clone()).map_err(|failure| {
                let message = format!("the settings of the vault of tenant `{tenant}`: {}", failure.message);
                Failure { message, ..failure }
            });
            Ok::<_, Failure>((tenant.clone(), made?))
        };
        Ok(Self { by_tenant: settings.iter().map(vault).collect::<Result<_, _>>()? })
    }

    /// Reads a field of a value.
    ///
    /// # Errors
    /// When the tenant has no vault, the vault does not answer or refuses, or there is no such value.
    pub async fn read(
        &self,
        hub: &Hub,
        tenant: &TenantId,
        path: &str,
        key: &str,
    ) -> Result<Secret<Vec<u8>>, Failure> {
        let vault = self.by_tenant.get(tenant).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("the tenant `{tenant}` has no vault"))
                .hint(format!("name its address and token under [vault.{tenant}] in coordinator.toml"))
        })?;
        let token = token(hub, tenant, &vault.settings.token)?;
        match tokio::time::timeout(DEADLINE, vault.get(hub, path, &token)).await {
            Ok(answer) => field(answer?, path, key),
            Err(_elapsed) => {
                let message =
                    format!("{} did not answer within {} s", vault.settings.address, DEADLINE.as_secs());
                Err(Failure::new(FailureKind::Timeout, message)
                    .hint("is the vault up and reachable from here?"))
            }
        }
    }
}

/// Reads the token from where the settings say; one line end at its end does not count.
fn token(hub: &Hub, tenant: &TenantId, place: &Reference) -> Result<Secret<Vec<u8>>, Failure> {
    let missing = |why: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Invalid, format!("the vault's token {place}: {why}"))
            .hint("look at [vault.…] in coordinator.toml")
    };
    let mut token = match place {
        Reference::Secret(name) => open_kept(hub, tenant, name, None)?,
        Reference::File(path) => Secret::new(std::fs::read(path).map_err(|error| missing(&error))?),
        Reference::Env(name) => {
            let value = std::env::var(name).map_err(|error| missing(&error))?;
            Secret::new(value.into_bytes())
        }
        Reference::Vault { .. } => return Err(missing(&"it cannot stand in the vault itself")),
    };
    while token.expose().last().is_some_and(u8::is_ascii_whitespace) {
        token.expose_mut().pop();
    }
    if token.expose().is_empty() { Err(missing(&"it is empty")) } else { Ok(token) }
}

/// What a vault answered.
#[derive(Debug)]
struct Answered {
    status: StatusCode,
    body: Secret<Vec<u8>>,
}

impl Vault {
    fn new(settings: VaultSettings) -> Result<Self, Failure> {
        let address = Address::parse(&settings.address)?;
        let tls = address.is_tls.then(|| tls_config(settings.ca_file.as_deref())).transpose()?;
        Ok(Self { settings, address, tls })
    }

    async fn get(&self, hub: &Hub, path: &str, token: &Secret<Vec<u8>>) -> Result<Answered, Failure> {
        let Address { host, port, .. } = &self.address;
        let address = &self.settings.address;
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Timeout, format!("{address} cannot be reached: {error}"))
                .hint("is the vault up and reachable from the coordinators?")
        };
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            if !error.is::<LengthLimitError>() {
                return unreachable(&error);
            }
            let message = format!("{address} answered with more than {ANSWER_BYTES_MAX} bytes");
            Failure::new(FailureKind::Unsupported, message).hint("is this the address of a HashiCorp Vault?")
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| unreachable(&error))?;
        let request = self.request(path, token)?;
        match &self.tls {
            None => exchange(hub, stream, request).await.map_err(broken),
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| unreachable(&error))?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                let stream = stream.map_err(|error| {
                    if is_of_certificate(&error) { unknown(address, &error) } else { unreachable(&error) }
                })?;
                exchange(hub, stream, request).await.map_err(broken)
            }
        }
    }

    fn request(&self, path: &str, token: &Secret<Vec<u8>>) -> Result<Request<Empty<Bytes>>, Failure> {
        let Address { host, port, prefix, .. } = &self.address;
        let (mount, rest) = path.split_once('/').unwrap_or((path, ""));
        let mut shown = HeaderValue::from_bytes(token.expose()).map_err(|_error| {
            Failure::new(FailureKind::Invalid, "the vault's token holds what no token has")
        })?;
        shown.set_sensitive(true);
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("{prefix}/v1/{mount}/data/{rest}"))
            .header(HOST, format!("{host}:{port}"))
            .header("X-Vault-Request", "true")
            .header("X-Vault-Token", shown);
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        request.body(Empty::new()).map_err(|error| Failure::of(FailureKind::Invalid, &error))
    }
}

/// Whether a handshake ended because of who the other side is.
fn is_of_certificate(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

fn unknown(address: &str, error: &std::io::Error) -> Failure {
    let message = format!("whoever answers at {address} is not the vault that is expected there: {error}");
    Failure::new(FailureKind::Unauthenticated, message).hint(
        "name the authority of the vault's certificate in `ca_file`, and the vault as its certificate does",
    )
}

/// Sends a request and reads the answer, within its bound.
async fn exchange(
    hub: &Hub,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Answered, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let stop = hub.shutdown.token().clone();
    hub.shutdown.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            // How it ended is what the request says.
            _ended = connection => {}
        }
    });
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok(Answered { status: head.status, body: Secret::new(body.to_vec()) })
}

/// Takes a field out of an answer.
fn field(answered: Answered, path: &str, key: &str) -> Result<Secret<Vec<u8>>, Failure> {
    let Answered { status, body } = answered;
    let refused =
        |kind, why: &str, hint: &str| Err(Failure::new(kind, format!("the vault {why}")).hint(hint));
    match status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => {
            let hint = "give the token's policy the capability `read` on this path, or renew the token";
            return refused(FailureKind::Denied, "refused the token for this path", hint);
        }
        StatusCode::NOT_FOUND => {
            let hint = "the first part of the path is the engine's mount; a version that was deleted is not there either";
            return refused(FailureKind::NotFound, &format!("has nothing at `{path}`"), hint);
        }
        other => {
            let hint = "503 means that it is sealed; look at its own log";
            return refused(FailureKind::Timeout, &format!("answered with {other}"), hint);
        }
    }
    // Errors of the parser quote what they met, so they are not passed on.
    let mut document: serde_json::Value = serde_json::from_slice(body.expose()).map_err(|_error| {
        Failure::new(FailureKind::Unsupported, "the vault's answer is not JSON")
            .hint("is this the address of a HashiCorp Vault?")
    })?;
    let found =
        document.pointer_mut("/data/data").and_then(|data| data.get_mut(key)).map(serde_json::Value::take);
    let value = match found {
        Some(serde_json::Value::String(text)) => Some(text),
        Some(other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => Some(other.to_string()),
        Some(serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_)) | None => {
            None
        }
    };
    forget(&mut document);
    let Some(value) = value else {
        let hint = "name a field that holds a text, behind `#`; the engine must be of version 2";
        return refused(FailureKind::NotFound, &format!("has no text `{key}` at `{path}`"), hint);
    };
    match value.len() {
        0 => refused(
            FailureKind::Invalid,
            &format!("holds an empty `{key}` at `{path}`"),
            "put the value there",
        ),
        length if length > SECRET_BYTES_MAX => {
            refused(FailureKind::Invalid, "holds more than a secret may", "a secret holds at most 1 MiB")
        }
        _ => Ok(Secret::new(value.into_bytes())),
    }
}

/// Zeroes the other values that came along.
fn forget(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(forget),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = |why: &str| {
            Failure::new(FailureKind::Invalid, format!("`{text}` {why}"))
                .hint("write it as https://vault.example:8200")
        };
        let uri: Uri = text.parse().map_err(|_error| invalid("is not an address"))?;
        let host = uri.host().ok_or_else(|| invalid("names no host"))?.trim_matches(['[', ']']).to_owned();
        let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_here => false,
            Some("http") => return Err(invalid("would send token and values without TLS")),
            _ => return Err(invalid("is not an address")),
        };
        let port = uri.port_u16().unwrap_or(8200);
        Ok(Self { host, port, is_tls, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Failure> {
    let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let path = ca_file.or_else(system).ok_or_else(|| {
        Failure::new(FailureKind::Invalid, "this system has no list of authorities")
            .hint("name one in `ca_file`")
    })?;
    let unusable = |why: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Invalid, format!("the authorities in {}: {why}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
    let mut roots = RootCertStore::empty();
    // A system's list holds some that are of no use for TLS.
    roots.add_parsable_certificates(tls::certificates_of_pem(&text).map_err(|error| unusable(&error))?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_plain_http_stays_on_this_machine() {
        let address = Address::parse("https://vault.example:8300/prefix/").unwrap();
        assert_eq!((address.host.as_str(), address.port, address.is_tls), ("vault.example", 8300, true));
        assert_eq!(address.prefix, "/prefix");
        assert_eq!(Address::parse("http://127.0.0.1").unwrap().port, 8200);
        assert_eq!(Address::parse("http://[::1]:1").unwrap().host, "::1");
        for bad in ["vault.example", "http://vault.example:8200", "ftp://vault.example", ""] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    fn answer(status: u16, body: &str) -> Result<Vec<u8>, Failure> {
        let status = StatusCode::from_u16(status).unwrap();
        let body = Secret::new(body.as_bytes().to_vec());
        field(Answered { status, body }, "secret/shop", "password").map(|value| value.expose().clone())
    }

    #[test]
    fn only_a_text_of_the_named_field_is_a_value() {
        let good = r#"{"data":{"data":{"password":"canary","x":"y"},"metadata":{"version":3}}}"#;
        assert_eq!(answer(200, good).unwrap(), b"canary");
        assert_eq!(answer(200, r#"{"data":{"data":{"password":7}}}"#).unwrap(), b"7");
        for (status, body, kind) in [
            (200, r#"{"data":{"password":"version 1"}}"#, FailureKind::NotFound),
            (200, r#"{"data":{"data":{"password":{"canary":1}}}}"#, FailureKind::NotFound),
            (200, r#"{"data":{"data":{"password":""}}}"#, FailureKind::Invalid),
            (200, r#"{"data":{"data":{"password":"canary"#, FailureKind::Unsupported),
            (403, r#"{"errors":["permission denied"]}"#, FailureKind::Denied),
            (
                404,
                r#"{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}"#,
                FailureKind::NotFound,
            ),
            (503, r#"{"errors":["Vault is sealed"]}"#, FailureKind::Timeout),
        ] {
            let failure = answer(status, body).unwrap_err();
            assert_eq!(failure.kind, kind, "{body}");
            assert!(failure.hint.is_some() && !failure.to_string().contains("canary"), "{failure}");
        }
    }
}
