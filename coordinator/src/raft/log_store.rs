//! The durable log, on sled.
//!
//! Guarantees: an entry or a vote is on disk before it is acknowledged; entries have no holes; what is purged was noted
//! as purged before the first of it is deleted. One `Db` per process. Every value is an entry of at most
//! [`RECORD_BYTES_MAX`] or smaller, because sled never frees larger ones; snapshots are files elsewhere. Every value
//! begins with a byte of version.
//!
//! sled may panic when its files are damaged: opening catches that and says so. Such a node must join again with an
//! empty directory and a new number, because a node that has forgotten a vote must not vote again.

#![expect(clippy::result_large_err, reason = "the traits of openraft fix the type of the error")]

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::clock;
use common::failure::FailureKind;
use common::limit::RECORD_BYTES_MAX;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, Entry, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::floor::{Floor, Mark};
use super::{LogId, TypeConfig};
use crate::disk;

/// The version of every value in the log store.
const VERSION: u8 = 1;
/// Memory that sled may use for pages; the log's tail is all that is read again.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of entries that one message to a follower may hold; an append must pass within a heartbeat.
const BATCH_BYTES: usize = 256 * 1024;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// sled refused.
    #[error("opening the log in {0}")]
    Sled(String, #[source] sled::Error),
    /// sled cannot make sense of its files.
    #[error("the log in {0} is damaged")]
    Damaged(String),
    /// What is there is not what this node has acknowledged.
    #[error(
        "the log in {directory} ends at entry {found}, in term {found_term}, but this node has acknowledged entry {committed} and voted in term {term}: it was damaged or removed, or an older copy was put in its place"
    )]
    Lost {
        /// The log.
        directory: String,
        /// Its last entry.
        found: u64,
        /// The term of its vote.
        found_term: u64,
        /// What was acknowledged.
        committed: u64,
        /// What was voted in.
        term: u64,
    },
    /// A record of it cannot be read.
    #[error("reading the log in {0}")]
    Record(String, #[source] Box<StorageError<u64>>),
}

impl OpenError {
    /// Says what this is to the operator.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Sled(_, sled::Error::Io(error)) => disk::kind_of(error),
            Self::Sled(..) => FailureKind::Invalid,
            Self::Damaged(_) | Self::Lost { .. } | Self::Record(..) => FailureKind::Corrupt,
        }
    }
}

/// The log, the vote and the positions; clones share one store.
#[derive(Clone)]
pub struct LogStore {
    db: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    flush_time: FlushTime,
    floor: Arc<Floor>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").finish_non_exhaustive()
    }
}

/// How long flushes take here lately; elections wait longer on slow disks.
#[derive(Clone, Debug, Default)]
pub struct FlushTime(Arc<AtomicU64>);

impl FlushTime {
    /// Returns a time that most flushes stay below.
    pub fn recent(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn note(&self, taken: Duration) {
        let taken = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        // Rises at once and forgets slowly.
        let forgetting = self.0.load(Ordering::Relaxed) / 8 * 7;
        self.0.store(forgetting.max(taken), Ordering::Relaxed);
    }
}

impl LogStore {
    /// Opens the store in a directory, or makes it.
    ///
    /// # Errors
    /// When the files cannot be used or are damaged, or end below their floor.
    pub(super) fn open(directory: &Path, floor: Arc<Floor>) -> Result<Self, OpenError> {
        let shown = directory.display().to_string();
        let opening = || {
            let db = sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .open()?;
            let log = db.open_tree("log")?;
            let meta = db.open_tree("meta")?;
            Ok(Self { db, log, meta, flush_time: FlushTime::default(), floor })
        };
        let store: Self = match catch_unwind(AssertUnwindSafe(opening)) {
            Ok(Err(sled::Error::Corruption { .. })) | Err(_) => return Err(OpenError::Damaged(shown)),
            Ok(opened) => opened.map_err(|error| OpenError::Sled(shown.clone(), error))?,
        };
        let found = store.reached().map_err(|error| OpenError::Record(shown.clone(), Box::new(error)))?;
        let Mark { committed, term } = store.floor.mark();
        if found.committed < committed || found.term < term {
            let (found, found_term) = (found.committed, found.term);
            return Err(OpenError::Lost { directory: shown, found, found_term, committed, term });
        }
        Ok(store)
    }

    /// Returns the last entry, agreed on or not, and the term of the vote.
    fn reached(&self) -> Result<Mark, StorageError<u64>> {
        let vote: Option<Vote<u64>> = self.read_meta(VOTE)?;
        let committed = self.last_log_id()?.map_or(0, |last| last.index);
        Ok(Mark { committed, term: vote.map_or(0, |vote| vote.leader_id().get_term()) })
    }

