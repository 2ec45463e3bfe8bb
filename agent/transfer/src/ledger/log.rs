//! The ledger's file: opened once per attempt, appended to under the fence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::failure::{Failure, FailureKind, Retry};
use common::rel_path::RelPath;
use sync::only::Only;
use sync::stamp::Time;
use tree::{AppendFile, Dir, Name};

use super::record::{Change, Intent, Record, RecordHead, Settled};
use crate::commit::durable::of_sync;
use crate::domain::{DomainId, HOME};
use crate::frame_file::{FrameReader, encode};
use crate::trouble::of_stage;

/// Name of the file in the stage.
pub(crate) const LEDGER: &str = "ledger";
/// The first bytes of the file; the last two digits are the version.
const MAGIC: &[u8; 8] = b"DRVLED01";

/// The open ledger of a stage.
///
/// Only the holder of the newest token appends: it holds the fence's lock from the append to the renames.
#[derive(Debug)]
pub(crate) struct Ledger {
    stage: Dir,
    file: AppendFile,
    next_seq: u64,
    last_pass: u32,
    gathered: Vec<u8>,
    domains: BTreeSet<DomainId>,
    /// How much of the file is known to be on the device.
    synced_bytes: u64,
}

impl Ledger {
    /// Opens the ledger, making it if there is none; cuts a torn end. Returns the intents whose end is not known.
    ///
    /// To be called while the fence's lock is held, after the token was stored. Less than `least_bytes` of whole records
    /// is no torn end: they were durable when a pass ended.
    pub(crate) fn open(stage: &Dir, least_bytes: u64) -> Result<(Self, Vec<Settled>), Failure> {
        let name = name();
        let mut file = match stage.open_append(&name) {
            Ok(file) => file,
            Err(error) if error.is_not_found() && least_bytes > 0 => return Err(damaged(0, least_bytes)),
            Err(error) if error.is_not_found() => {
                stage.create_append(&name).map_err(|error| of_stage(&error))?
            }
            Err(error) => return Err(of_stage(&error)),
        };
        if file.length_bytes() < least_bytes {
            return Err(damaged(file.length_bytes(), least_bytes));
        }
        if file.length_bytes() < MAGIC.len() as u64 {
            // Torn at its very beginning: nothing was ever done under it.
            file.truncate(0)
                .and_then(|()| file.append(MAGIC).map(|_offset| ()))
                .map_err(|error| of_stage(&error))?;
        }
        check_magic(&file)?;
        let mut reader = FrameReader::<Record>::forwards(file, MAGIC.len() as u64);
        let (mut open, mut domains) = (BTreeMap::new(), BTreeSet::new());
        let (mut next_seq, mut last_pass) = (1, 0);
        let mut begin = |domain: DomainId, intent: Intent, open: &mut BTreeMap<u64, Settled>| {
            next_seq = next_seq.max(intent.seq + 1);
            last_pass = last_pass.max(intent.pass);
            domains.insert(domain);
            open.insert(intent.seq, Settled { intent, ctime: None, domain });
        };
        while let Some(record) = reader.next()? {
            match record {
                Record::Intent(intent) => begin(HOME, *intent, &mut open),
                Record::IntentIn { domain, intent } => begin(domain, *intent, &mut open),
                Record::Done { seq, .. } | Record::Abandoned { seq } => {
                    open.remove(&seq);
                }
            }
        }
        let whole_bytes = reader.offset();
        if whole_bytes < least_bytes {
            return Err(damaged(whole_bytes, least_bytes));
        }
        let mut file = reader.into_file();
        if whole_bytes < file.length_bytes() {
            file.truncate(whole_bytes).map_err(|error| of_stage(&error))?;
        }
        file.sync_data().and_then(|()| stage.sync_dir()).map_err(|error| of_stage(&error))?;
        let (gathered, synced_bytes, stage) = (Vec::new(), file.length_bytes(), stage.clone());
        let ledger = Self { stage, file, next_seq, last_pass, gathered, domains, synced_bytes };
        Ok((ledger, open.into_values().collect()))
    }

    /// Returns how long the file is.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.file.length_bytes()
    }

    /// Returns the greatest number of a pass that did anything.
    pub(crate) fn last_pass(&self) -> u32 {
        self.last_pass
    }

    /// Returns the rename domains of which it held records when it was opened.
    pub(crate) fn domains(&self) -> &BTreeSet<DomainId> {
        &self.domains
    }

    /// Gathers an intent and returns its number.
    pub(crate) fn intend(
        &mut self,
        pass: u32,
        domain: DomainId,
        path: RelPath,
        change: Change,
    ) -> Result<u64, Failure> {
        let seq = self.next_seq;
        let intent = Box::new(Intent { seq, pass, path, change });
        let record =
            if domain == HOME { Record::Intent(intent) } else { Record::IntentIn { domain, intent } };
        encode(&record, &mut self.gathered)?;
        self.next_seq += 1;
        Ok(seq)
    }

    /// Gathers that an intent was carried out.
    pub(crate) fn done(&mut self, seq: u64, ctime: Option<Time>) -> Result<(), Failure> {
        encode(&Record::Done { seq, ctime }, &mut self.gathered)
    }

    /// Gathers that an intent will not be carried out.
    pub(crate) fn abandon(&mut self, seq: u64) -> Result<(), Failure> {
        encode(&Record::Abandoned { seq }, &mut self.gathered)
    }

    /// Appends what was gathered.
    pub(crate) fn append(&mut self) -> Result<(), Failure> {
        self.file.append(&self.gathered).map_err(|error| of_stage(&error))?;
        self.gathered.clear();
        Ok(())
    }

    /// Makes all that was appended durable.
    pub(crate) fn sync(&mut self) -> Result<(), Failure> {
        if let Err(error) = self.file.sync_data() {
            // The kernel has dropped what it could not write, though it can still be read: nothing may be built on it.
            // None of the intents in it was carried out yet.
            self.file.truncate(self.synced_bytes).ok();
            return Err(of_sync(&error));
        }
        self.synced_bytes = self.file.length_bytes();
        Ok(())
    }

    /// Returns all that was carried out, in the order of the log. What is appended from now on is not in it.
    pub(crate) fn settled(&self) -> Result<SettledRecords, Failure> {
        let file = self.stage.open_append(&name()).map_err(|error| of_stage(&error))?;
        Ok(SettledRecords::new(file))
    }
}

