//! Posting an anchor: one request over HTTP or HTTPS, by TLS of our own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a post may take from the look-up of the name to the answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Of an answer, more than its status is not read.
const STATUS_BYTES_MAX: u64 = 1024;
/// Where systems keep the certificates that they trust: Debian's place, and that of the RHEL family.
const SYSTEM_CERTIFICATES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    is_tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("`{url}` {why}; write it as https://host/path"));
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return wrong("is neither https:// nor http://"),
        };
        if !url.chars().all(|letter| letter.is_ascii_graphic()) {
            return wrong("holds characters that no URL holds");
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        if authority.contains(['@', '?', '#']) {
            return wrong("holds a user name, or no path before its question");
        }
        let default = if is_tls { 443 } else { 80 };
        // An address of IPv6 stands in brackets and holds colons itself.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            Some(_) | None => (authority, Some(default)),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        match port {
            Some(port) if !host.is_empty() => Ok(Self { is_tls, host, port, path: path.to_owned() }),
            Some(_) | None => wrong("names no host and port"),
        }
    }

    fn request(&self, body: &str) -> Vec<u8> {
        let Self { is_tls: _, host, port, path } = self;
        let path = path.split('#').next().unwrap_or("/");
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: drover-coordinator\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// Posts a document; an answer of 200 to 299 means that it was taken.
///
/// # Errors
/// When the URL cannot be reached in time, its certificate is not trusted, or it answers something else.
pub async fn post(url: &str, certificates: Option<&Path>, body: String) -> Result<(), Failure> {
    let target = Target::parse(url).map_err(|message| Failure::new(FailureKind::Invalid, message))?;
    match tokio::time::timeout(DEADLINE, post_impl(&target, certificates, &body)).await {
        Ok(posted) => posted.map_err(|failure| failure.context("webhook", target.host)),
        Err(_elapsed) => Err(Failure::new(FailureKind::Timeout, "the webhook did not answer in time")
            .context("webhook", target.host)),
    }
}

async fn post_impl(target: &Target, certificates: Option<&Path>, body: &str) -> Result<(), Failure> {
    let unreachable = |error: std::io::Error| Failure::of(FailureKind::Unreachable, &error);
    let connected = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(unreachable)?;
    if !target.is_tls {
        return exchange(connected, target, body).await;
    }
    let name = ServerName::try_from(target.host.clone())
        .map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    let connector = TlsConnector::from(Arc::new(config(certificates)?));
    exchange(connector.connect(name, connected).await.map_err(unreachable)?, target, body).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    target: &Target,
    body: &str,
) -> Result<(), Failure> {
    let unreachable = |error: std::io::Error| Failure::of(FailureKind::Unreachable, &error);
    stream.write_all(&target.request(body)).await.map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let mut answer = Vec::new();
    let mut limited = (&mut stream).take(STATUS_BYTES_MAX);
    loop {
        let read = limited.read_buf(&mut answer).await.map_err(unreachable)?;
        if read == 0 || answer.contains(&b'\n') {
            break;
        }
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = String::from_utf8_lossy(line).into_owned();
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    if code.is_some_and(|code| (200..300).contains(&code)) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Unreachable, format!("the webhook answered `{status}`")))
}

/// Returns TLS that trusts these certificates, or those of the system.
fn config(certificates: Option<&Path>) -> Result<ClientConfig, Failure> {
    let invalid = |message: String| {
        Failure::new(FailureKind::Invalid, message).hint("set `audit.anchor_webhook_ca` to a file in PEM")
    };
    let named = certificates.map(Path::to_owned);
    let system = || SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned);
    let path = named
        .or_else(system)
        .ok_or_else(|| invalid("no certificates of this system were found".to_owned()))?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| invalid(format!("the certificates {}: {error}", path.display())))?;
    let mut roots = RootCertStore::empty();
    let parsed = common::tls::certificates_of_pem(&text)
        .map_err(|error| invalid(format!("the certificates {}: {error}", path.display())))?;
    // A system trusts old certificates of odd forms too; the good ones are enough.
    let (good, _odd) = roots.add_parsable_certificates(parsed);
    if good == 0 {
        return Err(invalid(format!("{} holds no certificate", path.display())));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn urls_are_read_or_refused() {
        let target = |url: &str| {
            Target::parse(url).map(|it| format!("{} {} {} {}", it.is_tls, it.host, it.port, it.path))
        };
        assert_eq!(target("https://a.example"), Ok("true a.example 443 /".to_owned()));
        assert_eq!(target("http://a:81/x?y=1"), Ok("false a 81 /x?y=1".to_owned()));
        assert_eq!(target("https://[::1]:8/x"), Ok("true ::1 8 /x".to_owned()));
        assert_eq!(target("https://[::1]/x"), Ok("true ::1 443 /x".to_owned()));
        for url in
            ["a.example", "https://", "https://a:x/", "https://u@a/", "https://a/\r\nX: y", "http://:1/"]
        {
            assert!(target(url).is_err(), "{url}");
        }
    }

    /// Answers one request and returns what it was.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
        let mut asked = Vec::new();
        while !asked.ends_with(b"}") && stream.read_buf(&mut asked).await.unwrap() > 0 {}
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(asked).unwrap()
    }

    #[tokio::test]
    async fn a_document_is_posted_and_a_refusal_is_a_failure() {
        for (status, is_taken) in [("204 No Content", true), ("500 No", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/hook", listener.local_addr().unwrap());
            let serving = async { answer(listener.accept().await.unwrap().0, status).await };
            let (asked, posted) = tokio::join!(serving, post(&url, None, "{\"a\":1}".to_owned()));
            assert!(
                asked.starts_with("POST /hook HTTP/1.1\r\n") && asked.ends_with("\r\n\r\n{\"a\":1}"),
                "{asked}"
            );
            assert_eq!(posted.is_ok(), is_taken, "{posted:?}");
        }
    }

    #[tokio::test]
    async fn only_a_trusted_certificate_is_posted_to() {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let trusted = directory.path().join("ca.pem");
        std::fs::write(&trusted, certificate.pem()).unwrap();
        let other = directory.path().join("other.pem");
        let unrelated = KeyPair::generate().unwrap();
        let unrelated = CertificateParams::new(["x".to_owned()]).unwrap().self_signed(&unrelated).unwrap();
        std::fs::write(&other, unrelated.pem()).unwrap();
        for (authority, is_taken) in [(&trusted, true), (&other, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
            let serving = async {
                if let Ok(stream) = acceptor.accept(listener.accept().await.unwrap().0).await {
                    answer(stream, "200 OK").await;
                }
            };
            let ((), posted) = tokio::join!(serving, post(&url, Some(authority), "{}".to_owned()));
            assert_eq!(posted.is_ok(), is_taken, "{posted:?}");
        }
    }
}
