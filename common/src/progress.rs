//! How far a step is; droppable, never falling.

use serde::{Deserialize, Serialize};

use crate::cost::SourceCost;
use crate::reach::Reach;
use crate::transport::Transport;

/// How far one attempt of a step is, over the whole of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Files that need nothing more: unchanged or landed.
    pub files_done: u64,
    /// Files known so far.
    pub files_total: u64,
    /// Bytes that need nothing more.
    pub bytes_done: u64,
    /// Bytes known so far.
    pub bytes_total: u64,
    /// Whether the totals are final; until then they are "at least".
    pub is_scan_complete: bool,
    /// Wire bytes of this migration so far, over all attempts.
    pub bytes_on_wire: u64,
    /// Bytes of content that landed per second, over the last seconds.
    pub bytes_per_s: u64,
    /// Which of both agents dialled the other, once they have met.
    pub reach: Option<Reach>,
    /// What content comes over, once they have met.
    pub transport: Option<Transport>,
    /// What it costs the source's host now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_cost: Option<SourceCost>,
}

impl Progress {
    /// Whether more is done than at another time.
    pub fn is_further_than(&self, earlier: &Self) -> bool {
        self.files_done > earlier.files_done || self.bytes_done > earlier.bytes_done
    }

    /// Returns the same, but with at least as much done and known as earlier.
    #[must_use]
    pub fn not_below(self, earlier: &Self) -> Self {
        Self {
            files_done: self.files_done.max(earlier.files_done),
            files_total: self.files_total.max(earlier.files_done),
            bytes_done: self.bytes_done.max(earlier.bytes_done),
            bytes_total: self.bytes_total.max(earlier.bytes_done),
            ..self
        }
    }

    /// Returns the part that is done in thousandths; 0 while nobody knows of what, for a part never falls.
    pub fn permille(&self) -> u32 {
        // A file counts like 16 KiB, so that a million empty files move the bar too.
        const FILE_WEIGHT_BYTES: u64 = 16 * 1024;
        let weigh =
            |files: u64, bytes: u64| u128::from(files) * u128::from(FILE_WEIGHT_BYTES) + u128::from(bytes);
        let total = weigh(self.files_total, self.bytes_total);
        if !self.is_scan_complete {
            return 0;
        }
        let done = weigh(self.files_done, self.bytes_done).min(total);
        (done * 1000).checked_div(total).and_then(|part| u32::try_from(part).ok()).unwrap_or(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_told_before_the_whole_is_known() {
        let known =
            Progress { files_done: 5, files_total: 5, bytes_done: 9, bytes_total: 9, ..Progress::default() };
        assert_eq!(known.permille(), 0);
        assert_eq!(Progress { is_scan_complete: true, ..known }.permille(), 1000);
        let half = Progress { files_total: 10, bytes_total: 18, is_scan_complete: true, ..known };
        assert_eq!(half.permille(), 500);
        assert_eq!(Progress::default().permille(), 0);
        assert_eq!(Progress { is_scan_complete: true, ..Progress::default() }.permille(), 1000);
    }
}
