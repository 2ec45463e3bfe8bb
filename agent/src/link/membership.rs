//! What makes this host a member of a cluster: its key, its certificate, and where the coordinators are.
//!
//! All of it is one file of mode 0600 that is replaced whole, so key and certificate always belong together. The key of
//! the next certificate is made here, never leaves the host, and is kept in a second file from before it is first used
//! in a request until its certificate has arrived: a request that is repeated after a crash is the same request.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::atomic_file;
use common::clock;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::tls::signature::is_issued_by;
use common::tls::{self, Identity, Peer};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// The file below the state directory.
const FILE: &str = "membership.toml";
/// The key of the next certificate, while its request is under way.
const NEXT_KEY_FILE: &str = "next-key.pem";
/// The version of the file.
const VERSION: u32 = 1;

/// This host's place in a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    version: u32,
    /// The host's name.
    pub name: HostName,
    /// The tenant that the host belongs to.
    pub tenant: TenantId,
    /// Counts the certificates, from 1.
    pub generation: u64,
    /// Addresses of the coordinators, as host:port.
    pub coordinators: Vec<String>,
    certificate: String,
    ca_certificate: String,
    key: String,
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A certificate as a coordinator answers it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate in DER.
    pub certificate: Vec<u8>,
    /// The authority's certificate in DER.
    pub ca_certificate: Vec<u8>,
    /// Its number.
    pub generation: u64,
    /// Addresses of the coordinators; the old ones stay when there are none.
    pub coordinators: Vec<String>,
}

/// Why the membership cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// This host never joined.
    #[error("this host has not joined a cluster: {0} does not exist")]
    Absent(PathBuf),
    /// A file cannot be read or written.
    #[error("using {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The file was written by a later version of the agent.
    #[error(
        "{path} was written by a newer version of the agent: its format is {found}, and this one reads {VERSION}"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is not ours.
    #[error("{path} is damaged")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The key and certificates do not fit together.
    #[error("the key and certificates in membership.toml are damaged")]
    Tls(#[from] tls::TlsError),
    /// What the file holds does not belong together.
    #[error("membership.toml is damaged: {0}")]
    Mixed(&'static str),
    /// The key or the request cannot be made.
    #[error("making a key and its request for a certificate")]
    Key(#[from] rcgen::Error),
    /// The coordinator answered with a certificate for somebody else.
    #[error("the coordinator issued a certificate for {actual}, not for host {expected}")]
    Name {
        /// Who this is.
        expected: HostName,
        /// Whom it names.
        actual: Principal,
    },
}

/// What to do about a membership that is none any more.
const DAMAGED: &str = "put membership.toml back from a backup of this host; without one, move it away, void the old certificate with `ctl host revoke NAME`, and let the host join again with the command that `ctl host enroll NAME` prints";

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        match &error {
            MembershipError::Absent(_) => Self::of(FailureKind::NotFound, &error)
                .hint("run `ctl host enroll NAME` where ctl is set up, and the command that it prints here"),
            MembershipError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::of(FailureKind::Denied, &error)
                    .hint("run the agent as the user that joined, normally root"),
                io::ErrorKind::InvalidData => Self::of(FailureKind::Corrupt, &error).hint(DAMAGED),
                _ => Self::of(FailureKind::Exhausted, &error)
                    .hint("look at the free space and the health of the disk that holds the state directory"),
            },
            MembershipError::Version { .. } => {
                Self::of(FailureKind::Unsupported, &error).hint("install the newer agent again")
            }
            MembershipError::Form { .. } | MembershipError::Tls(_) | MembershipError::Mixed(_) => {
                Self::of(FailureKind::Corrupt, &error).hint(DAMAGED)
            }
            MembershipError::Key(_) => Self::of(FailureKind::Bug, &error),
            MembershipError::Name { .. } => Self::of(FailureKind::Denied, &error)
                .hint("use the command exactly as `ctl host enroll` printed it"),
        }
    }
}

