//! Making entries in the stage: content first, then metadata, times last.

use common::failure::{Failure, FailureKind};
use sync::entry::{Entry, Kind};
use sync::pack;
use sync::wire::content::Layout;
use tree::{Applied, Dir, Name, NewFile, Problem, Stat, TreeError};

use crate::commit::durable::Durable;
use crate::domain::{Domain, DomainId};
use crate::standing::{metadata, time};

/// Where one thread makes entries: a directory of its own in the stage of each rename domain.
#[derive(Debug)]
pub(crate) struct Workbench {
    label: Name,
    /// The one of the domain that was worked in last.
    open: Option<(DomainId, Dir)>,
    next: u64,
}

/// Something that was made in the stage.
#[derive(Debug)]
pub(crate) struct Made {
    /// Where.
    pub(crate) dir: Dir,
    /// Under which name.
    pub(crate) name: Name,
    /// What it is, with its inode.
    pub(crate) entry: Entry,
    /// Attributes that could not be set.
    pub(crate) problems: Vec<Problem>,
    /// Whether it is durable already, by a sync of its own.
    pub(crate) is_synced: bool,
}

impl Workbench {
    /// Makes a place for a thread; its directories must be empty or not exist.
    pub(crate) fn new(label: &str) -> Result<Self, Failure> {
        let label = Name::new(label).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        Ok(Self { label, open: None, next: 0 })
    }

    /// Opens the thread's directory in a domain's stage.
    fn dir(&mut self, domain: &Domain) -> Result<Dir, TreeError> {
        if let Some((id, dir)) = &self.open
            && *id == domain.id
        {
            return Ok(dir.clone());
        }
        let dir = match domain.new.create_dir(&self.label, 0o700) {
            Err(error) if error.is_exists() => domain.new.open_dir(&self.label),
            made => made,
        }?;
        self.open = Some((domain.id, dir.clone()));
        Ok(dir)
    }

    /// Returns a name that is not taken.
    pub(crate) fn name(&mut self) -> Name {
        self.next += 1;
        Name::new(format!("{:x}", self.next)).expect("digits are a name")
    }

    /// Makes a small file of these bytes.
    pub(crate) fn file(
        &mut self,
        domain: &Domain,
        wanted: &Entry,
        layout: &Layout,
        data: &[u8],
    ) -> Result<Made, TreeError> {
        let (dir, name) = (self.dir(domain)?, self.name());
        Self::file_at(domain, &dir, &name, wanted, layout, data)
    }

    /// Makes one in another directory of the stage.
    pub(crate) fn file_at(
        domain: &Domain,
        dir: &Dir,
        name: &Name,
        wanted: &Entry,
        layout: &Layout,
        data: &[u8],
    ) -> Result<Made, TreeError> {
        let (size, length) = (wanted.size(), usize::try_from(wanted.size()).unwrap_or(usize::MAX));
        let file = dir.create_file(name, 0o600)?;
        let mut end = 0;
        for (offset, piece) in pack::pieces(layout, length, data) {
            file.write_at(piece, offset)?;
            end = offset + piece.len() as u64;
        }
        if end < size {
            file.set_len(size)?;
        }
        finish_file(dir, file, wanted, &domain.disk.durable)
    }

    /// Makes anything that has no content: a directory, a link, a fifo, a socket's name, a device.
    pub(crate) fn place(&mut self, domain: &Domain, wanted: &Entry) -> Result<Made, TreeError> {
        let (bench, name) = (self.dir(domain)?, self.name());
        let mut wanted = wanted.clone();
        match &wanted.kind {
            Kind::Directory => {
                // It gets its metadata at the end of the pass; until then nobody else may enter.
                let dir = bench.create_dir(&name, 0o700)?;
                wanted.mode = 0o700;
                let stat = dir.stat_self()?;
                (wanted.dev, wanted.ino, wanted.uid, wanted.gid) = (stat.dev, stat.ino, stat.uid, stat.gid);
                wanted.xattrs.clear();
                if domain.disk.durable.is_by_file() {
                    dir.sync_dir()?;
                }
                return Ok(Made { dir: bench, name, entry: wanted, problems: Vec::new(), is_synced: true });
            }
            Kind::Symlink { target } => bench.create_symlink(&name, target)?,
            Kind::Fifo => bench.create_fifo(&name, 0o600)?,
            Kind::Socket => bench.create_socket(&name, 0o600)?,
            Kind::CharacterDevice { major, minor } => {
                let number = tree::device_number(*major, *minor);
                bench.create_device(&name, tree::DeviceKind::Character, number, 0o600)?;
            }
            Kind::BlockDevice { major, minor } => {
                let number = tree::device_number(*major, *minor);
                bench.create_device(&name, tree::DeviceKind::Block, number, 0o600)?;
            }
            Kind::File { .. } => {
                let file = bench.create_file(&name, 0o600)?;
                return finish_file(&bench, file, &wanted, &domain.disk.durable);
            }
        }
        let pinned = bench.pin(&name)?;
        let mut problems = match metadata(&wanted) {
            Ok(metadata) => pinned.apply(&metadata, None)?.problems,
            Err(_impossible) => Vec::new(),
        };
        let stat = pinned.stat()?;
        (wanted.dev, wanted.ino, wanted.ctime) = (stat.dev, stat.ino, time(stat.ctime));
        (wanted.uid, wanted.gid) = (stat.uid, stat.gid);
        problems.extend(keep_time(&mut wanted, &stat, &name));
        // Without content it becomes durable with the name that it is given, for that comes after it.
        Ok(Made { dir: bench, name, entry: wanted, problems, is_synced: true })
    }
}

/// Gives a file that is complete its metadata and looks at it.
pub(crate) fn finish_file(
    dir: &Dir,
    file: NewFile,
    wanted: &Entry,
    durable: &Durable,
) -> Result<Made, TreeError> {
    let mut problems = match metadata(wanted) {
        Ok(metadata) => {
            let Applied { problems, .. } = file.set_metadata(&metadata)?;
            problems
        }
        Err(_impossible) => Vec::new(),
    };
    let is_synced = durable.staged(&file, wanted.size())?;
    let stat = file.stat()?;
    let mut entry = wanted.clone();
    (entry.dev, entry.ino, entry.ctime) = (stat.dev, stat.ino, time(stat.ctime));
    // What could not be set is a finding; the record says what is there.
    (entry.mode, entry.uid, entry.gid) = (stat.mode, stat.uid, stat.gid);
    problems.extend(keep_time(&mut entry, &stat, file.name()));
    Ok(Made { dir: dir.clone(), name: file.name().clone(), entry, problems, is_synced })
}

/// Records the time that the file system keeps, and says so if it is not the one that was set: the kernel takes the
/// nearest one in silence. What all entries lose there, fractions of seconds, the verification tells once.
fn keep_time(entry: &mut Entry, stat: &Stat, name: &Name) -> Option<Problem> {
    let wanted = std::mem::replace(&mut entry.mtime, time(stat.mtime));
    (!wanted.is_kept_as(time(stat.mtime), time(stat.ctime))).then(|| Problem::other_time(name))
}