    fn last_log_id(&self) -> Result<Option<LogId>, StorageError<u64>> {
        let last = self.log.last().map_err(reading)?;
        let last = last.map(|(_, bytes)| decode::<Entry<TypeConfig>>(&bytes)).transpose()?;
        last.map_or_else(|| self.read_meta(PURGED), |entry| Ok(Some(entry.log_id)))
    }

    /// Notes what the log holds for good, and writes it down now and then.
    async fn raise_floor(&self, reached: Mark) {
        if !self.floor.note(reached) {
            return;
        }
        let floor = Arc::clone(&self.floor);
        // The floor tells by itself what it could not write; a panic there would be told at the next writing.
        drop(tokio::task::spawn_blocking(move || floor.write()).await);
    }

    /// Returns the last entry that was dropped because a snapshot holds it.
    ///
    /// # Errors
    /// When that is not readable.
    pub fn purged(&self, directory: &Path) -> Result<Option<LogId>, OpenError> {
        let unread = |error| OpenError::Record(directory.display().to_string(), Box::new(error));
        self.read_meta(PURGED).map_err(unread)
    }

    /// Returns how long flushes take.
    pub fn flush_time(&self) -> FlushTime {
        self.flush_time.clone()
    }

    async fn flush(&self) -> Result<(), sled::Error> {
        let begun = clock::boot();
        // Not `flush_async`: that waits on sled's own few threads, where the writes that it waits for run too.
        let db = self.db.clone();
        let flushed = tokio::task::spawn_blocking(move || db.flush()).await;
        flushed.map_err(|error| sled::Error::Io(std::io::Error::other(error)))??;
        self.flush_time.note(clock::boot().since(begun));
        Ok(())
    }

    fn read_meta<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StorageError<u64>> {
        let value = self.meta.get(key).map_err(reading)?;
        value.map(|bytes| decode(&bytes)).transpose()
    }

    fn write_meta(&self, key: &[u8], value: &impl Serialize) -> Result<(), StorageError<u64>> {
        self.meta.insert(key, encode(value)?).map_err(writing)?;
        Ok(())
    }

