//! The ticket: the coordinator's word to a source that a destination may read beneath one root.
//!
//! It is signed with the key of the cluster's authority, so whoever holds the authority's certificate can check it,
//! and it is renewed with the lease whose token it carries. It is no secret: it is worth something only in the hand of
//! the destination that it names, which proves itself by its certificate. What is signed begins with a text that no
//! certificate begins with, so that neither can ever be taken for the other.

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::WallMs;
use crate::fence::FencingToken;
use crate::id::{HostName, MigrationId, StepId, TenantId};
use crate::principal::Principal;
use crate::sanitize::Sanitize;
use crate::tls::Peer;

/// The version of [`Ticket`] and of its signed form.
pub const TICKET_VERSION: u8 = 1;
/// The version of one that carries rules for what is sanitised; a source that does not know it lets nobody in.
const SANITIZING_VERSION: u8 = 2;

/// The largest signed ticket: two paths of 4 KiB, names and rules.
pub const TICKET_BYTES_MAX: usize = 30 * 1024;

/// What every signed text begins with.
const SIGNED_PREFIX: &[u8] = b"drover ticket\0";
/// What it begins with when rules follow, so that none can be read as if they did not.
const SANITIZING_PREFIX: &[u8] = b"drover ticket 2\0";

/// The one scheme of the authority's key.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// Which way content goes, seen from the agent that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The destination reads from the source, whoever dialled.
    Pull,
}

/// The right of one destination to read beneath one root of one source, until it expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The cluster's id.
    pub cluster: String,
    /// The tenant of both hosts.
    pub tenant: TenantId,
    /// The migration.
    pub migration: MigrationId,
    /// The step.
    pub step: StepId,
    /// The host that serves.
    pub source: HostName,
    /// The host that reads, and holds the lease.
    pub destination: HostName,
    /// The root that may be read.
    pub source_root: String,
    /// The root that is written.
    pub destination_root: String,
    /// Which way content goes.
    pub direction: Direction,
    /// The token of the lease.
    pub token: FencingToken,
    /// When it ends, by the coordinator's clock.
    pub expires: WallMs,
    /// What the source drops, replaces and masks before anything leaves it.
    #[serde(skip)]
    pub sanitize: Option<Sanitize>,
}

/// Why a ticket is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicket {
    /// It is not a ticket.
    #[error("it cannot be read")]
    Form,
    /// It is of a version that this program does not know.
    #[error(
        "it was written by a newer version of the program: its format is {0}, and this one reads up to {SANITIZING_VERSION}"
    )]
    Newer(u8),
    /// The cluster's authority did not sign it.
    #[error("the cluster did not sign it")]
    Signature,
    /// It ended.
    #[error("it expired {0} ms ago")]
    Expired(u64),
    /// It is for another cluster.
    #[error("it is for cluster {0}")]
    Cluster(String),
    /// It names another source than the one that was asked.
    #[error("it is for source {0}")]
    Source(HostName),
    /// It names another destination than the one that was dialled.
    #[error("it is for destination {0}")]
    Elsewhere(HostName),
    /// Another than its source showed it to the destination.
    #[error("it was made for source {expected}, and {actual} showed it")]
    Stranger {
        /// Whom it names.
        expected: HostName,
        /// Who showed it.
        actual: Principal,
    },
    /// Another than its destination showed it.
    #[error("it was made for destination {expected}, and {actual} showed it")]
    Destination {
        /// Whom it names.
        expected: HostName,
        /// Who showed it.
        actual: Principal,
    },
}

