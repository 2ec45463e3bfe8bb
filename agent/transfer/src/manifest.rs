//! What a pass saw of the source, kept in the stage: the list that verification goes by.
//!
//! Listings in their order, owners in this host's numbers, in compressed blocks. Beside it stand the *exceptions*:
//! paths that the pass could not bring as asked, with the rule of the finding that told so. Both are written under a
//! name of their own and renamed when the pass has ended, so what stands there is of one whole pass.

use std::sync::mpsc::{Receiver, RecvError};

use common::failure::{Failure, FailureKind, Retry};
use common::finding::Rule;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::byte_string::ByteString;
use sync::entry::Entry;
use sync::listing::Listing;
use tree::{AppendFile, Dir, Name};

use crate::frame_file::{FrameReader, FrameWriter};
use crate::stage::Stage;
use crate::trouble::of_stage;

/// Raw bytes in a block.
const BLOCK_BYTES: usize = 256 * 1024;
/// A block with one listing of the largest size.
const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;
const LEVEL: i32 = 1;
const MANIFEST: &str = "manifest";
const EXCEPTIONS: &str = "exceptions";
/// Since version 2 a manifest says where it ends.
const VERSION: u32 = 2;
const VERSION_WITHOUT_END: u32 = 1;

/// How the pass was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    version: u32,
    /// Its number.
    pub(crate) pass: u32,
    /// The source's root, its owner in this host's numbers.
    pub(crate) root: Entry,
}

/// A path that could not be brought as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exception {
    /// The path.
    pub(crate) path: RelPath,
    /// What the finding said.
    pub(crate) rule: Rule,
}

#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    Head(Head),
    Block {
        raw_bytes: u32,
        compressed: ByteString,
    },
    /// Without it the manifest is cut off, and would prove less than all.
    End,
}

/// Writes the manifest of a pass.
#[derive(Debug)]
pub(crate) struct ManifestWriter {
    frames: FrameWriter<Frame>,
    raw: Vec<u8>,
}

impl ManifestWriter {
    /// Begins a manifest beside the one that stands.
    pub(crate) fn create(stage: &Stage, pass: u32, root: Entry) -> Result<Self, Failure> {
        let mut frames = FrameWriter::new(create(&stage.dir, MANIFEST)?);
        frames.write(&Frame::Head(Head { version: VERSION, pass, root }))?;
        Ok(Self { frames, raw: Vec::new() })
    }

    /// Adds a listing; returns up to where the file can be read now, if that is further than before.
    pub(crate) fn write(&mut self, listing: &Listing) -> Result<Option<u64>, Failure> {
        let raw = std::mem::take(&mut self.raw);
        self.raw =
            postcard::to_extend(listing, raw).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        if self.raw.len() >= BLOCK_BYTES { self.flush().map(Some) } else { Ok(None) }
    }

    /// Makes everything readable that was added; returns up to where.
    pub(crate) fn flush(&mut self) -> Result<u64, Failure> {
        if !self.raw.is_empty() {
            let compressed = zstd::bulk::compress(&self.raw, LEVEL)
                .map_err(|error| Failure::of(FailureKind::Bug, &error))?;
            let raw_bytes = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
            self.raw.clear();
            self.frames.write(&Frame::Block { raw_bytes, compressed: ByteString(compressed) })?;
        }
        self.frames.flush()
    }

    /// Lets the manifest take the place of the one before.
    pub(crate) fn finish(mut self, stage: &Stage) -> Result<(), Failure> {
        self.flush()?;
        self.frames.write(&Frame::End)?;
        publish(&stage.dir, self.frames.finish()?, MANIFEST)
    }
}

/// How far a manifest that is being written can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Up to here for now.
    UpTo(u64),
    /// Up to here, and this is all.
    Whole(u64),
}

/// Reads a manifest: that of the last whole pass, or the one that is being written.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    /// How the pass was made.
    pub(crate) head: Head,
    frames: FrameReader<Frame>,
    raw: Vec<u8>,
    at: usize,
    is_ended: bool,
    /// Tells how far it can be read, as long as it is not whole.
    written: Option<Receiver<Written>>,
    /// How long it is, once it is whole, without the frame that ends it.
    whole_bytes: Option<u64>,
}

impl ManifestFile {
    /// Opens it; nothing if no pass has ended yet.
    pub(crate) fn open(stage: &Stage) -> Result<Option<Self>, Failure> {
        let Some(file) = open(&stage.dir, MANIFEST)? else { return Ok(None) };
        Self::begin(file, None).map(Some)
    }

    /// Opens the one that is being written, as soon as its beginning is; it is read as it grows.
    pub(crate) fn follow(stage: &Stage, written: Receiver<Written>) -> Result<Self, Failure> {
        // The next word says more than the first.
        let first = written.recv().map_err(cut_short)?;
        let file = stage.dir.open_append(&unfinished(MANIFEST)).map_err(|error| of_stage(&error))?;
        let mut found = Self::begin(file, Some(written))?;
        found.grow(first);
        Ok(found)
    }

