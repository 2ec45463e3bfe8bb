//! The coordinator's word to an agent that it may pass on what two others say to each other.
//!
//! Where neither agent of a step reaches the other, both dial a third one, which joins their connections and sees only
//! ciphertext: they speak TLS with each other through it. So this right opens nothing at either end; it only keeps
//! strangers from using an agent as a relay.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::fence::FencingToken;
use crate::id::{HostName, TenantId};
use crate::principal::Principal;
use crate::ticket::{TicketKey, TicketKeyError, verify};
use crate::tls::Peer;

/// The version of [`RelayTicket`] and of its signed form.
pub const RELAY_TICKET_VERSION: u8 = 1;
/// The largest signed form: three names, an id and numbers.
pub const RELAY_TICKET_BYTES_MAX: usize = 1024;

/// What every signed text begins with.
const SIGNED_PREFIX: &[u8] = b"drover relay\0";

/// The right of two hosts to be joined by a third, for one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTicket {
    /// The cluster's id.
    pub cluster: String,
    /// The tenant of all three.
    pub tenant: TenantId,
    /// The host that passes on.
    pub relay: HostName,
    /// One end.
    pub source: HostName,
    /// The other end.
    pub destination: HostName,
    /// The token of the lease.
    pub token: FencingToken,
    /// Until when connections may be joined, by the coordinator's clock; those that are joined stay.
    pub expires: WallMs,
}

/// Which end of what is relayed somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayEnd {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Why a relay does not join a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRelayTicket {
    /// It is not a ticket, or of a version that this program does not know.
    #[error("it cannot be read")]
    Form,
    /// The cluster's authority did not sign it.
    #[error("the cluster did not sign it")]
    Signature,
    /// It ended.
    #[error("it expired {0} ms ago")]
    Expired(u64),
    /// It is for another cluster, tenant or relay.
    #[error("it is for another relay")]
    Elsewhere,
    /// Neither of both ends showed it.
    #[error("{0} showed it, which is neither of both ends")]
    Stranger(Principal),
}

/// The form on the wire, after one byte of version.
#[derive(Serialize, Deserialize)]
struct Signed {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl TicketKey {
    /// Returns the signed form of a relay's ticket.
    ///
    /// # Errors
    /// When it cannot be encoded or signed.
    pub fn sign_relay(&self, ticket: &RelayTicket) -> Result<Vec<u8>, TicketKeyError> {
        let payload = postcard::to_allocvec(ticket)?;
        let signature = self.sign_text(&[SIGNED_PREFIX, &payload].concat())?;
        Ok(postcard::to_extend(&Signed { payload, signature }, vec![RELAY_TICKET_VERSION])?)
    }
}

impl RelayTicket {
    /// Reads a signed ticket and checks that the cluster's authority signed it.
    ///
    /// # Errors
    /// When it is no ticket, or was not signed by this authority.
    pub fn open(bytes: &[u8], authority: &CertificateDer<'_>) -> Result<Self, InvalidRelayTicket> {
        let (version, rest) = bytes.split_first().ok_or(InvalidRelayTicket::Form)?;
        if bytes.len() > RELAY_TICKET_BYTES_MAX || *version != RELAY_TICKET_VERSION {
            return Err(InvalidRelayTicket::Form);
        }
        let signed: Signed = postcard::from_bytes(rest).map_err(|_error| InvalidRelayTicket::Form)?;
        verify(&[SIGNED_PREFIX, &signed.payload].concat(), &signed.signature, authority)
            .ok_or(InvalidRelayTicket::Signature)?;
        postcard::from_bytes(&signed.payload).map_err(|_error| InvalidRelayTicket::Form)
    }

    /// Returns which end `peer` is, if the relay `own` may join it to the other one, now.
    ///
    /// # Errors
    /// When it has expired, or is for another relay or other ends.
    pub fn admits(&self, peer: &Peer, own: &Peer, now: WallMs) -> Result<RelayEnd, InvalidRelayTicket> {
        let agent = |host: &HostName| Principal::Agent { tenant: self.tenant.clone(), host: host.clone() };
        if self.cluster != own.cluster || peer.cluster != own.cluster || own.principal != agent(&self.relay) {
            return Err(InvalidRelayTicket::Elsewhere);
        }
        if now > self.expires {
            return Err(InvalidRelayTicket::Expired(now.since(self.expires)));
        }
        if peer.principal == agent(&self.source) {
            Ok(RelayEnd::Source)
        } else if peer.principal == agent(&self.destination) {
            Ok(RelayEnd::Destination)
        } else {
            Err(InvalidRelayTicket::Stranger(peer.principal.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn authority() -> (CertificateDer<'static>, TicketKey) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
        let key = TicketKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        (certificate.der().clone(), key)
    }

    fn ticket() -> RelayTicket {
        RelayTicket {
            cluster: "c1".to_owned(),
            tenant: TenantId::default_tenant(),
            relay: "web9".parse().unwrap(),
            source: "web1".parse().unwrap(),
            destination: "web2".parse().unwrap(),
            token: FencingToken { epoch: 1, index: 9 },
            expires: WallMs(1_000),
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
        let signed = key.sign_relay(&ticket()).unwrap();
        assert!(signed.len() <= RELAY_TICKET_BYTES_MAX);
        assert_eq!(RelayTicket::open(&signed, &certificate), Ok(ticket()));
        assert_eq!(RelayTicket::open(&signed, &authority().0), Err(InvalidRelayTicket::Signature));
        for at in 0..signed.len() {
            let mut altered = signed.clone();
            altered[at] ^= 1;
            assert!(
                RelayTicket::open(&altered, &certificate).is_err(),
                "an altered byte {at} went unnoticed"
            );
        }
    }

    #[test]
    fn joins_only_both_ends_at_its_relay_in_its_time() {
        let (ticket, relay) = (ticket(), peer("web9"));
        assert_eq!(ticket.admits(&peer("web1"), &relay, WallMs(1_000)), Ok(RelayEnd::Source));
        assert_eq!(ticket.admits(&peer("web2"), &relay, WallMs(1_000)), Ok(RelayEnd::Destination));
        assert_eq!(ticket.admits(&peer("web2"), &relay, WallMs(1_001)), Err(InvalidRelayTicket::Expired(1)));
        assert!(ticket.admits(&peer("web3"), &relay, WallMs(1)).is_err());
        assert_eq!(
            ticket.admits(&peer("web1"), &peer("web8"), WallMs(1)),
            Err(InvalidRelayTicket::Elsewhere)
        );
        let foreign = Peer { cluster: "c2".to_owned(), ..peer("web1") };
        assert_eq!(ticket.admits(&foreign, &relay, WallMs(1)), Err(InvalidRelayTicket::Elsewhere));
    }
}