/// Why a key cannot sign tickets.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeyError {
    /// The key cannot be used.
    #[error("the ticket key cannot be used")]
    Key(#[from] rustls::Error),
    /// The key is of another kind.
    #[error("the ticket key is not an ECDSA key on P-256")]
    Kind,
    /// The ticket cannot be encoded.
    #[error("encoding a ticket")]
    Encode(#[from] postcard::Error),
    /// Its rules cannot be encoded.
    #[error("encoding the rules of a ticket")]
    Rules(#[from] serde_json::Error),
}

/// Signs tickets; the leader's.
#[derive(Debug)]
pub struct TicketKey {
    key: std::sync::Arc<dyn rustls::sign::SigningKey>,
}

/// The form on the wire, after one byte of version.
#[derive(Serialize, Deserialize)]
struct Signed {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl TicketKey {
    /// Makes it out of the authority's private key.
    ///
    /// # Errors
    /// When the key cannot be used for signing.
    pub fn new(key: PrivateKeyDer<'static>) -> Result<Self, TicketKeyError> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
        key.choose_scheme(&[SCHEME]).ok_or(TicketKeyError::Kind)?;
        Ok(Self { key })
    }

    /// Returns the signed form of a ticket.
    ///
    /// # Errors
    /// When it cannot be encoded or signed.
    pub fn sign(&self, ticket: &Ticket) -> Result<Vec<u8>, TicketKeyError> {
        let (version, payload) = match &ticket.sanitize {
            None => (TICKET_VERSION, postcard::to_allocvec(ticket)?),
            // The rules are JSON, because they grow by fields.
            Some(rules) => {
                (SANITIZING_VERSION, postcard::to_allocvec(&(ticket, serde_json::to_string(rules)?))?)
            }
        };
        let signature = self.sign_text(&signed_text(version, &payload))?;
        Ok(postcard::to_extend(&Signed { payload, signature }, vec![version])?)
    }

    /// Returns the signature of a text, which begins with what parts it from all other signed texts.
    pub(crate) fn sign_text(&self, text: &[u8]) -> Result<Vec<u8>, TicketKeyError> {
        let signer = self.key.choose_scheme(&[SCHEME]).ok_or(TicketKeyError::Kind)?;
        Ok(signer.sign(text)?)
    }
}

impl Ticket {
    /// Reads a signed ticket and checks that the cluster's authority signed it.
    ///
    /// # Errors
    /// When it is no ticket, or was not signed by this authority. Whether it holds here and now is [`Self::admits`].
    pub fn open(bytes: &[u8], authority: &CertificateDer<'_>) -> Result<Self, InvalidTicket> {
        let (version, rest) = bytes.split_first().ok_or(InvalidTicket::Form)?;
        if bytes.len() > TICKET_BYTES_MAX || *version < TICKET_VERSION {
            return Err(InvalidTicket::Form);
        }
        if *version > SANITIZING_VERSION {
            return Err(InvalidTicket::Newer(*version));
        }
        let signed: Signed = postcard::from_bytes(rest).map_err(|_error| InvalidTicket::Form)?;
        verify(&signed_text(*version, &signed.payload), &signed.signature, authority)
            .ok_or(InvalidTicket::Signature)?;
        if *version == TICKET_VERSION {
            return postcard::from_bytes(&signed.payload).map_err(|_error| InvalidTicket::Form);
        }
        let (ticket, rules): (Self, String) =
            postcard::from_bytes(&signed.payload).map_err(|_error| InvalidTicket::Form)?;
        let sanitize = serde_json::from_str(&rules).map_err(|_error| InvalidTicket::Form)?;
        Ok(Self { sanitize: Some(sanitize), ..ticket })
    }

    /// Checks that the ticket lets `peer` read from `source`, now.
    ///
    /// `now` is the coordinator's time: the own clock plus the offset learnt in Welcome.
    ///
    /// # Errors
    /// When it has expired, or is for another cluster, source or destination.
    pub fn admits(&self, peer: &Peer, source: &HostName, now: WallMs) -> Result<(), InvalidTicket> {
        self.holds(&peer.cluster, now)?;
        if self.source != *source {
            return Err(InvalidTicket::Source(self.source.clone()));
        }
        let expected = Principal::Agent { tenant: self.tenant.clone(), host: self.destination.clone() };
        if peer.principal != expected {
            let (expected, actual) = (self.destination.clone(), peer.principal.clone());
            return Err(InvalidTicket::Destination { expected, actual });
        }
        Ok(())
    }

    /// Checks that `peer`, which dialled `destination`, is the source from which that one may read, now.
    ///
    /// # Errors
    /// As [`Self::admits`].
    pub fn admits_source(
        &self,
        peer: &Peer,
        destination: &HostName,
        now: WallMs,
    ) -> Result<(), InvalidTicket> {
        self.holds(&peer.cluster, now)?;
        if self.destination != *destination {
            return Err(InvalidTicket::Elsewhere(self.destination.clone()));
        }
        let expected = Principal::Agent { tenant: self.tenant.clone(), host: self.source.clone() };
        if peer.principal != expected {
            let (expected, actual) = (self.source.clone(), peer.principal.clone());
            return Err(InvalidTicket::Stranger { expected, actual });
        }
        Ok(())
    }

    /// Checks that the ticket is for a cluster and has not expired.
    ///
    /// # Errors
    /// When it is neither.
    pub fn holds(&self, cluster: &str, now: WallMs) -> Result<(), InvalidTicket> {
        if self.cluster != cluster {
            return Err(InvalidTicket::Cluster(self.cluster.clone()));
        }
        if now > self.expires {
            return Err(InvalidTicket::Expired(now.since(self.expires)));
        }
        Ok(())
    }
}

fn signed_text(version: u8, payload: &[u8]) -> Vec<u8> {
    let prefix = if version == SANITIZING_VERSION { SANITIZING_PREFIX } else { SIGNED_PREFIX };
    [prefix, payload].concat()
}

/// Returns something when the authority's key made this signature.
pub(crate) fn verify(message: &[u8], signature: &[u8], authority: &CertificateDer<'_>) -> Option<()> {
    let (_, certificate) = X509Certificate::from_der(authority).ok()?;
    let public_key = &certificate.public_key().subject_public_key.data;
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let (_, algorithms) = algorithms.mapping.iter().find(|(scheme, _)| *scheme == SCHEME)?;
    algorithms.first()?.verify_signature(public_key, message, signature).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (CertificateDer<'static>, TicketKey) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
        let key = TicketKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        (certificate.der().clone(), key)
    }

    fn ticket() -> Ticket {
        Ticket {
            cluster: "c1".to_owned(),
            tenant: TenantId::default_tenant(),
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            source: "web1".parse().unwrap(),
            destination: "web2".parse().unwrap(),
            source_root: "/var/www".to_owned(),
            destination_root: "/var/www".to_owned(),
            direction: Direction::Pull,
            token: FencingToken { epoch: 1, index: 9 },
            expires: WallMs(1_000),
            sanitize: None,
        }
    }

    fn peer(host: &str) -> Peer {
        let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() };
        let (not_before, not_after) = (WallMs(0), WallMs(9_000));
        Peer {
            cluster: "c1".to_owned(),
            principal,
            generation: None,
            public_key: Vec::new(),
            not_before,
            not_after,
            is_expired: false,
        }
    }

    #[test]
    fn opens_only_what_the_authority_signed() {
        let (certificate, key) = authority();
        let signed = key.sign(&ticket()).unwrap();
        assert_eq!(Ticket::open(&signed, &certificate), Ok(ticket()));
        let (other, _) = authority();
        assert_eq!(Ticket::open(&signed, &other), Err(InvalidTicket::Signature));
        for at in 0..signed.len() {
            let mut altered = signed.clone();
            altered[at] ^= 1;
            assert!(Ticket::open(&altered, &certificate).is_err(), "an altered byte {at} went unnoticed");
        }
    }

    #[test]
    fn rules_are_signed_and_cannot_be_left_out() {
        use crate::sanitize::{Action, FileRule};
        let (certificate, key) = authority();
        let rule = FileRule { patterns: vec!["*.log".to_owned()], action: Action::Drop };
        let rules = Sanitize { key: None, key_version: None, files: vec![rule] };
        let ticket = Ticket { sanitize: Some(rules), ..ticket() };
        let signed = key.sign(&ticket).unwrap();
        assert_eq!(Ticket::open(&signed, &certificate), Ok(ticket));
        let mut downgraded = signed;
        downgraded[0] = TICKET_VERSION;
        assert_eq!(Ticket::open(&downgraded, &certificate), Err(InvalidTicket::Signature));
    }

    #[test]
    fn admits_only_its_destination_at_its_source_in_its_time() {
        let (ticket, source) = (ticket(), "web1".parse().unwrap());
        assert_eq!(ticket.admits(&peer("web2"), &source, WallMs(1_000)), Ok(()));
        assert_eq!(ticket.admits(&peer("web2"), &source, WallMs(1_001)), Err(InvalidTicket::Expired(1)));
        assert!(ticket.admits(&peer("web3"), &source, WallMs(1)).is_err());
        assert!(ticket.admits(&peer("web2"), &"web9".parse().unwrap(), WallMs(1)).is_err());
        let foreign = Peer { cluster: "c2".to_owned(), ..peer("web2") };
        assert!(ticket.admits(&foreign, &source, WallMs(1)).is_err());
    }

    #[test]
    fn lets_only_its_source_come_to_its_destination_in_its_time() {
        let (ticket, destination) = (ticket(), "web2".parse().unwrap());
        assert_eq!(ticket.admits_source(&peer("web1"), &destination, WallMs(1_000)), Ok(()));
        assert_eq!(
            ticket.admits_source(&peer("web1"), &destination, WallMs(1_001)),
            Err(InvalidTicket::Expired(1))
        );
        assert!(ticket.admits_source(&peer("web3"), &destination, WallMs(1)).is_err());
        assert!(ticket.admits_source(&peer("web2"), &destination, WallMs(1)).is_err());
        assert!(ticket.admits_source(&peer("web1"), &"web9".parse().unwrap(), WallMs(1)).is_err());
        let foreign = Peer { cluster: "c2".to_owned(), ..peer("web1") };
        assert!(ticket.admits_source(&foreign, &destination, WallMs(1)).is_err());
    }
}
