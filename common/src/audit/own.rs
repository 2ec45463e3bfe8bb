//! The lines of one tenant as a chain of their own.
//!
//! In the cluster's chain a tenant's lines stand between those of others, whose numbers would tell how much those do. So
//! what leaves the cluster for a tenant is numbered and chained anew, without what is counted for all. The same lines
//! always give the same chain: a head that was signed earlier must be found in every later export.

use super::line::{Line, genesis, link};
use crate::digest::Digest;
use crate::id::TenantId;

/// The chain of one tenant, as far as its lines were taken.
#[derive(Clone, Debug)]
pub struct OwnChain {
    tenant: TenantId,
    count: u64,
    head: Digest,
}

impl OwnChain {
    /// Makes the chain of a tenant before its first line.
    pub fn new(tenant: TenantId) -> Self {
        Self { tenant, count: 0, head: genesis() }
    }

    /// Takes the next line of the cluster's chain; returns it as the tenant sees it, if it is the tenant's.
    pub fn take(&mut self, line: &Line) -> Option<Line> {
        if line.tenant != self.tenant {
            return None;
        }
        self.count += 1;
        let mut own = Line { number: self.count, index: 0, previous: self.head, ..line.clone() };
        own.hash = link(self.head, own.number, own.digest());
        self.head = own.hash;
        Some(own)
    }

    /// Returns how many lines there were, and the hash of the last one.
    pub fn end(&self) -> (u64, Digest) {
        (self.count, self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::chain;
    use super::*;

    #[test]
    fn a_tenants_chain_is_the_same_whatever_others_do() {
        let acme: TenantId = "acme".parse().unwrap();
        let mut lines = chain(9);
        for at in [1, 4, 7] {
            lines[at].tenant = acme.clone();
        }
        let own = |lines: &[Line]| {
            let mut chain = OwnChain::new(acme.clone());
            let taken: Vec<Line> = lines.iter().filter_map(|line| chain.take(line)).collect();
            (taken, chain.end())
        };
        let (taken, end) = own(&lines);
        assert_eq!(taken.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(end, (3, taken[2].hash));
        // Fewer lines of others, and none of the numbers that count for all.
        let fewer: Vec<Line> =
            lines.iter().filter(|line| line.tenant == acme || line.number < 4).cloned().collect();
        assert_eq!(own(&fewer), (taken.clone(), end));
        assert!(taken.iter().all(|line| line.index == 0));
        assert_eq!(own(&lines[..5]).0, taken[..2], "what was signed earlier is found later");
    }
}
