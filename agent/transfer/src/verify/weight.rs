//! How much content was proven: that of a file with several names counts once, however its names fared.

use common::failure::Failure;
use common::step::file::FileOutput;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use tree::Dir;

use crate::external_sort::Sorter;

/// How a file was proven; of several names the weakest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Proven {
    ByContent,
    ByMetadata,
    Not,
}

/// One name of a file that has several.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Name {
    inode: (u64, u64),
    proven: Proven,
    size_bytes: u64,
}

/// Counts files and bytes; names of one inode are gathered, on disk when there are many.
#[derive(Debug)]
pub(super) struct Weights {
    names: Sorter<Name>,
}

impl Weights {
    pub(super) fn new(spill: &Dir) -> Self {
        Self { names: Sorter::new(spill, "weights") }
    }

    /// Counts an entry of the source that is no directory.
    pub(super) fn count(
        &mut self,
        output: &mut FileOutput,
        source: &Entry,
        proven: Proven,
    ) -> Result<(), Failure> {
        let (files, _bytes) = proof(output, proven);
        *files += 1;
        let size_bytes = source.size();
        if source.is_hard_link() {
            return self.names.push(Name { inode: (source.dev, source.ino), proven, size_bytes });
        }
        add(output, proven, size_bytes);
        Ok(())
    }

    /// Counts the content of what has several names.
    pub(super) fn finish(self, output: &mut FileOutput) -> Result<(), Failure> {
        let mut sorted = self.names.finish()?;
        let mut last: Option<Name> = None;
        while let Some(name) = sorted.next()? {
            if let Some(whole) = last.take_if(|last| last.inode != name.inode) {
                add(output, whole.proven, whole.size_bytes);
            }
            // The last of a group is the weakest.
            last = Some(name);
        }
        if let Some(whole) = last {
            add(output, whole.proven, whole.size_bytes);
        }
        Ok(())
    }
}

fn add(output: &mut FileOutput, proven: Proven, size_bytes: u64) {
    output.bytes_total = output.bytes_total.saturating_add(size_bytes);
    let (_files, bytes) = proof(output, proven);
    *bytes = bytes.saturating_add(size_bytes);
}

fn proof(output: &mut FileOutput, proven: Proven) -> (&mut u64, &mut u64) {
    let proof = &mut output.proof;
    match proven {
        Proven::ByContent => (&mut proof.content_files, &mut proof.content_bytes),
        Proven::ByMetadata => (&mut proof.metadata_files, &mut proof.metadata_bytes),
        Proven::Not => (&mut proof.unproven_files, &mut proof.unproven_bytes),
    }
}
