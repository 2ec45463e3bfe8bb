//! Where a step says what it noticed about single objects.
//!
//! All findings go to a list file in the agent's state directory, lines of JSON; the first of each rule go to the
//! coordinator too, and all are counted. Nothing is lost silently: a list that cannot be written is told once as an
//! error of the step.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::failure::{Failure, FailureKind};
use common::finding::{Finding, Rule, Severity};
use common::limit::FINDINGS_PER_RULE_MAX;
use tokio::sync::mpsc;

/// More rules than there are; each passes on at most [`FINDINGS_PER_RULE_MAX`], so the channel can hold them all
/// and reporting never waits.
const RULES_MAX: usize = 32;
/// What the coordinator keeps of one step; a step that looks again and again sends no more than that.
const SENT_MAX: usize = RULES_MAX * FINDINGS_PER_RULE_MAX;

/// Takes findings from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct FindingSink {
    inner: Arc<Mutex<Inner>>,
    first: mpsc::Sender<Finding>,
}

#[derive(Debug)]
struct Inner {
    counts: BTreeMap<Rule, u64>,
    errors: u64,
    warnings: u64,
    /// Of what was sent, in a step that looks again and again.
    sent: HashSet<[u8; 32]>,
    list: Option<BufWriter<File>>,
    list_failure: Option<Failure>,
}

/// How many findings there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindingTotals {
    /// In all.
    pub total: u64,
    /// Of severity error.
    pub errors: u64,
    /// Of severity warning.
    pub warnings: u64,
    /// By rule.
    pub by_rule: BTreeMap<Rule, u64>,
}

impl FindingSink {
    /// Makes a sink and the end at which the first findings of each rule arrive.
    pub fn new() -> (Self, mpsc::Receiver<Finding>) {
        let (first, receiver) = mpsc::channel(SENT_MAX);
        let inner = Inner {
            counts: BTreeMap::new(),
            errors: 0,
            warnings: 0,
            sent: HashSet::new(),
            list: None,
            list_failure: None,
        };
        (Self { inner: Arc::new(Mutex::new(inner)), first }, receiver)
    }

    /// Begins anew: counts from zero, and writes all further findings also to a list file, from its start.
    ///
    /// What was sent already is not sent again.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn list_in(&self, path: &Path) -> Result<(), Failure> {
        let file = File::create(path).map_err(|error| unwritable(path, &error))?;
        let mut inner = self.lock();
        inner.counts.clear();
        (inner.errors, inner.warnings) = (0, 0);
        inner.list = Some(BufWriter::new(file));
        Ok(())
    }

    /// Takes one finding.
    pub fn report(&self, finding: Finding) {
        let mut inner = self.lock();
        let count = inner.counts.entry(finding.rule).or_default();
        *count += 1;
        let is_among_first = *count <= FINDINGS_PER_RULE_MAX as u64 && inner.sent.len() < SENT_MAX;
        let is_new = is_among_first && inner.sent.insert(key_of(&finding));
        match finding.severity {
            Severity::Error => inner.errors += 1,
            Severity::Warning => inner.warnings += 1,
            Severity::Notice => {}
        }
        if let Some(list) = &mut inner.list
            && let Err(error) = write_line(list, &finding)
        {
            inner.list = None;
            inner.list_failure = Some(Failure::of(FailureKind::Exhausted, &error));
        }
        drop(inner);
        if is_new {
            // The channel is as large as all that is ever sent; a receiver that is gone wants nothing.
            self.first.try_send(finding).ok();
        }
    }

    /// Returns how many findings there were so far.
    pub fn totals(&self) -> FindingTotals {
        let inner = self.lock();
        FindingTotals {
            total: inner.counts.values().sum(),
            errors: inner.errors,
            warnings: inner.warnings,
            by_rule: inner.counts.clone(),
        }
    }

    /// Makes the list file complete.
    ///
    /// # Errors
    /// When it could not be written at any time since the beginning.
    pub fn flush(&self) -> Result<(), Failure> {
        let mut inner = self.lock();
        if let Some(list) = &mut inner.list
            && let Err(error) = list.flush()
        {
            inner.list_failure = Some(Failure::of(FailureKind::Exhausted, &error));
        }
        match inner.list_failure.take() {
            Some(failure) => Err(failure.hint("Make room in the agent's state directory.")),
            None => Ok(()),
        }
    }

    /// A poisoned lock holds counts that are whole all the same.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the coordinator takes for the same.
fn key_of(finding: &Finding) -> [u8; 32] {
    *blake3::hash(format!("{:?} {}", finding.rule, finding.object).as_bytes()).as_bytes()
}

fn write_line(list: &mut BufWriter<File>, finding: &Finding) -> std::io::Result<()> {
    serde_json::to_writer(&mut *list, finding)?;
    list.write_all(b"\n")
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("failed to make the list {}: {error}", path.display()))
        .hint("Make room in the agent's state directory.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(rule: Rule, number: usize) -> Finding {
        Finding {
            rule,
            severity: Severity::Warning,
            object: number.to_string(),
            message: "m".into(),
            hint: "h".into(),
        }
    }

    #[test]
    fn all_are_counted_and_listed_and_the_first_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("findings");
        let (sink, mut receiver) = FindingSink::new();
        sink.list_in(&path).unwrap();
        for number in 0..FINDINGS_PER_RULE_MAX + 5 {
            sink.report(finding(Rule::Changed, number));
        }
        sink.report(finding(Rule::Vanished, 0));
        sink.flush().unwrap();
        let mut received = 0;
        while receiver.try_recv().is_ok() {
            received += 1;
        }
        assert_eq!(received, FINDINGS_PER_RULE_MAX + 1);
        assert_eq!(sink.totals().total, FINDINGS_PER_RULE_MAX as u64 + 6);
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), FINDINGS_PER_RULE_MAX + 6);
        let last: Finding = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(last.rule, Rule::Vanished);
    }
}
