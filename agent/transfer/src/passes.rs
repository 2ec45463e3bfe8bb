//! The passes of a migration over one root: when each began, by the source's clock.
//!
//! They tell which files must be compared by content although size and time say nothing: one whose change time at the
//! source is not older than the beginning of the pass that last proved it may have been changed behind its back.

use std::collections::BTreeMap;

use common::failure::{Failure, FailureKind};
use common::id::StepId;
use common::step::pass::{PASSES_KEPT, PassRecord};
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{Dir, Name};

use crate::trouble::of_stage;

const NAME: &str = "passes";
const VERSION: u32 = 1;
/// Since the last whole pass. What an older one wrote is compared once more, and nothing else is lost.
const PASSES_MAX: usize = 64;
const BYTES_MAX: u64 = 1024 * 1024;
/// What a source's clock, its file system's granularity and a write under way may differ by.
const MARGIN_S: u32 = 2;

/// All passes so far, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Passes {
    version: u32,
    passes: Vec<Begun>,
    /// The source's root as the first pass saw it.
    #[serde(default)]
    root: Option<RootMark>,
    /// How long the ledger was when the last whole pass ended: less of it means that it is damaged.
    #[serde(default)]
    ledger_bytes: u64,
    /// Files and bytes of the source, as the last whole pass knew them; since a later build than the rest.
    #[serde(default)]
    totals: Option<(u64, u64)>,
    /// What people are told of whole passes: of each step the newest.
    #[serde(default)]
    told: Vec<PassRecord>,
    /// All whole passes of each step.
    #[serde(default)]
    made: BTreeMap<StepId, u64>,
    /// The first pass after the bulk: since then nothing was proven yet.
    #[serde(default)]
    further_from: Option<u32>,
}

/// What people are told of the passes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Those of one step.
    pub(crate) of_step: Vec<PassRecord>,
    /// All passes of that step.
    pub(crate) made: u64,
    /// Those of all steps.
    pub(crate) all: Vec<PassRecord>,
    /// The watch that the source has put on its tree.
    pub(crate) watch: Option<u64>,
}