impl Membership {
    /// Reads the membership.
    ///
    /// # Errors
    /// When the host never joined, or the file cannot be used.
    pub fn load(state_dir: &Path) -> Result<Self, MembershipError> {
        let path = state_dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => MembershipError::Absent(path.clone()),
            _ => MembershipError::Io { path: path.clone(), source },
        })?;
        let form = |source| MembershipError::Form { path: path.clone(), source: Box::new(source) };
        let Versioned { version } = toml::from_str(&text).map_err(form)?;
        if version != VERSION {
            return Err(MembershipError::Version { path, found: version });
        }
        toml::from_str(&text).map_err(form)
    }

    /// Checks that what the file holds belongs together, so that a byte that rotted is told here, and not by whoever
    /// is dialled.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), MembershipError> {
        let (chain, key) = self.credentials()?;
        let authority = self.authority()?;
        let [leaf, ..] = &chain[..] else { return Err(MembershipError::Mixed("it holds no certificate")) };
        if !is_issued_by(leaf, &authority) {
            return Err(MembershipError::Mixed(
                "the authority that it names did not sign the certificate in it",
            ));
        }
        if !is_issued_by(&authority, &authority) {
            return Err(MembershipError::Mixed("the certificate of the authority is altered"));
        }
        let peer = Identity::new(chain, key)?.peer()?;
        let expected = Principal::Agent { tenant: self.tenant.clone(), host: self.name.clone() };
        if peer.principal != expected {
            return Err(MembershipError::Mixed("the certificate in it is another host's"));
        }
        Ok(())
    }

    /// Whether this host has joined already.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FILE).exists()
    }

    /// Makes the first membership of a host.
    ///
    /// # Errors
    /// When the answer is not for this host and this key.
    pub fn of_join(
        name: HostName,
        tenant: TenantId,
        issued: Issued,
        key: &KeyPair,
    ) -> Result<Self, MembershipError> {
        let mut membership = Self {
            version: VERSION,
            name,
            tenant,
            generation: 0,
            coordinators: Vec::new(),
            certificate: String::new(),
            ca_certificate: String::new(),
            key: String::new(),
        };
        membership.take(issued, key)?;
        Ok(membership)
    }

    /// Takes over the next certificate and its key.
    ///
    /// # Errors
    /// When the answer is not for this host and this key; then nothing changed.
    pub fn take(&mut self, issued: Issued, key: &KeyPair) -> Result<(), MembershipError> {
        let chain =
            [&issued.certificate, &issued.ca_certificate].map(|der| CertificateDer::from(der.clone()));
        let private = PrivateKeyDer::try_from(key.serialize_der());
        let private = private.map_err(|_form| tls::TlsError::Pem("private key"))?;
        let peer = Identity::new(chain.to_vec(), private)?.peer()?;
        let expected = Principal::Agent { tenant: self.tenant.clone(), host: self.name.clone() };
        if peer.principal != expected {
            return Err(MembershipError::Name { expected: self.name.clone(), actual: peer.principal });
        }
        self.generation = issued.generation;
        self.learn(issued.coordinators);
        self.certificate = pem::encode(&pem::Pem::new("CERTIFICATE", issued.certificate));
        self.ca_certificate = pem::encode(&pem::Pem::new("CERTIFICATE", issued.ca_certificate));
        self.key = key.serialize_pem();
        Ok(())
    }

    /// Takes over the coordinators' addresses, and says whether that changed anything.
    pub fn learn(&mut self, coordinators: Vec<String>) -> bool {
        if coordinators.is_empty() || coordinators == self.coordinators {
            return false;
        }
        self.coordinators = coordinators;
        true
    }

    /// Writes the membership, and drops the key that was kept for it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, state_dir: &Path) -> Result<(), MembershipError> {
        let path = state_dir.join(FILE);
        let io = |source| MembershipError::Io { path: path.clone(), source };
        let text = toml::to_string(self).map_err(|error| io(io::Error::other(error)))?;
        atomic_file::write(&path, text.as_bytes(), 0o600).map_err(io)
    }

    /// Returns the certificate chain and key in the form that TLS takes.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn credentials(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), MembershipError> {
        let mut chain = tls::certificates_of_pem(&self.certificate)?;
        chain.push(self.authority()?);
        Ok((chain, tls::key_of_pem(&self.key)?))
    }

    /// Returns the identity that this host shows.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn identity(&self) -> Result<Arc<Identity>, MembershipError> {
        let (chain, key) = self.credentials()?;
        Ok(Identity::new(chain, key)?)
    }

    /// Returns the authority's certificate.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn authority(&self) -> Result<CertificateDer<'static>, MembershipError> {
        let mut found = tls::certificates_of_pem(&self.ca_certificate)?;
        Ok(found.swap_remove(0))
    }

    /// Returns who the certificate says this is, and until when.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn peer(&self) -> Result<Peer, MembershipError> {
        Ok(tls::peer_of(&tls::certificates_of_pem(&self.certificate)?, clock::wall())?)
    }

    /// Whether this membership is under the authority with this digest.
    pub fn is_under(&self, authority: Digest) -> bool {
        self.authority().is_ok_and(|certificate| Digest::of(&certificate) == authority)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("generation", &self.generation)
            .field("coordinators", &self.coordinators)
            .finish_non_exhaustive()
    }
}