    fn begin(file: AppendFile, written: Option<Receiver<Written>>) -> Result<Self, Failure> {
        let mut frames = FrameReader::forwards(file, 0);
        match frames.next()? {
            Some(Frame::Head(head)) if [VERSION, VERSION_WITHOUT_END].contains(&head.version) => {
                let (raw, at, is_ended, whole_bytes) = (Vec::new(), 0, false, None);
                Ok(Self { head, frames, raw, at, is_ended, written, whole_bytes })
            }
            Some(Frame::Head(head)) if head.version > VERSION => {
                Err(common::version::newer("the stage's manifest", head.version, VERSION))
            }
            _ => Err(Failure::new(FailureKind::Unsupported, "the stage's manifest cannot be read")
                .hint("It was written by another version of the agent; run the copy again with this one.")),
        }
    }

    fn grow(&mut self, written: Written) {
        let (Written::UpTo(length) | Written::Whole(length)) = written;
        self.frames.grow(length);
        if matches!(written, Written::Whole(_)) {
            self.written = None;
            self.whole_bytes = Some(length);
        }
    }

    /// Whether the frames that were read are all.
    fn is_at_end(&self) -> bool {
        self.is_ended
            || self.head.version == VERSION_WITHOUT_END
            || self.whole_bytes == Some(self.frames.offset())
    }

    fn next_listing(&mut self) -> Result<Option<Listing>, Failure> {
        while self.at == self.raw.len() {
            let (raw_bytes, compressed) = match self.frames.next()? {
                Some(Frame::Block { raw_bytes, compressed }) => (raw_bytes, compressed),
                Some(Frame::Head(_)) => continue,
                Some(Frame::End) => {
                    self.is_ended = true;
                    return Ok(None);
                }
                None => match &self.written {
                    Some(written) => {
                        let next = written.recv().map_err(cut_short)?;
                        self.grow(next);
                        continue;
                    }
                    None if self.is_at_end() => return Ok(None),
                    None => return Err(damaged()),
                },
            };
            let raw_bytes = usize::try_from(raw_bytes).unwrap_or(usize::MAX).min(BLOCK_BYTES_MAX);
            self.raw = zstd::bulk::decompress(&compressed.0, raw_bytes)
                .map_err(|error| Failure::of(FailureKind::Corrupt, &error))?;
            self.at = 0;
        }
        let (listing, rest) = postcard::take_from_bytes(&self.raw[self.at..])
            .map_err(|error| Failure::of(FailureKind::Corrupt, &error))?;
        self.at = self.raw.len() - rest.len();
        Ok(Some(listing))
    }
}

impl Iterator for ManifestFile {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_listing().transpose()
    }
}

/// Whoever wrote it has said why it does not go on.
fn cut_short(_gone: RecvError) -> Failure {
    Failure::new(FailureKind::Cancelled, "the source's tree did not come whole")
}

/// What a manifest that ends in its middle means.
fn damaged() -> Failure {
    let failure = Failure::new(FailureKind::Corrupt, "the stage's manifest is damaged: it has no end");
    Failure { retry: Retry::AfterOperator, ..failure }
        .hint("Look at the destination's disk, then run the copy again: it writes a new one.")
}

/// Begins the exceptions of a pass.
pub(crate) fn create_exceptions(stage: &Stage) -> Result<FrameWriter<Exception>, Failure> {
    Ok(FrameWriter::new(create(&stage.dir, EXCEPTIONS)?))
}

/// Lets the exceptions take the place of those before.
pub(crate) fn publish_exceptions(stage: &Stage, exceptions: FrameWriter<Exception>) -> Result<(), Failure> {
    publish(&stage.dir, exceptions.finish()?, EXCEPTIONS)
}

/// Reads the exceptions of the last whole pass, in the order in which they were found.
pub(crate) fn read_exceptions(stage: &Stage) -> Result<Option<FrameReader<Exception>>, Failure> {
    Ok(open(&stage.dir, EXCEPTIONS)?.map(|file| FrameReader::forwards(file, 0)))
}

fn create(dir: &Dir, name: &str) -> Result<AppendFile, Failure> {
    let name = unfinished(name);
    match dir.unlink(&name) {
        Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
        _ => {}
    }
    dir.create_append(&name).map_err(|error| of_stage(&error))
}

fn publish(dir: &Dir, file: AppendFile, name: &str) -> Result<(), Failure> {
    file.sync_data()
        .and_then(|()| dir.rename_over(&unfinished(name), dir, &finished(name)))
        .map_err(|error| of_stage(&error))
}

fn open(dir: &Dir, name: &str) -> Result<Option<AppendFile>, Failure> {
    match dir.open_append(&finished(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(of_stage(&error)),
    }
}

fn finished(name: &str) -> Name {
    Name::new(name).expect("a constant without slash")
}

fn unfinished(name: &str) -> Name {
    Name::new(format!("{name}.next")).expect("a constant without slash")
}

#[cfg(test)]
mod tests {
    use sync::entry::Kind;

    use super::*;
    use crate::fixture_test::{entry, frames};

    #[test]
    fn fixtures_of_manifests_are_read() {
        let head = Head { version: 1, pass: 2, root: entry("", Kind::Directory) };
        let block = Frame::Block { raw_bytes: 5, compressed: ByteString(vec![1, 2, 3]) };
        frames("manifest.frames", &[Frame::Head(head), block]);
        let exception = Exception { path: RelPath::root().join(b"a").unwrap(), rule: Rule::Changed };
        frames("exceptions.frames", &[exception]);
    }
}