    /// Reads entries until `bytes_max` is passed; at least one, if there is one.
    fn read(
        &self,
        range: (Bound<u64>, Bound<u64>),
        bytes_max: usize,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        let mut entries = Vec::new();
        let mut bytes_total = 0;
        for item in self.log.range::<[u8; 8], _>((range.0.map(key), range.1.map(key))) {
            let (_, bytes) = item.map_err(reading)?;
            entries.push(decode(&bytes)?);
            bytes_total += bytes.len();
            if bytes_total >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    /// Deletes the entries of a range.
    fn delete(&self, range: (Bound<u64>, Bound<u64>)) -> Result<(), StorageError<u64>> {
        let mut batch = sled::Batch::default();
        for key in self.log.range::<[u8; 8], _>((range.0.map(key), range.1.map(key))).keys() {
            batch.remove(key.map_err(reading)?);
        }
        self.log.apply_batch(batch).map_err(writing)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        self.read((range.start_bound().cloned(), range.end_bound().cloned()), usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        self.read((Bound::Included(start), Bound::Excluded(end)), BATCH_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        Ok(LogState { last_purged_log_id: self.read_meta(PURGED)?, last_log_id: self.last_log_id()? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.write_meta(VOTE, vote)?;
        self.flush().await.map_err(writing)?;
        self.raise_floor(Mark { committed: 0, term: vote.leader_id().get_term() }).await;
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        self.read_meta(VOTE)
    }

    /// A hint only, so not flushed: it says how much of the log may be applied at a start before a leader speaks, and
    /// sled keeps the order of writes, so it never runs ahead of the entries.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        let Some(committed) = committed else { return Ok(()) };
        self.write_meta(COMMITTED, &committed)?;
        // Its entry was flushed when it was appended.
        self.raise_floor(Mark { committed: committed.index, term: 0 }).await;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        self.read_meta(COMMITTED)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = sled::Batch::default();
        for entry in entries {
            let bytes = encode(&entry)?;
            debug_assert!(bytes.len() <= RECORD_BYTES_MAX, "the proposer cuts commands into pieces");
            batch.insert(&key(entry.log_id.index), bytes);
        }
        self.log.apply_batch(batch).map_err(writing)?;
        let flushed = self.flush().await;
        callback.log_io_completed(flushed.map_err(std::io::Error::from));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        self.delete((Bound::Included(log_id.index), Bound::Unbounded))?;
        self.flush().await.map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        self.write_meta(PURGED, &log_id)?;
        self.flush().await.map_err(writing)?;
        self.delete((Bound::Unbounded, Bound::Included(log_id.index)))
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StorageError<u64>> {
    postcard::to_extend(value, vec![VERSION]).map_err(writing)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError<u64>> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(reading),
        Some((version, _)) => Err(reading(UnknownVersion(*version))),
        None => Err(reading(UnknownVersion(0))),
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "a record of the log was written by a newer version of the program: its format is {0}, and this one reads {VERSION}"
)]
struct UnknownVersion(u8);

fn reading(error: impl std::error::Error + 'static) -> StorageError<u64> {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn writing(error: impl std::error::Error + 'static) -> StorageError<u64> {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

#[cfg(test)]
mod tests {
    use openraft::testing::{StoreBuilder, Suite};

    use super::*;
    use crate::raft::state_machine::StateMachine;

    fn open(directory: &Path) -> Result<LogStore, OpenError> {
        LogStore::open(directory, Arc::new(Floor::open(directory.with_extension("floor"))))
    }

    struct OnDisk;

    impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnDisk {
        async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<u64>> {
            let directory = tempfile::tempdir().unwrap();
            let log_store = open(&directory.path().join("log")).unwrap();
            let (state_machine, _) = StateMachine::open(directory.path().join("snapshots")).unwrap();
            Ok((directory, log_store, state_machine))
        }
    }

    #[test]
    fn keeps_what_openraft_expects_of_a_store() {
        Suite::test_all(OnDisk).unwrap();
    }

    #[tokio::test]
    async fn a_log_below_its_floor_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut store = open(&path).unwrap();
        store.save_vote(&Vote::new(3, 1)).await.unwrap();
        store.floor.write();
        drop(store);
        open(&path).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(
            refused.kind() == FailureKind::Corrupt && refused.to_string().contains("term 3"),
            "{refused}"
        );
    }

    #[test]
    fn a_message_to_a_follower_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).unwrap();
        for index in 0..20_u64 {
            let proposal = crate::raft::Proposal {
                wall: common::clock::WallMs(0),
                principal: crate::state::sample::node(),
                command: vec![0; 50 * 1024],
            };
            let log_id = openraft::testing::log_id(1, 1, index);
            let entry = Entry::<TypeConfig> { log_id, payload: openraft::EntryPayload::Normal(proposal) };
            store.log.insert(key(index), encode(&entry).unwrap()).unwrap();
        }
        let whole = store.read((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap();
        let batch = store.read((Bound::Included(3), Bound::Excluded(20)), BATCH_BYTES).unwrap();
        assert_eq!((whole.len(), batch.len()), (20, 6));
    }

    /// Returns a fixture of `tests/compat`; one that is missing is written, if `DROVER_WRITE_FIXTURES` asks for it.
    fn fixture(name: &str, today: &[u8]) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/compat/fixtures/1");
        let path = Path::new(folder).join(name);
        if std::env::var_os("DROVER_WRITE_FIXTURES").is_some() && !path.exists() {
            std::fs::write(&path, today).unwrap();
        }
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn fixtures_of_the_log_are_read() {
        let proposal = crate::raft::Proposal {
            wall: common::clock::WallMs(1_700_000_000_000),
            principal: crate::state::sample::node(),
            command: vec![1, 2, 3],
        };
        let log_id = openraft::testing::log_id(3, 1, 9);
        let member = crate::raft::Member {
            name: "coordinator-1".to_owned(),
            api_address: "127.0.0.1:7400".to_owned(),
            raft_address: "127.0.0.1:7401".to_owned(),
        };
        let members = openraft::Membership::new(
            vec![std::collections::BTreeSet::from([1])],
            std::collections::BTreeMap::from([(1, member)]),
        );
        let payloads = [
            ("log-command.record", openraft::EntryPayload::Normal(proposal)),
            ("log-membership.record", openraft::EntryPayload::Membership(members)),
            ("log-blank.record", openraft::EntryPayload::Blank),
        ];
        for (name, payload) in payloads {
            let entry = Entry::<TypeConfig> { log_id, payload };
            let bytes = fixture(name, &encode(&entry).unwrap());
            let found: Entry<TypeConfig> = decode(&bytes).unwrap();
            assert_eq!(format!("{found:?}"), format!("{entry:?}"), "{name}");
        }
        let vote = openraft::Vote::<u64>::new(7, 2);
        let bytes = fixture("vote.record", &encode(&vote).unwrap());
        assert_eq!(decode::<openraft::Vote<u64>>(&bytes).unwrap(), vote);
    }

    #[test]
    fn a_later_version_is_named_as_such() {
        let mut bytes = encode(&7_u64).unwrap();
        bytes[0] = 2;
        let error = decode::<u64>(&bytes).unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}