/// Returns the key for the next certificate: the one that a request is under way for, or a new one, kept durably.
///
/// # Errors
/// When the disk refuses.
pub fn next_key(state_dir: &Path) -> Result<KeyPair, MembershipError> {
    let path = state_dir.join(NEXT_KEY_FILE);
    // A key that cannot be read was never used in a request that counts: it was written before it was used.
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(key) = KeyPair::from_pem(&text)
    {
        return Ok(key);
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let io = |source| MembershipError::Io { path: path.clone(), source };
    atomic_file::write(&path, key.serialize_pem().as_bytes(), 0o600).map_err(io)?;
    Ok(key)
}

/// Forgets the key that [`next_key`] kept, once its certificate is saved.
///
/// # Errors
/// When the disk refuses.
pub fn forget_next_key(state_dir: &Path) -> Result<(), MembershipError> {
    let path = state_dir.join(NEXT_KEY_FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(MembershipError::Io { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns the request for a certificate of this key, in DER. It names nobody: the coordinator knows who asks.
///
/// # Errors
/// When the request cannot be made.
pub fn request_of(key: &KeyPair) -> Result<Vec<u8>, MembershipError> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::link::fixture::Authority;

    #[test]
    fn is_read_back_as_it_was_saved_and_only_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        assert!(matches!(Membership::load(state_dir), Err(MembershipError::Absent(_))));
        let (authority, key) = (Authority::new(), next_key(state_dir).unwrap());
        let issued = authority.issue("web1", &key, 1);
        let membership =
            Membership::of_join("web1".parse().unwrap(), TenantId::default_tenant(), issued, &key).unwrap();
        membership.save(state_dir).unwrap();
        assert_eq!(Membership::load(state_dir).unwrap(), membership);
        let mode = std::fs::metadata(state_dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{membership:?}").contains("PRIVATE"));
        let later = std::fs::read_to_string(state_dir.join(FILE)).unwrap();
        std::fs::write(state_dir.join(FILE), later.replace("version = 1", "version = 2\nmore = 1")).unwrap();
        assert!(matches!(Membership::load(state_dir), Err(MembershipError::Version { found: 2, .. })));
        membership.identity().unwrap();
    }

    #[test]
    fn the_next_key_is_the_same_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let first = next_key(directory.path()).unwrap().serialize_der();
        assert_eq!(next_key(directory.path()).unwrap().serialize_der(), first);
        let mode = std::fs::metadata(directory.path().join(NEXT_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget_next_key(directory.path()).unwrap();
        forget_next_key(directory.path()).unwrap();
        assert_ne!(next_key(directory.path()).unwrap().serialize_der(), first);
    }

    #[test]
    fn a_certificate_for_another_host_or_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (authority, key) = (Authority::new(), next_key(directory.path()).unwrap());
        let join =
            |issued| Membership::of_join("web1".parse().unwrap(), TenantId::default_tenant(), issued, &key);
        let foreign = join(authority.issue("web2", &key, 1));
        assert!(matches!(foreign, Err(MembershipError::Name { .. })));
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(matches!(join(authority.issue("web1", &other, 1)), Err(MembershipError::Tls(_))));
    }
}