/// Which directory the source's root is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootMark {
    /// The boot of the source's machine: device numbers mean something within one only.
    pub(crate) boot_id: String,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl RootMark {
    fn is(&self, other: &Self) -> bool {
        self.ino == other.ino && (self.boot_id != other.boot_id || self.dev == other.dev)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    number: u32,
    /// By the source's clock.
    started: Time,
    is_whole: bool,
}

impl Passes {
    /// Reads them from a stage.
    pub(crate) fn read(stage: &Dir) -> Result<Self, Failure> {
        match stage.read_small(&name(), BYTES_MAX) {
            Ok(content) => {
                common::version::check_json("the stage's list of passes", &content, VERSION)?;
                let passes: Self = serde_json::from_slice(&content).map_err(|error| unreadable(&error))?;
                if passes.version == VERSION { Ok(passes) } else { Err(unreadable(&"an unknown version")) }
            }
            Err(error) if error.is_not_found() => Ok(Self { version: VERSION, ..Self::default() }),
            Err(error) => Err(of_stage(&error)),
        }
    }

    /// Returns how many bytes the ledger must have.
    pub(crate) fn ledger_bytes(&self) -> u64 {
        self.ledger_bytes
    }

    /// Forgets all passes, before the ledger goes.
    pub(crate) fn forget(stage: &Dir) -> Result<(), Failure> {
        match stage.unlink(&name()) {
            Err(error) if !error.is_not_found() => Err(of_stage(&error)),
            _ => stage.sync_dir().map_err(|error| of_stage(&error)),
        }
    }

    /// Returns the number of the next pass.
    pub(crate) fn next_number(&self) -> u32 {
        self.passes.last().map_or(1, |pass| pass.number.saturating_add(1))
    }

    /// Whether no pass came before the present one.
    pub(crate) fn is_first(&self) -> bool {
        self.passes.len() <= 1
    }

    /// Notes durably that a pass begins; a further one is not the bulk, and none of it.
    pub(crate) fn begin(
        &mut self,
        stage: &Dir,
        number: u32,
        started: Time,
        root: &RootMark,
        is_further: bool,
    ) -> Result<(), Failure> {
        self.root.get_or_insert_with(|| root.clone());
        // A whole pass proved all that those before it did.
        if let Some(whole) = self.passes.iter().rposition(|pass| pass.is_whole) {
            self.passes.drain(..whole);
        }
        if self.passes.len() >= PASSES_MAX {
            // The whole one stays.
            self.passes.remove(1);
        }
        self.passes.push(Begun { number, started, is_whole: false });
        self.further_from = self.further_from.or_else(|| is_further.then_some(number));
        self.write(stage)
    }

    /// Returns the first pass that came after the bulk.
    pub(crate) fn further_from(&self) -> Option<u32> {
        self.further_from
    }

    /// Returns what people are told.
    pub(crate) fn told(&self, step: &StepId) -> Told {
        Told {
            of_step: self.told.iter().filter(|pass| pass.step == *step).cloned().collect(),
            made: self.made.get(step).copied().unwrap_or(0),
            all: self.told.clone(),
            watch: None,
        }
    }

    /// Returns bytes per second, over the time since the pass before the present one began.
    pub(crate) fn rate_of(&self, bytes: u64) -> u64 {
        let [.., before, now] = &self.passes[..] else { return 0 };
        let since_ms = now.started.milliseconds_since(before.started);
        bytes.saturating_mul(1_000).checked_div(since_ms).unwrap_or(0)
    }

    /// Whether the source's root is the directory that the first pass saw; it is not when a mount was lost.
    pub(crate) fn is_same_root(&self, root: &RootMark) -> bool {
        self.root.as_ref().is_none_or(|first| first.is(root))
    }

    /// Returns how many files and bytes the last whole pass saw at the source.
    pub(crate) fn totals(&self) -> Option<(u64, u64)> {
        self.totals
    }

    /// Notes durably that the last pass saw and brought the whole tree.
    pub(crate) fn end(
        &mut self,
        stage: &Dir,
        ledger_bytes: u64,
        totals: (u64, u64),
        record: PassRecord,
    ) -> Result<(), Failure> {
        (self.ledger_bytes, self.totals) = (ledger_bytes, Some(totals));
        self.tell(record);
        if let Some(pass) = self.passes.last_mut() {
            pass.is_whole = true;
        }
        self.write(stage)
    }

    /// Notes durably that the last pass brought what it looked at, which was not everything.
    pub(crate) fn end_part(
        &mut self,
        stage: &Dir,
        ledger_bytes: u64,
        record: PassRecord,
    ) -> Result<(), Failure> {
        self.ledger_bytes = ledger_bytes;
        self.tell(record);
        self.write(stage)
    }

    fn tell(&mut self, record: PassRecord) {
        *self.made.entry(record.step.clone()).or_default() += 1;
        let of_step = |told: &PassRecord| told.step == record.step;
        if self.told.iter().filter(|told| of_step(told)).count() >= PASSES_KEPT
            && let Some(oldest) = self.told.iter().position(of_step)
        {
            self.told.remove(oldest);
        }
        self.told.push(record);
    }

    /// Whether a file must be compared by content: it looks the same, but may have changed since it was proven.
    ///
    /// `proven_in` is the pass that wrote it, if this migration did.
    pub(crate) fn is_doubtful(&self, source: &Entry, proven_in: Option<u32>) -> bool {
        let present = self.passes.last().map_or(0, |pass| pass.number);
        let earlier = || self.passes.iter().filter(|pass| pass.number < present);
        let last_whole = earlier().rfind(|pass| pass.is_whole);
        let wrote = proven_in.and_then(|number| earlier().find(|pass| pass.number == number));
        // A whole pass proved everything, also what an earlier one wrote.
        let proven = match (last_whole, wrote) {
            (Some(whole), Some(wrote)) => Some(if wrote.number > whole.number { wrote } else { whole }),
            (whole, wrote) => wrote.or(whole),
        };
        let Some(proven) = proven else { return false };
        let Some(now) = self.passes.last() else { return false };
        // A clock that went back says nothing about any time.
        now.started < proven.started || source.ctime >= proven.started.seconds_earlier(MARGIN_S)
    }

    /// Whether an entry of the source may have been changed since the last pass saw it.
    pub(crate) fn is_newer(&self, source: &Entry) -> bool {
        self.passes.last().is_none_or(|last| source.ctime >= last.started.seconds_earlier(MARGIN_S))
    }

    fn write(&self, stage: &Dir) -> Result<(), Failure> {
        let content = serde_json::to_vec(self).map_err(|error| {
            Failure::new(FailureKind::Bug, format!("failed to write the passes: {error}"))
        })?;
        stage.write_atomic(&name(), &content, 0o600).map_err(|error| of_stage(&error))
    }
}

fn name() -> Name {
    Name::new(NAME).expect("a constant without slash")
}

fn unreadable(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Conflict, format!("the stage's list of passes cannot be read: {why}"))
        .hint("Something wrote into the migration's stage; settle the migration and start a new one.")
}

