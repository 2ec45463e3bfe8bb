//! Snapshot files: build, keep, send, receive, install.
//!
//! A snapshot is one plain file: a byte of version, the length and postcard of openraft's description, since version 2
//! the BLAKE3 of these, then the state, which bears a check of its own.
//! It is written beside, synced and renamed, so that a file under its final name is whole. One is kept; what a follower
//! is still being sent stays readable through the open file after its name is gone.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::SnapshotMeta;

use super::Member;
use crate::state::State;
use crate::state::snapshot::{self, SnapshotError};

/// The version of the file around the state, and the first one, whose description has no check.
const FILE_VERSION: u8 = 2;
const FILE_VERSION_MIN: u8 = 1;
/// The largest description that is believed: it holds the members.
const META_BYTES_MAX: u32 = 64 * 1024;
/// What finished files end with.
const EXTENSION: &str = "snapshot";
/// What unfinished files end with.
const UNFINISHED: &str = "part";

/// openraft's description of a snapshot.
pub type Meta = SnapshotMeta<u64, Member>;

/// A snapshot's file, open for reading.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: PathBuf,
    /// Held while the file is unfinished: openraft installs after it has answered, so the file must live as long as
    /// anybody has it.
    _part: Option<Arc<Part>>,
}

/// An unfinished file, removed with its last holder unless it was made a snapshot meanwhile.
#[derive(Debug)]
pub struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Once it is a snapshot it has another name, and no other file ever gets this one.
        drop(std::fs::remove_file(&self.0));
    }
}

impl SnapshotFile {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(&path)?), path, _part: None })
    }

    /// Opens a file that was received and is not a snapshot yet.
    ///
    /// # Errors
    /// When it is not there.
    pub fn unfinished(part: Arc<Part>) -> io::Result<Self> {
        let opened = Self::open(part.0.clone())?;
        Ok(Self { _part: Some(part), ..opened })
    }

    /// Reads the piece at an offset; empty at the end.
    ///
    /// # Errors
    /// When reading fails.
    pub fn piece(&self, offset: u64, length_max: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; length_max];
        let mut filled = 0;
        while filled < length_max {
            let read =
                self.file.read_at(&mut piece[filled..], offset + u64::try_from(filled).unwrap_or(0))?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        piece.truncate(filled);
        Ok(piece)
    }

    /// Returns where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the description and the state.
    ///
    /// # Errors
    /// When it is cut, altered or of an unknown version.
    pub fn read(&self) -> Result<(Meta, State), SnapshotError> {
        let mut from = BufReader::new(Cursor { file: &self.file, offset: 0 });
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        if !(FILE_VERSION_MIN..=FILE_VERSION).contains(&head[0]) {
            return Err(SnapshotError::Version(head[0]));
        }
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if length > META_BYTES_MAX {
            return Err(SnapshotError::Damaged("its description is too large"));
        }
        let mut meta = vec![0; usize::try_from(length).unwrap_or(0)];
        from.read_exact(&mut meta)?;
        if head[0] > FILE_VERSION_MIN {
            let mut check = [0; blake3::OUT_LEN];
            from.read_exact(&mut check)?;
            if check != check_of(&head, &meta) {
                return Err(SnapshotError::Damaged("its description is altered"));
            }
        }
        let meta = postcard::from_bytes(&meta)?;
        Ok((meta, snapshot::read(&mut from)?))
    }
}

/// Returns the check of what stands before the state.
fn check_of(head: &[u8], meta: &[u8]) -> [u8; blake3::OUT_LEN] {
    *blake3::Hasher::new().update(head).update(meta).finalize().as_bytes()
}

/// Reads a shared file from the start without moving its position.
struct Cursor<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

/// The directory of snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    directory: PathBuf,
    counter: Arc<AtomicU64>,
    current: Arc<Mutex<Option<(Meta, SnapshotFile)>>>,
}

