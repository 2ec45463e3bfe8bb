//! A HashiCorp Vault that answers well, badly, slowly, too much, or is somebody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::shutdown::Shutdown;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::Cluster;
use crate::config::VaultSettings;
use crate::hub::Hub;
use crate::vault::hashicorp::Vaults;

/// The token that the double accepts.
pub(super) const TOKEN: &str = "hvs.canary-token";

/// A vault of a few lines, after the API of HashiCorp Vault's key-value engine, version 2; notes what it was asked.
pub(super) struct FakeVault {
    pub(super) address: String,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    pub(super) shutdown: Shutdown,
}

impl FakeVault {
    pub(super) async fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let (asked, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let (notes, tasks) = (Arc::clone(&asked), shutdown.clone());
        shutdown.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = tasks.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { return };
                let (notes, acceptor, stop) = (Arc::clone(&notes), acceptor.clone(), tasks.token().clone());
                tasks.spawn(async move {
                    let served = async {
                        match acceptor {
                            None => Self::serve(stream, &notes).await,
                            // Whoever does not like our certificate says so and goes.
                            Some(acceptor) => match acceptor.accept(stream).await {
                                Ok(stream) => Self::serve(stream, &notes).await,
                                Err(_refused) => {}
                            },
                        }
                    };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = served => {}
                    }
                });
            }
        });
        Self { address, asked, shutdown }
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, notes: &Mutex<Vec<String>>) {
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut piece = [0; 1024];
            match stream.read(&mut piece).await {
                Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
                Ok(_) | Err(_) => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        let (status, body) = Self::answer(&request);
        notes.lock().unwrap().push(request.clone());
        if request.contains("/silent ") {
            std::future::pending::<()>().await;
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.ok();
        stream.shutdown().await.ok();
    }

    fn answer(request: &str) -> (&'static str, String) {
        let header = |name: &str| {
            request.lines().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let path = request.split(' ').nth(1).unwrap_or_default();
        let place = path.strip_prefix("/v1/secret/data/shop/");
        let (status, body) = match (header("x-vault-token"), place) {
            (Some(TOKEN), Some("mask" | "silent")) => (
                "200 OK",
                r#"{"request_id":"1","data":{"data":{"key":"the canary of the vault"},"metadata":{"version":2,"destroyed":false,"deletion_time":""}}}"#,
            ),
            (Some(TOKEN), Some("denied")) => {
                ("403 Forbidden", r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#)
            }
            (Some(TOKEN), Some("broken")) => {
                ("500 Internal Server Error", r#"{"errors":["internal error"]}"#)
            }
            (Some(TOKEN), Some("moved")) => ("307 Temporary Redirect", ""),
            (Some(TOKEN), Some("page")) => ("200 OK", "<html>canary</html>"),
            (Some(TOKEN), Some("endless")) => return ("200 OK", " ".repeat(5 * 1024 * 1024)),
            (Some(TOKEN), _) => ("404 Not Found", r#"{"errors":[]}"#),
            (_, _) => ("403 Forbidden", r#"{"errors":["permission denied"]}"#),
        };
        (status, body.to_owned())
    }
}

/// Makes an authority in a file, and a server's certificate of it for this address.
fn authority(directory: &Path, name: &str) -> (PathBuf, ServerConfig) {
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let file = directory.join(format!("{name}.pem"));
    std::fs::write(&file, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (file, config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
}

async fn read(hub: &Hub, settings: VaultSettings, path: &str) -> Result<Vec<u8>, Failure> {
    let tenant = TenantId::default_tenant();
    let vaults = Vaults::new(&BTreeMap::from([(tenant.clone(), settings)]))?;
    vaults.read(hub, &tenant, path, "key").await.map(|value| value.expose().clone())
}

#[tokio::test]
async fn a_vault_over_tls_is_believed_by_its_authority_only() {
    let cluster = Cluster::start().await;
    let (directory, hub) = (cluster.directory.path(), cluster.node.hub());
    let ((ca, tls), (other_ca, _)) = (authority(directory, "vault"), authority(directory, "other"));
    let vault = FakeVault::start(Some(tls)).await;
    let plain = FakeVault::start(None).await;
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let token = |path: PathBuf| format!("${{file:{}}}", path.display()).parse().unwrap();
    let good = VaultSettings {
        address: vault.address.clone(),
        token: token(file("good", &format!("{TOKEN}\n"))),
        ca_file: Some(ca),
        namespace: None,
    };
    let with_token =
        |name: &str, text: &str| VaultSettings { token: token(file(name, text)), ..good.clone() };
    let with_ca = |ca_file| VaultSettings { ca_file: Some(ca_file), ..good.clone() };
    let at = |address: String| VaultSettings { address, ..good.clone() };
    assert_eq!(read(hub, good.clone(), "secret/shop/mask").await.unwrap(), b"the canary of the vault");
    use FailureKind::{Denied, Invalid, NotFound, Timeout, Unauthenticated, Unsupported};
    // Nothing is asked where nobody is believed, so that nobody is shown the token.
    let unasked = [
        ("another authority", with_ca(other_ca), Unauthenticated, "ca_file"),
        ("another name", at(vault.address.replace("127.0.0.1", "localhost")), Unauthenticated, "certificate"),
        ("no authority", with_ca(file("nothing.pem", "")), Invalid, "nothing.pem"),
        ("no file of one", with_ca(directory.join("absent.pem")), Invalid, "absent.pem"),
        ("no TLS there", at(plain.address.replace("http:", "https:")), Timeout, "reach"),
        ("nobody there", at("https://127.0.0.1:1".to_owned()), Timeout, "reach"),
        ("an empty token", with_token("empty", "\n"), Invalid, "token"),
        (
            "no token",
            VaultSettings { token: token(directory.join("absent")), ..good.clone() },
            Invalid,
            "token",
        ),
        ("what is no token", with_token("lines", "a\nb"), Invalid, "token"),
    ];
    let before = vault.asked.lock().unwrap().len();
    for (case, settings, kind, needle) in unasked {
        let refused = read(hub, settings, "secret/shop/mask").await.unwrap_err();
        let told = serde_json::to_string(&refused).unwrap();
        assert!(refused.kind == kind && told.contains(needle), "{case}: {told}");
        assert!(!told.contains("canary"), "{case}: {told}");
    }
    assert_eq!(vault.asked.lock().unwrap().len(), before, "a stranger was asked");
    let asked = [
        ("an expired token", with_token("expired", "hvs.expired"), "mask", Denied, "renew the token"),
        ("a path that is not allowed", good.clone(), "denied", Denied, "capability"),
        ("nothing there", good.clone(), "absent", NotFound, "mount"),
        ("a fault", good.clone(), "broken", Timeout, "500"),
        ("a redirection", good.clone(), "moved", Timeout, "307"),
        ("something else", good.clone(), "page", Unsupported, "HashiCorp"),
        ("too much", good.clone(), "endless", Unsupported, "bytes"),
        ("no answer", good.clone(), "silent", Timeout, "did not answer within"),
    ];
    for (case, settings, path, kind, needle) in asked {
        let refused = read(hub, settings, &format!("secret/shop/{path}")).await.unwrap_err();
        let told = serde_json::to_string(&refused).unwrap();
        assert!(refused.kind == kind && refused.hint.is_some() && told.contains(needle), "{case}: {told}");
        assert!(!told.contains("canary"), "{case}: {told}");
    }
    cluster.stop().await;
    vault.shutdown.finish().await;
    plain.shutdown.finish().await;
}
