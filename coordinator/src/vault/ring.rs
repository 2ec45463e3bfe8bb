//! The cluster keys that this node has: one, or two while the key is rotated.
//!
//! An envelope names its key by id. One that is not in memory is looked for in the sources once more, so that a key
//! which was put there since the start is found without a restart. An external keeper, which may take seconds, is asked
//! only at the start and by rotations, on a thread that may wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::failure::{Failure, FailureKind};

use super::envelope::hex;
use super::keyring::{ClusterKey, KEYS_MAX, KeySources, Source};

/// The keys in memory, and where they come from.
#[derive(Debug)]
pub struct Keyring {
    sources: KeySources,
    keys: Mutex<Vec<ClusterKey>>,
    /// Held while the file is read and written anew.
    writing: Mutex<()>,
}

impl Keyring {
    /// Reads the keys.
    ///
    /// # Errors
    /// When no source has any, or holds something that is not a key.
    pub fn open(sources: KeySources) -> Result<Self, Failure> {
        let keys = match sources.find_all()? {
            Some((_, keys)) => keys,
            None => vec![sources.load()?],
        };
        Ok(Self { sources, keys: Mutex::new(keys), writing: Mutex::new(()) })
    }

    /// Returns a key by its id; a keeper is not asked for it.
    ///
    /// # Errors
    /// When this node does not have it.
    pub fn key(&self, id: [u8; 8]) -> Result<ClusterKey, Failure> {
        if let Some(key) = self.known(id) {
            return Ok(key);
        }
        if !self.sources.asks_keeper() {
            self.read_again()?;
        }
        self.known(id).ok_or_else(|| {
            let ours: Vec<String> = self.lock().iter().map(|key| hex(&key.id())).collect();
            let message = format!(
                "it was sealed under another cluster key (id {}, ours is {})",
                hex(&id),
                ours.join(", ")
            );
            Failure::new(FailureKind::Invalid, message).hint(
                "put the cluster key of this cluster in place; another coordinator or your backup has it",
            )
        })
    }

