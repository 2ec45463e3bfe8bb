//! What an agent's migrations brought before, so that it need not travel again.
//!
//! For each tenant, and never across tenants, the agent keeps which small files its migrations have landed: name, size
//! and digest, and where they stand. It is asked for each small file that is wanted, by name and size, for files that
//! are the same are mostly called the same; what it answers is a hint, which the source compares with the digest of the
//! file that it reads anyway. So no question goes forth and back, and where nothing is held nothing is said.
//!
//! It is a cache, and believed in nothing: an entry names a place, which is looked at, read and compared before anything
//! comes of it. Damage costs a run file and a line in the log; losing all of it costs that more is sent.
//!
//! ```text
//! what landed ─▶ gathered in memory ─▶ run-1, run-2, … (sorted, never changed) ─▶ merged into one
//! ```
//!
//! Run files are written beside and renamed; nothing is synced. Many passes add to one index and ask it at once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use common::id::TenantId;
use tree::{Dir, Name, Root, TreeError};

mod held;
mod merge;
mod record;
mod run;

pub(crate) use held::{Held, Index};
pub(crate) use record::{Record, key_of};

/// The folder in the agent's state directory; one folder for each tenant is below it.
const FOLDER: &str = "index";

/// The indexes of an agent, opened when they are first asked for; an agent has few tenants, as a rule one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<HashMap<TenantId, Arc<Index>>>>);

impl Shelf {
    /// Returns the index of a tenant; nothing, and a line in the log, if there is no place for it.
    pub(crate) fn of(&self, state_dir: &Path, tenant: &TenantId) -> Option<Arc<Index>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.get(tenant) {
            return Some(Arc::clone(index));
        }
        match folder(state_dir, tenant).and_then(Index::open) {
            Ok(index) => {
                let index = Arc::new(index);
                open.insert(tenant.clone(), Arc::clone(&index));
                Some(index)
            }
            Err(error) => {
                tracing::warn!(%tenant, error = %common::failure::chain(&error), "index of content not opened");
                None
            }
        }
    }
}

/// Opens the folder of a tenant, making it if it is missing.
fn folder(state_dir: &Path, tenant: &TenantId) -> Result<Dir, TreeError> {
    let mut dir = Root::open(state_dir)?.dir();
    for name in [FOLDER, tenant.as_str()] {
        let name = Name::new(name).expect("a constant, or an id, without slash");
        dir = match dir.open_dir(&name) {
            Err(error) if error.is_not_found() => dir.create_dir(&name, 0o700)?,
            opened => opened?,
        };
    }
    Ok(dir)
}
