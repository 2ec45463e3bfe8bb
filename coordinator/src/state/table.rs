//! Records by tenant and id.
//!
//! There is no look-up without a tenant, so a foreign id takes the path of an absent one. A copy of a table costs the
//! same however many records it holds: map nodes are shared, and records are behind `Arc`.

use std::sync::Arc;

use common::id::TenantId;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

/// The records of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Ord + Serialize, V: Serialize",
    deserialize = "K: Ord + Clone + Deserialize<'de>, V: Deserialize<'de>"
))]
pub struct Table<K: Ord, V> {
    tenants: RedBlackTreeMapSync<TenantId, Rows<K, V>>,
}

/// The records of one tenant.
type Rows<K, V> = RedBlackTreeMapSync<K, Arc<V>>;

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { tenants: RedBlackTreeMapSync::new_sync() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// Returns a record.
    pub fn get(&self, tenant: &TenantId, id: &K) -> Option<&Arc<V>> {
        self.tenants.get(tenant)?.get(id)
    }

    /// Stores a record.
    pub fn insert(&mut self, tenant: &TenantId, id: K, value: impl Into<Arc<V>>) {
        if let Some(rows) = self.tenants.get_mut(tenant) {
            rows.insert_mut(id, value.into());
        } else {
            let mut rows = Rows::new_sync();
            rows.insert_mut(id, value.into());
            self.tenants.insert_mut(tenant.clone(), rows);
        }
    }

    /// Removes a record, and the tenant's rows with the last of them; says whether it was there.
    pub fn remove(&mut self, tenant: &TenantId, id: &K) -> bool {
        let Some(rows) = self.tenants.get_mut(tenant) else { return false };
        let was_there = rows.remove_mut(id);
        if rows.is_empty() {
            self.tenants.remove_mut(tenant);
        }
        was_there
    }

    /// Returns the records of a tenant, by id.
    pub fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.tenants.get(tenant).into_iter().flat_map(RedBlackTreeMapSync::iter)
    }

    /// Returns the records of a tenant that come after an id.
    pub fn of_tenant_after(&self, tenant: &TenantId, id: &K) -> impl Iterator<Item = (&K, &Arc<V>)> {
        let after = (std::ops::Bound::Excluded(id.clone()), std::ops::Bound::Unbounded);
        self.tenants.get(tenant).into_iter().flat_map(move |rows| rows.range(after.clone()))
    }

    /// Returns all records, by tenant and id; for reconcilers, which act for the cluster.
    pub fn all(&self) -> impl Iterator<Item = (&TenantId, &K, &Arc<V>)> {
        self.tenants.iter().flat_map(|(tenant, rows)| rows.iter().map(move |(id, value)| (tenant, id, value)))
    }

    /// Returns how many records there are.
    pub fn len(&self) -> usize {
        self.tenants.values().map(RedBlackTreeMapSync::size).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_record_is_an_absent_one() {
        let (ours, theirs): (TenantId, TenantId) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let mut table: Table<u32, &str> = Table::default();
        table.insert(&ours, 1, "one");
        table.insert(&ours, 2, "two");
        assert_eq!(table.get(&ours, &1).map(|value| **value), Some("one"));
        assert_eq!(table.get(&theirs, &1), None);
        assert!(!table.remove(&theirs, &1));
        assert_eq!(table.of_tenant_after(&ours, &1).count(), 1);
        let copy = table.clone();
        assert!(table.remove(&ours, &1) && table.remove(&ours, &2));
        assert!(table.is_empty());
        assert_eq!(copy.len(), 2);
    }
}
