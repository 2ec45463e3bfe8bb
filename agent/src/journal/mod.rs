//! The agent's local store: how often it started, what it was doing, and what it still has to tell.
//!
//! It holds three small things: the counter of starts, the steps that are running, and the outbox. There is no record
//! per file: how far a file step is, its stage says. Everything that others may rely on is flushed before they hear of
//! it. A journal that cannot be opened is moved aside and a new one begins: what is lost then are events that the
//! coordinator gets again, because a higher incarnation ends the leases that they belong to.
//!
//! Numbers begin at the wall clock's milliseconds, so that they are above those of any journal that this host had
//! before, also when an older copy of it was put back.

mod tables;

use std::fmt;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::limit::RECORD_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use tables::{OutboxEvent, OutboxRecord, RunningStep};

use common::fence::FencingToken;

/// The directory below the state directory.
const DIRECTORY: &str = "journal";
/// Cache of the store; the whole journal is a few KiB, and an idle agent shall stay small.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
/// The store keeps several dozen write buffers of this size for a while, whatever they hold.
const SEGMENT_BYTES: usize = 64 * 1024;
/// Events are stored in parts of this size: a leaf of the store holds up to sixteen, and a leaf above a quarter of a
/// segment would go to a file that the store never frees.
const PART_BYTES: usize = 768;
/// How long a flush may take before a line in the log says so, again and again.
const SLOW: Duration = Duration::from_secs(10);
/// The version of every record; it stands in front of each.
const RECORD_VERSION: u8 = 1;

const INCARNATION: &[u8] = b"incarnation";
const ACKNOWLEDGED: &[u8] = b"acknowledged";

/// The open journal. Cheap to clone; every clone is the same journal.
#[derive(Clone)]
pub struct Journal {
    db: sled::Db,
    meta: sled::Tree,
    running: sled::Tree,
    outbox: sled::Tree,
    incarnation: u64,
}

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store refuses.
    #[error("using the journal")]
    Store(#[from] sled::Error),
    /// The store gave up, which it does by a panic.
    #[error("the journal's store panicked")]
    Panicked,
    /// The damaged journal cannot be moved aside.
    #[error("moving the damaged journal aside")]
    MoveAside(#[source] std::io::Error),
    /// A record is damaged.
    #[error("a record of the journal cannot be read")]
    Record,
    /// A record is of a version that this program does not know.
    #[error(
        "the journal was written by a newer version of the program: its format is {0}, and this one reads {RECORD_VERSION}"
    )]
    Newer(u8),
    /// A record is larger than the store bears.
    #[error("a record of {0} bytes does not fit into the journal")]
    TooLarge(usize),
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        match &error {
            JournalError::TooLarge(_) | JournalError::Record | JournalError::Panicked => {
                Self::of(FailureKind::Bug, &error)
            }
            JournalError::Newer(_) => Self::of(FailureKind::Unsupported, &error)
                .hint("use the version that wrote it, or a later one"),
            JournalError::Store(_) | JournalError::MoveAside(_) => Self::of(FailureKind::Exhausted, &error)
                .hint("look at the free space and the health of the disk that holds the state directory"),
        }
    }
}

