//! What stands at a name of the destination, as an entry; and an entry's metadata, as the tree sets it.

use sync::byte_string::ByteString;
use sync::entry::{Entry, Kind};
use sync::stamp::Time;
use tree::{Dir, Metadata, Name, Result, Stat, Xattrs};

/// Looks at a name; nothing if nothing stands there.
pub(crate) fn look(dir: &Dir, name: &Name) -> Result<Option<Entry>> {
    let Some(stat) = dir.stat_if_exists(name)? else { return Ok(None) };
    let target = if stat.kind == tree::Kind::Symlink { dir.read_link(name)? } else { Vec::new() };
    Ok(Some(entry_of(name.as_bytes(), &stat, dir.xattrs(name)?, target)))
}

/// Looks at a held directory; its name is empty.
pub(crate) fn look_at_self(dir: &Dir) -> Result<Entry> {
    Ok(entry_of(b"", &dir.stat_self()?, dir.xattrs_self()?, Vec::new()))
}

/// Puts together what is known of an inode. What is of unknown kind counts as a socket's name: it has no content.
pub(crate) fn entry_of(name: &[u8], stat: &Stat, xattrs: Xattrs, target: Vec<u8>) -> Entry {
    let (major, minor) = tree::device_pair(stat.rdev);
    let kind = match stat.kind {
        tree::Kind::File => Kind::File { size: stat.size, allocated_bytes: stat.blocks.saturating_mul(512) },
        tree::Kind::Directory => Kind::Directory,
        tree::Kind::Symlink => Kind::Symlink { target },
        tree::Kind::Fifo => Kind::Fifo,
        tree::Kind::Socket | tree::Kind::Unknown => Kind::Socket,
        tree::Kind::CharacterDevice => Kind::CharacterDevice { major, minor },
        tree::Kind::BlockDevice => Kind::BlockDevice { major, minor },
    };
    Entry {
        name: name.to_vec(),
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
        dev: stat.dev,
        ino: stat.ino,
        nlink: stat.nlink,
        xattrs: xattrs
            .into_vec()
            .into_iter()
            .map(|(name, value)| (ByteString(name), ByteString(value)))
            .collect(),
    }
}

/// Returns a time of the file system as it travels.
pub(crate) fn time(time: tree::Time) -> Time {
    Time { seconds: time.seconds, nanos: time.nanos }
}

/// Returns the metadata of an entry, to be set; nothing when its attributes cannot be.
pub(crate) fn metadata(entry: &Entry) -> std::result::Result<Metadata, tree::XattrError> {
    let xattrs = entry.xattrs.iter().map(|(name, value)| (name.0.clone(), value.0.clone())).collect();
    Ok(Metadata {
        uid: entry.uid,
        gid: entry.gid,
        mode: entry.mode,
        mtime: tree::Time { seconds: entry.mtime.seconds, nanos: entry.mtime.nanos },
        xattrs: Xattrs::new(xattrs)?,
    })
}

/// Whether what the scan saw is what stands there now, untouched: same inode and change time.
pub(crate) fn is_untouched(seen: &Entry, now: &Stat) -> bool {
    // Our own work changes it for what stands at another of an inode's names, and for what is in a directory.
    let tells_ctime = !seen.kind.is_directory() && seen.nlink <= 1;
    now.dev == seen.dev && is_same_content(seen, now) && (!tells_ctime || time(now.ctime) == seen.ctime)
}

/// What of an inode tells, without reading it, whether somebody touched it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    ino: u64,
    nlink: u32,
    size: u64,
    mtime: Time,
    ctime: Time,
}

impl Look {
    /// Returns the inode's number.
    pub(crate) fn ino(self) -> u64 {
        self.ino
    }
}

impl From<&Stat> for Look {
    fn from(stat: &Stat) -> Self {
        let Stat { ino, nlink, size, .. } = *stat;
        Self { ino, nlink, size, mtime: time(stat.mtime), ctime: time(stat.ctime) }
    }
}

impl From<&Entry> for Look {
    fn from(entry: &Entry) -> Self {
        let Entry { ino, nlink, mtime, ctime, .. } = *entry;
        Self { ino, nlink, size: entry.size(), mtime, ctime }
    }
}

/// Whether something is as the ledger recorded it, with this change time: the same inode, and nobody wrote to it.
///
/// The number alone does not tell: file systems give that of a removed inode to the next one.
pub(crate) fn is_as_recorded(record: &Entry, ctime: Option<Time>, now: Look) -> bool {
    // Giving an inode another name, or taking one, changes its change time: with several names it tells nothing. What
    // is in a directory changes all its times.
    let tells_ctime = record.nlink <= 1 && now.nlink <= 1 && !record.kind.is_directory();
    let is_same_ctime = ctime.is_none_or(|ctime| !tells_ctime || ctime == now.ctime);
    let is_same_content =
        record.size() == now.size && record.mtime.is_kept_as(now.mtime, now.ctime) || !record.kind.is_file();
    record.ino == now.ino && is_same_ctime && is_same_content
}

/// Whether this is the inode that was recorded. Its device is not compared: it may have another number after a reboot,
/// and all that the ledger knows is on the file system of the stage.
pub(crate) fn is_recorded(record: &Entry, now: &Stat) -> bool {
    now.ino == record.ino
}

/// Whether this is the inode that was seen, with the same content, though it may have been renamed since.
pub(crate) fn is_same_content(seen: &Entry, now: &Stat) -> bool {
    let is_same_size = !seen.kind.is_file() || now.size == seen.size();
    is_recorded(seen, now) && (seen.kind.is_directory() || (is_same_size && time(now.mtime) == seen.mtime))
}

/// Says whether a directory has no entries.
pub(crate) fn is_empty(dir: &Dir) -> Result<bool> {
    dir.list()?.next().transpose().map(|first| first.is_none())
}