    /// Whether this node has a key by itself, in a source that outlives it.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub fn holds(&self, id: [u8; 8]) -> Result<bool, Failure> {
        // A keeper has printed what is in memory, and may take longer than who asks waits.
        if self.sources.asks_keeper() && self.known(id).is_some() {
            return Ok(true);
        }
        let Some((_, found)) = self.sources.find_all()? else { return Ok(false) };
        let is_held = found.iter().any(|key| key.id() == id);
        self.take_up(found);
        Ok(is_held)
    }

    /// Returns the key that stands last in the sources and is another than this one: an operator's choice for the next.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub fn prepared(&self, present: [u8; 8]) -> Result<Option<ClusterKey>, Failure> {
        let keys = self.sources.find_all()?.map(|(_, keys)| keys).unwrap_or_default();
        let is_behind = keys.iter().rposition(|key| key.id() == present);
        Ok(keys.into_iter().next_back().filter(|last| is_behind.is_some() && last.id() != present))
    }

    /// Returns the keys in memory.
    pub fn all(&self) -> Vec<ClusterKey> {
        self.lock().clone()
    }

    /// Refuses when no key can be taken into the file.
    ///
    /// # Errors
    /// When the keys come from elsewhere, where only an operator can put one, or the file cannot be read or is full.
    pub fn check_own(&self) -> Result<(), Failure> {
        match self.sources.find_all()? {
            Some((Source::File, keys)) if keys.len() >= KEYS_MAX => Err(Failure::new(
                FailureKind::Exhausted,
                format!("this node keeps {KEYS_MAX} cluster keys, which is the most"),
            )
            .hint("drop the old ones first: `ctl cluster rotate-key --drop-old`")),
            Some((Source::File, _)) => Ok(()),
            found => Err(not_ours(found.map(|(source, _)| source))),
        }
    }

    /// Takes a key into the file.
    ///
    /// # Errors
    /// When the keys come from elsewhere, where only an operator can put one, or the file cannot be written.
    pub fn add(&self, key: &ClusterKey) -> Result<(), Failure> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.sources.find_all()?;
        let Some((Source::File, mut keys)) = found else {
            return Err(not_ours(found.map(|(source, _)| source)));
        };
        if keys.iter().all(|known| known.id() != key.id()) {
            keys.push(key.clone());
            self.sources.store_all(&keys)?;
        }
        self.read_again()
    }

    /// Forgets the keys that stand before one, in memory and in the file: a key is put behind those that it follows.
    /// Keys that come from elsewhere are the operator's to remove. Nothing is forgotten when that one is not there.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn forget_before(&self, id: [u8; 8]) -> Result<(), Failure> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((Source::File, keys)) = self.sources.find_all()? {
            let kept = from(&keys, id);
            if kept.len() < keys.len() {
                self.sources.store_all(kept)?;
            }
        }
        let mut keys = self.lock();
        *keys = from(&keys, id).to_vec();
        Ok(())
    }

    fn known(&self, id: [u8; 8]) -> Option<ClusterKey> {
        self.lock().iter().find(|key| key.id() == id).cloned()
    }

    /// Takes up what the sources hold and memory does not.
    fn read_again(&self) -> Result<(), Failure> {
        if let Some((_, found)) = self.sources.find_all()? {
            self.take_up(found);
        }
        Ok(())
    }

    fn take_up(&self, found: Vec<ClusterKey>) {
        let mut keys = self.lock();
        for key in found {
            if keys.iter().all(|known| known.id() != key.id()) {
                keys.push(key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ClusterKey>> {
        // Keys are added and removed whole, so a panic elsewhere leaves the list whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a key and those behind it; all when it is not among them.
fn from(keys: &[ClusterKey], id: [u8; 8]) -> &[ClusterKey] {
    let at = keys.iter().position(|key| key.id() == id).unwrap_or(0);
    keys.get(at..).unwrap_or_default()
}

fn not_ours(source: Option<Source>) -> Failure {
    let place = match source {
        Some(Source::Variable) => "the environment",
        Some(Source::Credential) => "systemd's credentials",
        Some(Source::Keeper) => "an external keeper",
        Some(Source::File) | None => "nowhere",
    };
    let message = format!(
        "the cluster key of this node comes from {place}, where only an operator can put the next one"
    );
    Failure::new(FailureKind::Unsupported, message)
        .hint("add a second key behind the present one there, on every coordinator, then rotate again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(directory: &std::path::Path) -> (Keyring, ClusterKey) {
        let sources = KeySources { file: directory.join("cluster.key"), ..KeySources::default() };
        let key = sources.load_or_create().unwrap();
        (Keyring::open(sources).unwrap(), key)
    }

    #[test]
    fn a_key_that_is_added_is_found_by_id_and_the_old_one_can_go() {
        let directory = tempfile::tempdir().unwrap();
        let (ring, first) = ring(directory.path());
        let second = ClusterKey::generate().unwrap();
        assert!(ring.key(second.id()).unwrap_err().message.contains("another cluster key"));
        assert_eq!(ring.prepared(first.id()).unwrap().map(|key| key.id()), None);
        ring.add(&second).unwrap();
        ring.add(&second).unwrap();
        assert_eq!(ring.prepared(first.id()).unwrap().map(|key| key.id()), Some(second.id()));
        assert!(ring.holds(second.id()).unwrap() && ring.holds(first.id()).unwrap());
        assert_eq!(ring.key(second.id()).unwrap().expose(), second.expose());
        ring.forget_before(first.id()).unwrap();
        ring.forget_before([0; 8]).unwrap();
        assert_eq!(ring.all().len(), 2, "a key that is asked for late drops none of those behind it");
        ring.forget_before(second.id()).unwrap();
        assert!(ring.key(first.id()).is_err() && ring.holds(second.id()).unwrap());
    }

    #[test]
    fn a_full_file_says_so_before_a_key_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (ring, _first) = ring(directory.path());
        for _ in 1..KEYS_MAX {
            ring.check_own().unwrap();
            ring.add(&ClusterKey::generate().unwrap()).unwrap();
        }
        let refused = ring.check_own().unwrap_err();
        assert!(refused.hint.unwrap().contains("--drop-old"), "a key that is written and never read");
    }

    #[test]
    fn a_key_in_the_environment_is_the_operators() {
        let key = ClusterKey::new([7; 32]);
        let variable = Some(common::secret::Secret::new(key.reveal().expose().clone()));
        let ring = Keyring::open(KeySources { variable, ..KeySources::default() }).unwrap();
        let refused = ring.add(&ClusterKey::new([8; 32])).unwrap_err();
        assert!(refused.message.contains("environment") && refused.hint.is_some());
    }
}
