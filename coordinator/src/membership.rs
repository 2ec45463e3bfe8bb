//! What a node keeps in its state directory besides raft: who it is, and the certificate that it begins with.
//!
//! `node.json` is written last, by `init` and by `join`; a directory without it belongs to no cluster yet, whatever
//! else an interrupted try left there.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::atomic_file;
use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use common::tls::{self, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::state::cluster::Cluster;

/// The version of [`Membership`].
const VERSION: u32 = 1;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    version: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The node's name, which its certificates carry.
    pub name: NodeName,
    /// Its number in raft.
    pub node_id: u64,
    /// Where the other nodes' raft ports were when this one joined; empty for the first node.
    pub raft_addresses: Vec<String>,
}

/// The authority as a node keeps it beside raft, its key sealed, so that `context` works while the node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedAuthority {
    version: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The authority's certificate in DER.
    pub certificate: Vec<u8>,
    /// Its key in the envelope that the state holds.
    pub sealed_key: Vec<u8>,
    /// Where `ctl` and agents reach the coordinators.
    pub coordinators: Vec<String>,
}

impl SealedAuthority {
    /// Makes it out of the state.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            version: VERSION,
            cluster: cluster.id.clone(),
            certificate: cluster.ca_certificate.clone(),
            sealed_key: cluster.ca_key.clone(),
            coordinators: cluster.api_addresses(),
        }
    }
}

/// The files of a node.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    directory: PathBuf,
}

impl Membership {
    /// Makes a membership.
    pub fn new(cluster: String, name: NodeName, node_id: u64, raft_addresses: Vec<String>) -> Self {
        Self { version: VERSION, cluster, name, node_id, raft_addresses }
    }
}

impl NodeFiles {
    /// Names the files below a state directory, which is made for this program's user only, and closed to others if it
    /// was open: it holds the node's key.
    ///
    /// # Errors
    /// When the directory cannot be made or closed.
    pub fn create(directory: &Path) -> Result<Self, Failure> {
        let unusable = |error| unusable(directory, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let mode = std::fs::metadata(directory).map_err(unusable)?.permissions().mode();
        if mode & 0o077 != 0 {
            std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(unusable)?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns where raft keeps its files.
    pub fn raft_directory(&self) -> PathBuf {
        self.directory.join("raft")
    }

    /// Returns who this node is; none when it belongs to no cluster yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn membership(&self) -> Result<Option<Membership>, Failure> {
        let path = self.directory.join("node.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&path, &error)),
        };
        common::version::check_json(&path.display().to_string(), &text, VERSION)?;
        let membership: Membership = serde_json::from_slice(&text).map_err(|error| damaged(&path, &error))?;
        if membership.version != VERSION {
            let message = format!("{} is of version {}", path.display(), membership.version);
            return Err(Failure::new(FailureKind::Unsupported, message).hint("use the version that wrote it"));
        }
        Ok(Some(membership))
    }

    /// Refuses when this node belongs to a cluster already.
    ///
    /// # Errors
    /// When it does, or when that cannot be read.
    pub fn refuse_member(&self) -> Result<(), Failure> {
        let Some(membership) = self.membership()? else { return Ok(()) };
        let message = format!(
            "{} belongs to cluster {} already, as `{}`",
            self.directory.display(),
            membership.cluster,
            membership.name
        );
        Err(Failure::new(FailureKind::Conflict, message)
            .hint("start it with `drover-coordinator serve`, or use another `state_dir`"))
    }

    /// Removes what an interrupted `init` or `join` left; only for a directory without a membership.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> Result<(), Failure> {
        let path = self.raft_directory();
        let floor = path.with_extension("floor");
        for (path, removed) in
            [(&path, std::fs::remove_dir_all(&path)), (&floor, std::fs::remove_file(&floor))]
        {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(path, &error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes who this node is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_membership(&self, membership: &Membership) -> Result<(), Failure> {
        let text =
            serde_json::to_vec_pretty(membership).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        self.write("node.json", &text)
    }

    /// Writes the sealed authority.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_authority(&self, authority: &SealedAuthority) -> Result<(), Failure> {
        let text = serde_json::to_vec(authority).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        self.write("authority.json", &text)
    }

    /// Returns the sealed authority.
    ///
    /// # Errors
    /// When it is not there, as before the node was first served, or cannot be read.
    pub fn authority(&self) -> Result<SealedAuthority, Failure> {
        let path = self.directory.join("authority.json");
        let text = std::fs::read(&path).map_err(|error| unusable(&path, &error))?;
        common::version::check_json(&path.display().to_string(), &text, VERSION)?;
        serde_json::from_slice(&text).map_err(|error| damaged(&path, &error))
    }

    /// Writes the certificate that the node begins with, the authority's, and the key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_certificate(
        &self,
        chain: &[CertificateDer<'_>],
        key: &PrivateKeyDer<'_>,
    ) -> Result<(), Failure> {
        self.write("node.key", key.secret_der())?;
        let blocks: Vec<pem::Pem> =
            chain.iter().map(|part| pem::Pem::new("CERTIFICATE", part.to_vec())).collect();
        self.write("node.pem", pem::encode_many(&blocks).as_bytes())
    }

    /// Returns the certificate that the node begins with, and the authority's.
    ///
    /// # Errors
    /// When they cannot be read, or are damaged.
    pub fn identity(&self) -> Result<(Arc<Identity>, CertificateDer<'static>), Failure> {
        let (pem, key) = (self.directory.join("node.pem"), self.directory.join("node.key"));
        let text = std::fs::read_to_string(&pem).map_err(|error| unusable(&pem, &error))?;
        let der = std::fs::read(&key).map_err(|error| unusable(&key, &error))?;
        let chain = tls::certificates_of_pem(&text).map_err(|error| damaged(&pem, &error))?;
        let authority = chain.last().cloned().ok_or_else(|| damaged(&pem, &tls::TlsError::NoCertificate))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        let identity = Identity::new(chain, der).map_err(|error| damaged(&key, &error))?;
        Ok((identity, authority))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let path = self.directory.join(name);
        atomic_file::write(&path, content, 0o600).map_err(|error| unusable(&path, &error))
    }
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidData {
        return damaged(path, error);
    }
    Failure::new(disk::kind_of(error), format!("{}: {error}", path.display()))
        .hint("look at `state_dir` in the settings, at who may write there, and at the free space")
}

fn damaged(path: &Path, error: &dyn std::error::Error) -> Failure {
    let message = format!("{} is damaged: {}", path.display(), common::failure::chain(error));
    Failure::new(FailureKind::Corrupt, message).hint(
        "put this one file back from a backup of this node; without one, move the `state_dir` aside and let the node join anew under another name with the command that `ctl cluster add` prints",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_a_cluster_once_its_membership_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let files = NodeFiles::create(&directory.path().join("state")).unwrap();
        assert_eq!(files.membership().unwrap(), None);
        std::fs::create_dir_all(files.raft_directory()).unwrap();
        files.clear().unwrap();
        files.clear().unwrap();
        let membership = Membership::new("c1".to_owned(), "n1".parse().unwrap(), 1, Vec::new());
        files.write_membership(&membership).unwrap();
        assert_eq!(files.membership().unwrap(), Some(membership));
        assert_eq!(files.refuse_member().unwrap_err().kind, FailureKind::Conflict);
    }
}
