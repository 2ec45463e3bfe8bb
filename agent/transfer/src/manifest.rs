//! What a pass saw of the source, kept in the stage: the list that verification goes by.
//!
//! Listings in their order, owners in this host's numbers, in compressed blocks. Beside it stand the *exceptions*:
//! paths that the pass could not bring as asked, with the rule of the finding that told so. Both are written under a
//! name of their own and renamed when the pass has ended, so what stands there is of one whole pass.

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

    /// Adds a listing.
    pub(crate) fn write(&mut self, listing: &Listing) -> Result<(), Failure> {
        let raw = std::mem::take(&mut self.raw);
        self.raw =
            postcard::to_extend(listing, raw).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        if self.raw.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Lets the manifest take the place of the one before.
    pub(crate) fn finish(mut self, stage: &Stage) -> Result<(), Failure> {
        self.flush()?;
        self.frames.write(&Frame::End)?;
        publish(&stage.dir, self.frames.finish()?, MANIFEST)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let compressed =
            zstd::bulk::compress(&self.raw, LEVEL).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let raw_bytes = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        self.raw.clear();
        self.frames.write(&Frame::Block { raw_bytes, compressed: ByteString(compressed) })
    }
}

/// Reads the manifest of the last whole pass.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    /// How the pass was made.
    pub(crate) head: Head,
    frames: FrameReader<Frame>,
    raw: Vec<u8>,
    at: usize,
    is_ended: bool,
}

impl ManifestFile {
    /// Opens it; nothing if no pass has ended yet.
    pub(crate) fn open(stage: &Stage) -> Result<Option<Self>, Failure> {
        let Some(file) = open(&stage.dir, MANIFEST)? else { return Ok(None) };
        let mut frames = FrameReader::forwards(file, 0);
        match frames.next()? {
            Some(Frame::Head(head)) if [VERSION, VERSION_WITHOUT_END].contains(&head.version) => {
                Ok(Some(Self { head, frames, raw: Vec::new(), at: 0, is_ended: false }))
            }
            Some(Frame::Head(head)) if head.version > VERSION => {
                Err(common::version::newer("the stage's manifest", head.version, VERSION))
            }
            _ => Err(Failure::new(FailureKind::Unsupported, "the stage's manifest cannot be read")
                .hint("It was written by another version of the agent; run the copy again with this one.")),
        }
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
                None if self.is_ended || self.head.version == VERSION_WITHOUT_END => return Ok(None),
                None => return Err(damaged()),
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