impl Snapshots {
    /// Opens the directory, makes it if needed, and removes what was not finished.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { directory, counter: Arc::default(), current: Arc::default() })
    }

    /// Returns the newest whole snapshot; one that is damaged is passed over for the one before.
    ///
    /// # Errors
    /// When files are there and none of them can be read: the log before them is gone.
    pub fn newest(&self) -> Result<Option<(Meta, State)>, SnapshotError> {
        let mut failure = None;
        for path in self.finished()?.into_iter().rev() {
            let file = SnapshotFile::open(path)?;
            match file.read() {
                Ok((meta, state)) => {
                    *self.lock() = Some((meta.clone(), file));
                    return Ok(Some((meta, state)));
                }
                Err(error) => {
                    tracing::warn!(path = %file.path.display(), %error, "snapshot passed over");
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Writes a snapshot and makes it the only one.
    ///
    /// # Errors
    /// When writing fails; the one before stays.
    pub fn write(&self, meta: &Meta, state: &State) -> Result<SnapshotFile, SnapshotError> {
        let part = self.part();
        let mut to = BufWriter::new(File::create(&part)?);
        let encoded = postcard::to_stdvec(meta)?;
        let length =
            u32::try_from(encoded.len()).or(Err(SnapshotError::Damaged("its description is too large")))?;
        let head = [&[FILE_VERSION][..], &length.to_le_bytes()].concat();
        to.write_all(&head)?;
        to.write_all(&encoded)?;
        to.write_all(&check_of(&head, &encoded))?;
        snapshot::write(state, &mut to)?;
        let file = to.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        Ok(self.keep(&part, meta)?)
    }

    /// Makes an unfinished file for what a leader sends.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn receive(&self) -> io::Result<(File, Arc<Part>)> {
        let part = self.part();
        Ok((File::create(&part)?, Arc::new(Part(part))))
    }

    /// Makes a whole, synced file the only snapshot, unless a newer one has come meanwhile.
    ///
    /// # Errors
    /// When renaming fails.
    pub fn keep(&self, part: &Path, meta: &Meta) -> io::Result<SnapshotFile> {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|(newer, _)| newer.last_log_id > meta.last_log_id) {
            let file = SnapshotFile::open(part.to_owned())?;
            std::fs::remove_file(part)?;
            return Ok(file);
        }
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let path = self.directory.join(format!("{index:020}-{:010}.{EXTENSION}", self.next_number()));
        std::fs::rename(part, &path)?;
        File::open(&self.directory)?.sync_all()?;
        for older in self.finished()? {
            if older != path {
                std::fs::remove_file(older)?;
            }
        }
        let file = SnapshotFile::open(path)?;
        *current = Some((meta.clone(), file.clone()));
        Ok(file)
    }

    /// Returns the snapshot that is kept.
    pub fn current(&self) -> Option<(Meta, SnapshotFile)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Meta, SnapshotFile)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finished files, oldest first: their names begin with the padded log index.
    fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn part(&self) -> PathBuf {
        self.directory.join(format!("{}.{UNFINISHED}", self.next_number()))
    }

    fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample::Log;

    fn meta(index: u64) -> Meta {
        Meta { last_log_id: Some(openraft::testing::log_id(1, 1, index)), ..Meta::default() }
    }

    fn names(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn what_is_received_lives_as_long_as_anybody_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(directory.path().to_owned()).unwrap();
        let state = Log::new().state;
        let sent = snapshots.write(&meta(3), &state).unwrap();
        let (mut file, part) = snapshots.receive().unwrap();
        file.write_all(&sent.piece(0, 1 << 20).unwrap()).unwrap();
        let received = SnapshotFile::unfinished(part).unwrap();
        let installing = received.clone();
        drop(received);
        assert_eq!(installing.read().unwrap().1, state);
        let kept = snapshots.keep(installing.path(), &meta(4)).unwrap();
        drop(installing);
        assert_eq!(kept.read().unwrap().1, state);
        assert_eq!(names(directory.path()), 1);
        let (_, part) = snapshots.receive().unwrap();
        assert_eq!(names(directory.path()), 2);
        drop(part);
        assert_eq!(names(directory.path()), 1);
    }

    #[test]
    fn an_older_snapshot_never_replaces_a_newer_one() {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(directory.path().to_owned()).unwrap();
        let state = Log::new().state;
        snapshots.write(&meta(9), &state).unwrap();
        let late = snapshots.write(&meta(5), &state).unwrap();
        assert_eq!(late.read().unwrap().1, state);
        let again = Snapshots::open(directory.path().to_owned()).unwrap();
        assert_eq!(again.newest().unwrap().unwrap().0.last_log_id, meta(9).last_log_id);
        assert_eq!(names(directory.path()), 1);
    }

    #[test]
    fn a_damaged_snapshot_is_not_taken_for_an_empty_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(directory.path().to_owned()).unwrap();
        let written = snapshots.write(&meta(9), &Log::new().state).unwrap();
        let mut bytes = std::fs::read(written.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(written.path(), bytes).unwrap();
        assert!(Snapshots::open(directory.path().to_owned()).unwrap().newest().is_err());
    }
}
