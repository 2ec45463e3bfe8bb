//! Signed heads: what the chain was at a moment, by the word of the cluster's authority.
//!
//! A head stands at the end of an export and, kept outside the cluster, is an anchor: whoever writes the whole chain
//! anew cannot make it fit one, and nobody without the authority's key can make another.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::digest::Digest;
use crate::id::TenantId;
use crate::ticket::{TicketKey, TicketKeyError, verify};

/// The version of [`Head`] and of what is signed.
pub const HEAD_VERSION: u32 = 1;
/// What every signed text begins with; no ticket and no certificate does.
const SIGNED_PREFIX: &[u8] = b"drover audit head\0";
/// What the signed text of a tenant's own chain begins with.
const OWN_PREFIX: &[u8] = b"drover audit head of tenant\0";

/// How far the chain was at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The version of this form.
    pub drover_audit_head: u32,
    /// The cluster's id.
    pub cluster: String,
    /// Whose chain, where it is one tenant's own and not the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The number of the last line; zero before the first.
    pub sequence: u64,
    /// Its hash.
    pub head: Digest,
    /// When this was signed.
    pub at: WallMs,
    /// The authority's signature, in hex.
    pub signature: String,
}

impl Head {
    /// Signs where the chain of the cluster, or of one tenant, is.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(
        key: &TicketKey,
        cluster: &str,
        tenant: Option<&TenantId>,
        (sequence, head): (u64, Digest),
        at: WallMs,
    ) -> Result<Self, TicketKeyError> {
        let unsigned = Self {
            drover_audit_head: HEAD_VERSION,
            cluster: cluster.to_owned(),
            tenant: tenant.cloned(),
            sequence,
            head,
            at,
            signature: String::new(),
        };
        let signature = key.sign_text(&unsigned.signed_text())?;
        Ok(Self { signature: hex(&signature), ..unsigned })
    }

    /// Whether the cluster's authority signed it.
    pub fn is_signed_by(&self, authority: &CertificateDer<'_>) -> bool {
        let Some(signature) = bytes(&self.signature) else { return false };
        self.drover_audit_head == HEAD_VERSION && verify(&self.signed_text(), &signature, authority).is_some()
    }

    /// Reads one line of a file of anchors.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn signed_text(&self) -> Vec<u8> {
        let Self { drover_audit_head, cluster, tenant, sequence, head, at, signature: _ } = self;
        let mut text = SIGNED_PREFIX.to_vec();
        if let Some(tenant) = tenant {
            text = OWN_PREFIX.to_vec();
            text.extend(u64::try_from(tenant.as_str().len()).unwrap_or(u64::MAX).to_le_bytes());
            text.extend(tenant.as_str().as_bytes());
        }
        text.extend(drover_audit_head.to_le_bytes());
        text.extend(u64::try_from(cluster.len()).unwrap_or(u64::MAX).to_le_bytes());
        text.extend(cluster.as_bytes());
        text.extend(sequence.to_le_bytes());
        text.extend(head.as_bytes());
        text.extend(at.0.to_le_bytes());
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    // A signature on P-256 has at most 72 bytes.
    if !hex.len().is_multiple_of(2) || hex.len() > 256 || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    #[test]
    fn only_the_authority_signs() {
        let authority = || {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let certificate = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
            let key = TicketKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
            (certificate.der().clone(), key)
        };
        let ((certificate, key), (other, _)) = (authority(), authority());
        let head = Head::sign(&key, "c1", None, (7, Digest::of(b"x")), WallMs(9)).unwrap();
        let read = Head::parse(&serde_json::to_string(&head).unwrap()).unwrap();
        assert!(read == head && head.is_signed_by(&certificate) && !head.is_signed_by(&other));
        type Alter = fn(&mut Head);
        let acme: TenantId = "acme".parse().unwrap();
        let own = Head::sign(&key, "c1", Some(&acme), (7, Digest::of(b"x")), WallMs(9)).unwrap();
        assert!(own.is_signed_by(&certificate));
        assert!(
            !Head { tenant: None, ..own.clone() }.is_signed_by(&certificate),
            "passed off as the cluster's"
        );
        assert!(!Head { tenant: Some("other".parse().unwrap()), ..own }.is_signed_by(&certificate));
        let altered: [(&str, Alter); 7] = [
            ("version", |head| head.drover_audit_head = 2),
            ("cluster", |head| head.cluster.push('x')),
            ("tenant", |head| head.tenant = Some("acme".parse().unwrap())),
            ("sequence", |head| head.sequence = 8),
            ("head", |head| head.head = Digest::of(b"y")),
            ("at", |head| head.at = WallMs(8)),
            ("signature", |head| head.signature = "zz".to_owned()),
        ];
        for (field, alter) in altered {
            let mut forged = head.clone();
            alter(&mut forged);
            assert!(!forged.is_signed_by(&certificate), "{field} is not covered");
        }
    }
}