#[cfg(test)]
mod tests {
    use common::step::pass::ScanKind;
    use sync::entry::Kind;
    use tree::Root;

    use super::*;

    fn entry(ctime_s: i64) -> Entry {
        let time = Time { seconds: ctime_s, nanos: 0 };
        Entry {
            name: b"f".to_vec(),
            kind: Kind::File { size: 1, allocated_bytes: 512 },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            dev: 1,
            ino: 1,
            nlink: 1,
            xattrs: Vec::new(),
        }
    }

    fn root(boot_id: &str, dev: u64, ino: u64) -> RootMark {
        RootMark { boot_id: boot_id.to_owned(), dev, ino }
    }

    fn record() -> PassRecord {
        PassRecord {
            number: 1,
            step: "file.copy-1".parse().unwrap(),
            scan: ScanKind::Full,
            entries: 1,
            files_changed: 1,
            bytes_changed: 1,
            changed_bytes_per_s: 0,
            duration_ms: 1,
            why: None,
        }
    }

    fn at(seconds: i64) -> Time {
        Time { seconds, nanos: 0 }
    }

    #[test]
    fn a_file_is_doubtful_if_it_changed_since_the_pass_that_proved_it() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Root::open(folder.path()).unwrap().dir();
        let mut passes = Passes::read(&stage).unwrap();
        passes.begin(&stage, passes.next_number(), at(100), &root("a", 1, 2), false).unwrap();
        assert!(passes.is_same_root(&root("a", 1, 2)) && passes.is_same_root(&root("b", 9, 2)));
        assert!(!passes.is_same_root(&root("a", 9, 2)) && !passes.is_same_root(&root("b", 1, 3)));
        assert!(!passes.is_doubtful(&entry(1_000), None), "nothing was proven yet");
        passes.end(&stage, 0, (0, 0), record()).unwrap();

        let mut passes = Passes::read(&stage).unwrap();
        assert_eq!(passes.next_number(), 2);
        passes.begin(&stage, 2, at(200), &root("a", 1, 2), false).unwrap();
        assert!(!passes.is_doubtful(&entry(97), None));
        assert!(passes.is_doubtful(&entry(98), None));
        // The second pass is killed: it proved what it wrote, and nothing else.
        passes.begin(&stage, 3, at(300), &root("a", 1, 2), false).unwrap();
        assert!(!passes.is_doubtful(&entry(150), Some(2)));
        assert!(passes.is_doubtful(&entry(150), Some(1)));
        assert!(passes.is_doubtful(&entry(199), Some(2)));
        assert!(passes.is_doubtful(&entry(150), None));
        passes.end(&stage, 0, (0, 0), record()).unwrap();
        passes.begin(&stage, 4, at(250), &root("a", 1, 2), false).unwrap();
        assert!(passes.is_doubtful(&entry(1), None), "the clock went back");
    }
}
