//! Settling one migration at a time: removing a stage takes longer than a coordinator, or a session, may wait for it,
//! and goes on when it is asked for once more.

use std::collections::BTreeSet;

use common::id::MigrationId;
use tokio::sync::watch;

/// The migrations that are being settled; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Settling(watch::Sender<BTreeSet<MigrationId>>);

/// A migration that is being settled, until this is dropped: by whoever does it, also when nobody waits for it any more.
#[derive(Debug)]
pub struct Settled {
    migration: MigrationId,
    settling: Settling,
}

impl Settling {
    /// Waits until nobody settles a migration, and has others wait from then on.
    pub async fn enter(&self, migration: &MigrationId) -> Settled {
        let mut changed = self.0.subscribe();
        loop {
            // Those who wait need not look when somebody enters.
            let mut has_entered = false;
            self.0.send_if_modified(|under_way| {
                has_entered = under_way.insert(migration.clone());
                false
            });
            if has_entered {
                return Settled { migration: migration.clone(), settling: self.clone() };
            }
            // The sender lives as long as `self`, so this cannot fail.
            changed.changed().await.ok();
        }
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        self.settling.0.send_if_modified(|under_way| under_way.remove(&self.migration));
    }
}
