//! Passes over a tree while its source is live: what each found, and what follows for the freeze.
//!
//! A pass takes a fixed time for looking and a time for what changed. Under the freeze the last one pays the first
//! whole, and the second for what changed since the pass before it began.

use serde::{Deserialize, Serialize};

use crate::id::StepId;

/// Passes of one step whose records are kept, the newest; all are counted.
pub const PASSES_KEPT: usize = 32;

/// Passes whose mean tells how long looking takes, and how much changes.
const PASSES_LOOKED_AT: usize = 4;

/// How a pass found what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanKind {
    /// The whole of both trees was compared.
    Full,
    /// The source was watched, and looked only at what the watch named.
    Watched,
}

impl ScanKind {
    /// Returns the word that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Watched => "watched",
        }
    }
}

/// One pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRecord {
    /// Counts the passes of a migration, from 1; those that were interrupted count too.
    pub number: u32,
    /// The step that it was made for.
    pub step: StepId,
    /// How it found what changed.
    pub scan: ScanKind,
    /// Entries of the source that it was told of.
    pub entries: u64,
    /// Entries that it brought, changed or removed.
    pub files_changed: u64,
    /// Content that it brought, in bytes.
    pub bytes_changed: u64,
    /// That content over the time since the pass before it began; zero for a first pass.
    pub changed_bytes_per_s: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Why everything was looked at, where a watch was to spare that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Returns how long the pass under the freeze would take, as far as earlier passes tell: the mean time for looking, and
/// the time for what changes while a pass runs. The first pass of all brings the bulk and tells the rate only.
pub fn predict_freeze_ms(passes: &[PassRecord]) -> Option<u64> {
    let bytes_per_ms = passes.iter().map(|pass| pass.bytes_changed / pass.duration_ms.max(1)).max()?.max(1);
    let further = if passes.len() > 1 { &passes[1..] } else { passes };
    // The pass under the freeze trusts no watch, so those that did say nothing of the time for looking.
    let looks = further.iter().rev().filter(|pass| pass.scan != ScanKind::Watched).take(PASSES_LOOKED_AT);
    let looking = |pass: &PassRecord| pass.duration_ms.saturating_sub(pass.bytes_changed / bytes_per_ms);
    let looking_ms = mean(looks.map(looking))?;
    let recent = passes.iter().rev().filter(|pass| pass.changed_bytes_per_s > 0).take(PASSES_LOOKED_AT);
    let bytes_per_s = mean(recent.map(|pass| pass.changed_bytes_per_s)).unwrap_or(0);
    let pending_bytes = bytes_per_s.saturating_mul(passes.last()?.duration_ms) / 1_000;
    Some(looking_ms.saturating_add(pending_bytes / bytes_per_ms).max(1))
}

/// Whether nothing is won by a further pass: the freeze would be short enough, or no longer gets shorter, or so many
/// passes were made.
pub fn is_caught_up(passes: &[PassRecord], made: u64, threshold_ms: u64, passes_max: u32) -> bool {
    let Some(now) = predict_freeze_ms(passes) else { return false };
    let changed = |place: usize| passes.len().checked_sub(place).map(|place| passes[place].bytes_changed);
    // A difference that shrank by less than a tenth no longer shrinks.
    let no_longer_shrinks = made > 1
        && changed(1)
            .zip(changed(2))
            .is_some_and(|(last, before)| last.saturating_mul(10) >= before.saturating_mul(9));
    now <= threshold_ms || no_longer_shrinks || made >= u64::from(passes_max)
}

fn mean(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let (count, sum) =
        numbers.fold((0_u64, 0_u64), |(count, sum), number| (count + 1, sum.saturating_add(number)));
    sum.checked_div(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(scan: ScanKind, bytes_changed: u64, rate: u64, duration_ms: u64) -> PassRecord {
        let step = "file.catch_up-1".parse().unwrap();
        let (number, entries, files_changed) = (1, 9, 1);
        let changed_bytes_per_s = rate;
        PassRecord {
            number,
            step,
            scan,
            entries,
            files_changed,
            bytes_changed,
            changed_bytes_per_s,
            duration_ms,
            why: None,
        }
    }

    #[test]
    fn a_freeze_is_the_time_for_looking_and_for_what_changes_meanwhile() {
        assert_eq!(predict_freeze_ms(&[]), None);
        // A megabyte a millisecond; a tenth of a second for looking.
        let bulk = pass(ScanKind::Full, 10_000_000_000, 0, 10_000);
        let quiet = pass(ScanKind::Full, 0, 0, 100);
        assert_eq!(predict_freeze_ms(&[bulk.clone(), quiet.clone(), quiet.clone()]), Some(100));
        let busy = pass(ScanKind::Full, 50_000_000, 100_000_000, 150);
        // 15 MB change while a pass runs.
        assert_eq!(predict_freeze_ms(&[bulk.clone(), quiet, busy.clone()]), Some(100 + 15));
        // What a watch saved is not saved under the freeze.
        let watched = pass(ScanKind::Watched, 0, 0, 5);
        assert_eq!(predict_freeze_ms(&[bulk, busy, watched]), Some(100));
    }

    #[test]
    fn it_is_caught_up_when_a_further_pass_would_win_nothing() {
        let at = |bytes: &[u64], threshold_ms, passes_max| {
            let passes: Vec<_> = bytes.iter().map(|bytes| pass(ScanKind::Full, *bytes, 1, 5_000)).collect();
            is_caught_up(&passes, passes.len() as u64 - 1, threshold_ms, passes_max)
        };
        assert!(at(&[900, 0], 10_000, 20), "short enough");
        assert!(!at(&[900, 300], 10, 20));
        assert!(!at(&[9_000, 900, 300], 10, 20), "it still shrinks");
        assert!(at(&[9_000, 300, 290], 10, 20), "it no longer shrinks");
        assert!(at(&[900_000, 9_000, 300], 10, 2), "enough passes");
    }
}