impl Journal {
    /// Opens the journal below the state directory and counts this start, durably.
    ///
    /// # Errors
    /// When the disk refuses, or a damaged journal cannot be moved aside.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join(DIRECTORY);
        match Self::open_at(&path) {
            Err(JournalError::Store(sled::Error::Io(error))) => {
                Err(JournalError::Store(sled::Error::Io(error)))
            }
            Err(error) => {
                let aside = state_dir.join(format!("{DIRECTORY}.damaged-{}", clock::wall().0));
                tracing::error!(error = %common::failure::chain(&error), kept = %aside.display(),
                    "the journal cannot be read; a new one begins");
                std::fs::rename(&path, aside).map_err(JournalError::MoveAside)?;
                Self::open_at(&path)
            }
            Ok(journal) => Ok(journal),
        }
    }

    fn open_at(path: &Path) -> Result<Self, JournalError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let db = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = db.map_err(|_panic| JournalError::Panicked)??;
        let (meta, running, outbox) =
            (db.open_tree("meta")?, db.open_tree("running")?, db.open_tree("outbox")?);
        let before = read_number(&meta, INCARNATION)?;
        // The clock puts a journal that comes back from an older copy above what was told of it since.
        let incarnation = before.map_or(0, |before| before + 1).max(clock::wall().0);
        meta.insert(INCARNATION, &incarnation.to_be_bytes())?;
        db.flush()?;
        Ok(Self { db, meta, running, outbox, incarnation })
    }

    /// Returns the number of this start; higher than that of every earlier one.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Notes that a step begins, durably.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn begin(&self, token: FencingToken, step: &RunningStep) -> Result<(), JournalError> {
        self.running.insert(token_key(token), encode(step)?)?;
        self.flush().await
    }

    /// Notes that a step is not running any more. Not flushed: after a crash nothing runs anyway.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn end(&self, token: FencingToken) -> Result<(), JournalError> {
        self.running.remove(token_key(token))?;
        Ok(())
    }

    /// Returns what was running when the process before this one ended, and forgets it.
    ///
    /// A record that cannot be read is passed over: it is only told.
    ///
    /// # Errors
    /// When the store refuses, or a later version wrote a record.
    pub fn take_interrupted(&self) -> Result<Vec<RunningStep>, JournalError> {
        let mut interrupted = Vec::new();
        for entry in &self.running {
            match decode(&entry?.1) {
                Ok(step) => interrupted.push(step),
                Err(JournalError::Record) => {
                    tracing::error!("a step that was running is not known, because its record is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        self.running.clear()?;
        Ok(interrupted)
    }

    /// Puts an event at this number. Not flushed: [`Self::flush`] comes before anybody hears of it.
    ///
    /// # Errors
    /// When the record is too large or the store refuses.
    pub fn put_event(&self, number: u64, record: &OutboxRecord) -> Result<(), JournalError> {
        let mut batch = sled::Batch::default();
        for (part, content) in (0..).zip(encode(record)?.chunks(PART_BYTES)) {
            batch.insert(&part_key(number, part), content);
        }
        self.outbox.apply_batch(batch)?;
        Ok(())
    }

    /// Returns at most `limit` events with numbers above `number`, in order.
    ///
    /// One that cannot be read is lost, and so is the lease whose end it may have told: the coordinator grants again.
    ///
    /// # Errors
    /// When the store refuses, or a later version wrote a record.
    pub fn events_after(&self, number: u64, limit: usize) -> Result<Vec<(u64, OutboxRecord)>, JournalError> {
        loop {
            let (mut events, mut has_lost) = (Vec::new(), false);
            for (number, encoded) in self.encoded_after(number, limit)? {
                match decode(&encoded) {
                    Ok(record) => events.push((number, record)),
                    Err(JournalError::Record) => {
                        tracing::error!(number, "an event is lost, because its record is damaged");
                        self.forget(number..=number)?;
                        has_lost = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            // No events at all would mean that there are none.
            if !events.is_empty() || !has_lost {
                return Ok(events);
            }
        }
    }

    /// Returns events as they are stored, their parts put together.
    fn encoded_after(&self, number: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, JournalError> {
        let mut encoded: Vec<(u64, Vec<u8>)> = Vec::new();
        for entry in self.outbox.range(part_key(number.saturating_add(1), 0)..) {
            let (key, content) = entry?;
            let number = number_of(&key)?;
            let count = encoded.len();
            match encoded.last_mut() {
                Some((last, parts)) if *last == number => parts.extend_from_slice(&content),
                Some(_) if count == limit => break,
                Some(_) | None => encoded.push((number, content.to_vec())),
            }
        }
        Ok(encoded)
    }

    /// Forgets all events up to this number. Not flushed: one that comes back is sent again under its number.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn acknowledge(&self, number: u64) -> Result<(), JournalError> {
        self.forget(0..=number)?;
        self.meta.insert(ACKNOWLEDGED, &number.to_be_bytes())?;
        Ok(())
    }

    /// Gives every event a new number above `acknowledged`, in order, and returns how many there are. Not flushed: after
    /// a crash it is done again.
    ///
    /// # Errors
    /// When the store refuses or a record is damaged.
    pub fn renumber(&self, acknowledged: u64) -> Result<u64, JournalError> {
        let mut number = acknowledged;
        while let Some((old, record)) = self.events_after(0, 1)?.pop().filter(|(old, _)| *old <= acknowledged)
        {
            number += 1;
            self.put_event(number, &record)?;
            self.forget(0..=old)?;
        }
        self.meta.insert(ACKNOWLEDGED, &acknowledged.to_be_bytes())?;
        Ok(number - acknowledged)
    }

    /// Returns the highest acknowledged number and the highest number ever given.
    ///
    /// # Errors
    /// When the store refuses or a record is damaged.
    pub fn outbox_numbers(&self) -> Result<(u64, u64), JournalError> {
        let last = self.outbox.last()?.map(|(key, _)| number_of(&key)).transpose()?;
        let acknowledged = match read_number(&self.meta, ACKNOWLEDGED)? {
            Some(acknowledged) => acknowledged,
            None => {
                let first = clock::wall().0;
                self.meta.insert(ACKNOWLEDGED, &first.to_be_bytes())?;
                first
            }
        };
        Ok((acknowledged, last.unwrap_or(0).max(acknowledged)))
    }

    fn forget(&self, numbers: RangeInclusive<u64>) -> Result<(), JournalError> {
        for entry in self.outbox.range(part_key(*numbers.start(), 0)..=part_key(*numbers.end(), u16::MAX)) {
            self.outbox.remove(entry?.0)?;
        }
        Ok(())
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn flush(&self) -> Result<(), JournalError> {
        // Not on the store's own threads: there are seven, and flushes that fill them wait for a write behind them.
        let db = self.db.clone();
        let mut flushing = tokio::task::spawn_blocking(move || db.flush());
        loop {
            tokio::select! {
                flushed = &mut flushing => {
                    flushed.map_err(|_panic| JournalError::Panicked)??;
                    return Ok(());
                }
                () = tokio::time::sleep(SLOW) => {
                    tracing::warn!("the disk of the state directory takes nothing; steps wait until it does");
                }
            }
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

fn token_key(token: FencingToken) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&token.epoch.to_be_bytes());
    key[8..].copy_from_slice(&token.index.to_be_bytes());
    key
}

/// The key of one part of an event: its number, then the part's.
fn part_key(number: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Returns the number that a key or a value begins with.
fn number_of(bytes: &[u8]) -> Result<u64, JournalError> {
    bytes.first_chunk().copied().map(u64::from_be_bytes).ok_or(JournalError::Record)
}

fn read_number(tree: &sled::Tree, key: &[u8]) -> Result<Option<u64>, JournalError> {
    tree.get(key)?.map(|value| number_of(&value)).transpose()
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, JournalError> {
    let encoded = postcard::to_extend(record, vec![RECORD_VERSION]).map_err(|_error| JournalError::Record)?;
    if encoded.len() > RECORD_BYTES_MAX {
        return Err(JournalError::TooLarge(encoded.len()));
    }
    Ok(encoded)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JournalError> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_error| JournalError::Record),
        Some((version, _)) => Err(JournalError::Newer(*version)),
        None => Err(JournalError::Record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u64) -> FencingToken {
        FencingToken { epoch: 1, index }
    }

    fn record(text: &str) -> OutboxRecord {
        OutboxRecord {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token: token(1),
            event: OutboxEvent::Succeeded(text.to_owned()),
        }
    }

    fn running() -> RunningStep {
        RunningStep {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token: token(1),
            kind: "file.copy@1".to_owned(),
            attempt: 1,
            is_undo: false,
        }
    }

    #[tokio::test]
    async fn starts_are_counted_and_what_ran_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let first = journal.incarnation();
        journal.begin(token(1), &running()).await.unwrap();
        journal.begin(token(2), &running()).await.unwrap();
        journal.end(token(2)).unwrap();
        drop(journal);
        let journal = Journal::open(directory.path()).unwrap();
        assert!(journal.incarnation() > first);
        assert_eq!(journal.take_interrupted().unwrap(), [running()]);
        assert_eq!(journal.take_interrupted().unwrap(), []);
    }

    #[tokio::test]
    async fn events_stay_until_they_are_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let (acknowledged, last) = journal.outbox_numbers().unwrap();
        assert_eq!(acknowledged, last);
        for (offset, text) in [(1, "a"), (2, "b"), (3, "c")] {
            journal.put_event(last + offset, &record(text)).unwrap();
        }
        journal.flush().await.unwrap();
        drop(journal);
        let journal = Journal::open(directory.path()).unwrap();
        let events = journal.events_after(last + 1, 10).unwrap();
        assert_eq!(events, [(last + 2, record("b")), (last + 3, record("c"))]);
        journal.acknowledge(last + 2).unwrap();
        assert_eq!(journal.events_after(0, 10).unwrap().len(), 1);
        journal.acknowledge(last + 3).unwrap();
        assert_eq!(journal.outbox_numbers().unwrap(), (last + 3, last + 3));
    }

    #[tokio::test]
    async fn a_damaged_record_costs_itself_only() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        journal.begin(token(1), &running()).await.unwrap();
        journal.running.insert(token_key(token(2)), &[RECORD_VERSION, 0xff][..]).unwrap();
        assert_eq!(journal.take_interrupted().unwrap(), [running()]);
        for number in 1..=4 {
            journal.put_event(number, &record("whole")).unwrap();
        }
        for torn in 1..=3 {
            journal.outbox.insert(part_key(torn, 0), &[RECORD_VERSION, 0xff][..]).unwrap();
        }
        // Whoever reads on behind them learns that there is more.
        assert_eq!(journal.events_after(0, 2).unwrap(), [(4, record("whole"))]);
        assert_eq!(journal.events_after(3, 2).unwrap(), [(4, record("whole"))]);
        journal.outbox.insert(part_key(5, 0), &[RECORD_VERSION + 1][..]).unwrap();
        assert!(matches!(journal.events_after(0, 9), Err(JournalError::Newer(_))));
    }

    #[test]
    fn what_the_store_does_not_bear_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let large = record(&"x".repeat(RECORD_BYTES_MAX));
        assert!(matches!(journal.put_event(1, &large), Err(JournalError::TooLarge(_))));
        let largest = record(&"x".repeat(RECORD_BYTES_MAX - 1024));
        journal.put_event(1, &largest).unwrap();
        journal.put_event(2, &record("small")).unwrap();
        assert_eq!(journal.events_after(0, 1).unwrap(), [(1, largest)]);
        journal.acknowledge(1).unwrap();
        assert_eq!(journal.events_after(0, 9).unwrap(), [(2, record("small"))]);
    }

    #[test]
    fn a_damaged_journal_is_kept_aside_and_numbers_still_rise() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let first = journal.incarnation();
        journal.meta.insert(INCARNATION, b"torn").unwrap();
        journal.db.flush().unwrap();
        drop(journal);
        let journal = Journal::open(directory.path()).unwrap();
        assert!(journal.incarnation() > first);
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().any(|name| name.to_string_lossy().starts_with("journal.damaged-")));
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
    fn fixtures_of_records_are_read() {
        let bytes = fixture("journal-running.record", &encode(&running()).unwrap());
        assert_eq!(decode::<RunningStep>(&bytes).unwrap(), running());
        let events = [
            ("journal-succeeded.record", OutboxEvent::Succeeded("{}".to_owned())),
            ("journal-failed.record", OutboxEvent::Failed("{}".to_owned())),
            ("journal-caught-up.record", OutboxEvent::CaughtUp { lag_ms: 300 }),
            ("journal-findings.record", OutboxEvent::Findings("[]".to_owned())),
            ("journal-so-far.record", OutboxEvent::SoFar("{}".to_owned())),
        ];
        for (name, event) in events {
            let expected = OutboxRecord { event, ..record("") };
            let bytes = fixture(name, &encode(&expected).unwrap());
            assert_eq!(decode::<OutboxRecord>(&bytes).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_later_version_is_named_as_such() {
        let mut bytes = encode(&running()).unwrap();
        bytes[0] = 2;
        let failure = Failure::from(decode::<RunningStep>(&bytes).unwrap_err());
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.contains("newer version"), "{failure}");
    }
}