/// Reads the ledger of a stage that nobody appends to.
pub(crate) fn read_settled(stage: &Dir) -> Result<Option<SettledRecords>, Failure> {
    match stage.open_append(&name()) {
        Ok(file) if file.length_bytes() <= MAGIC.len() as u64 => Ok(None),
        Ok(file) => {
            check_magic(&file)?;
            Ok(Some(SettledRecords::new(file)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(of_stage(&error)),
    }
}

/// Intents joined with their ends. Those whose end is not in the log come last, without a change time.
#[derive(Debug)]
pub(crate) struct SettledRecords {
    reader: FrameReader<Record>,
    /// Intents of the group that is being read: an end follows its intent within one group.
    open: BTreeMap<u64, Settled>,
    is_at_end: bool,
    /// Of which names records are asked for, where not of all.
    only: Option<Arc<Only>>,
}

impl SettledRecords {
    fn new(file: AppendFile) -> Self {
        let reader = FrameReader::forwards(file, MAGIC.len() as u64);
        Self { reader, open: BTreeMap::new(), is_at_end: false, only: None }
    }

    /// Passes over what is about other names than these.
    pub(crate) fn of_only(self, only: Arc<Only>) -> Self {
        Self { only: Some(only), ..self }
    }

    fn next_record(&mut self) -> Result<Option<Record>, Failure> {
        match &self.only {
            None => self.reader.next(),
            Some(only) => self.reader.next_where(|payload| concerns(payload, only, &self.open)),
        }
    }

    /// Returns the next one.
    pub(crate) fn next(&mut self) -> Result<Option<Settled>, Failure> {
        while !self.is_at_end {
            match self.next_record()? {
                Some(Record::Intent(intent)) => self.begin(HOME, *intent),
                Some(Record::IntentIn { domain, intent }) => self.begin(domain, *intent),
                Some(Record::Done { seq, ctime }) => {
                    if let Some(settled) = self.open.remove(&seq) {
                        return Ok(Some(Settled { ctime, ..settled }));
                    }
                }
                Some(Record::Abandoned { seq }) => {
                    self.open.remove(&seq);
                }
                None => self.is_at_end = true,
            }
        }
        Ok(self.open.pop_first().map(|(_seq, settled)| settled))
    }

    fn begin(&mut self, domain: DomainId, intent: Intent) {
        self.open.insert(intent.seq, Settled { intent, ctime: None, domain });
    }
}

/// Whether a record is about a name that is looked at, or ends an intent about one.
fn concerns(payload: &[u8], only: &Only, open: &BTreeMap<u64, Settled>) -> bool {
    match postcard::take_from_bytes::<RecordHead<'_>>(payload) {
        Ok((RecordHead::Intent(intent) | RecordHead::IntentIn { intent, .. }, _)) => {
            only.holds_path(intent.path)
        }
        Ok((RecordHead::Done { seq } | RecordHead::Abandoned { seq }, _)) => open.contains_key(&seq),
        // Reading all of it says what is wrong with it.
        Err(_) => true,
    }
}

fn name() -> Name {
    Name::new(LEDGER).expect("a constant without slash")
}

/// What a ledger that lost records means: nobody knows any more what was changed.
fn damaged(whole_bytes: u64, least_bytes: u64) -> Failure {
    let message = format!(
        "the migration's ledger is damaged: {whole_bytes} of at least {least_bytes} bytes can be read"
    );
    let failure = Failure::new(FailureKind::Corrupt, message);
    Failure { retry: Retry::AfterOperator, ..failure }.hint(
        "Nothing was changed. Look at the destination's disk; what was replaced is in the stage's `undo/`. \
         Bring the stage back from a backup, or settle the migration and keep the tree as it stands.",
    )
}

fn check_magic(file: &AppendFile) -> Result<(), Failure> {
    let mut found = [0; MAGIC.len()];
    file.read_at(&mut found, 0).map_err(|error| of_stage(&error))?;
    if &found == MAGIC {
        return Ok(());
    }
    let message = "the stage's ledger was written by a newer version of the agent, or by something else";
    let hint = "Continue with the version of the agent that began the migration.";
    Err(Failure::new(FailureKind::Unsupported, message).hint(hint))
}
