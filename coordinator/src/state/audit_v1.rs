//! The audit as snapshots of the first version hold it: lines without addresses, salts and pages.
//!
//! Its lines are chained anew when such a snapshot is read, with the very lines that replaying the log would give.
//! That needs all of them, and a first version that had lost some is not read.

use std::sync::Arc;

use common::clock::WallMs;
use common::digest::Digest;
use common::id::{NodeName, TenantId};
use common::principal::Principal;
use rpds::RedBlackTreeMapSync;
use serde::Deserialize;

use super::audit::{Audit, Deed};
use super::stamp::Stamp;

/// The end of a chain of the first version.
#[derive(Debug, Deserialize)]
pub(super) struct AuditV1 {
    _head: Digest,
    count: u64,
    lines: RedBlackTreeMapSync<u64, Arc<LineV1>>,
}

/// One line of it.
#[derive(Debug, Deserialize)]
struct LineV1 {
    _number: u64,
    index: u64,
    wall: WallMs,
    tenant: TenantId,
    principal: String,
    action: String,
    object: String,
    refused: Option<String>,
    count: u32,
}

impl AuditV1 {
    /// Returns the same lines in a chain of today; none when lines are missing.
    pub(super) fn rechained(&self, secret: &[u8], node: &NodeName) -> Option<Audit> {
        if u64::try_from(self.lines.size()).ok()? != self.count {
            return None;
        }
        let mut audit = Audit::default();
        for line in self.lines.values() {
            let LineV1 { _number, index, wall, tenant, principal, action, object, refused, count } =
                line.as_ref();
            // Only the index and the time of the stamp stand in a line.
            let principal_of_stamp = Principal::Node { name: node.clone() };
            let stamp =
                Stamp { index: *index, epoch: 0, wall: *wall, principal: principal_of_stamp, address: None };
            let deed = Deed {
                tenant: tenant.clone(),
                principal: principal.clone(),
                address: None,
                action: action.clone(),
                object: object.clone(),
                refused: refused.clone(),
                count: *count,
            };
            audit.write(&stamp, secret, deed);
        }
        Some(audit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first version wrote: postcard knows places and not names.
    type Line = (u64, u64, WallMs, TenantId, String, String, String, Option<String>, u32);

    #[test]
    fn a_first_version_is_chained_as_its_log_would_be() {
        let line = |number: u64| -> Line {
            let text = |text: &str| text.to_owned();
            let tenant = TenantId::default_tenant();
            (
                number,
                40 + number,
                WallMs(7),
                tenant,
                text("node:n1"),
                text("host.drain"),
                text("web1"),
                None,
                1,
            )
        };
        let written = |numbers: &[u64], count: u64| {
            let lines: std::collections::BTreeMap<u64, Line> =
                numbers.iter().map(|number| (*number, line(*number))).collect();
            postcard::to_allocvec(&(Digest::of(b""), count, lines)).unwrap()
        };
        let node: NodeName = "n1".parse().unwrap();
        let read = |bytes: &[u8]| postcard::from_bytes::<AuditV1>(bytes).unwrap().rechained(b"secret", &node);
        let audit = read(&written(&[1, 2], 2)).unwrap();
        let mut expected = Audit::default();
        for index in [41, 42] {
            let principal = Principal::Node { name: node.clone() };
            let stamp = Stamp { index, epoch: 1, wall: WallMs(7), principal, address: None };
            let deed = Deed {
                tenant: TenantId::default_tenant(),
                principal: "node:n1".to_owned(),
                address: None,
                action: "host.drain".to_owned(),
                object: "web1".to_owned(),
                refused: None,
                count: 1,
            };
            expected.write(&stamp, b"secret", deed);
        }
        assert_eq!(audit, expected);
        assert_eq!(read(&written(&[2], 2)), None, "a line is lost");
    }
}
