//! A regular file held for reading.
//!
//! It is opened first and looked at afterwards, so that nothing can be put in its place in between, and
//! the open cannot block on a fifo. Reading has no position; a file is never mapped.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use crate::dir::Dir;
use crate::error::{Cause, Context, Result};
use crate::name::Name;
use crate::stat::{Kind, Stat, stat_fd};
use crate::xattr::{Attributes, Xattrs};

impl Dir {
    /// Opens a regular file for reading; links, fifos, devices and all else are errors.
    ///
    /// The access time is left alone where that is allowed.
    pub fn open_file(&self, name: &Name) -> Result<ReadFile> {
        let (fd, opened) = open_regular(self.fd(), name, OFlags::RDONLY)?;
        Ok(ReadFile { fd, name: name.clone(), opened })
    }
}

/// How often, and after which pauses, a file is asked for whose lease is being given back: a server of network files
/// hands its clients' leases on, and takes them back when anybody else opens the file. Five seconds in all; a client
/// that has much to write first takes about one.
const LEASE_ASKS: u32 = 50;
const LEASE_PAUSE: Duration = Duration::from_millis(100);

/// Opens what may be under a lease: the first call asks its holder to let go, and does not wait for that.
fn until_let_go<T>(mut open: impl FnMut() -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    for _ in 1..LEASE_ASKS {
        match open() {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LEASE_PAUSE),
            opened => return opened,
        }
    }
    open()
}

/// Opens a name and makes sure afterwards that a regular file was opened.
pub(crate) fn open_regular(at: BorrowedFd<'_>, name: &Name, access: OFlags) -> Result<(OwnedFd, Stat)> {
    let base = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags: OFlags| {
        let open = || rustix::fs::openat(at, name.as_c_str(), base | flags, Mode::empty());
        until_let_go(|| retry_on_intr(open))
    };
    let opened = match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty()),
        // A socket or a device without driver; the kind says more than this number.
        Err(Errno::NXIO) => Err(Errno::NXIO),
        other => other,
    };
    let fd = opened.map_err(|errno| explain(at, name, errno)).on("open", name)?;
    let stat = stat_fd(fd.as_fd()).on("stat", name)?;
    if stat.kind != Kind::File {
        return Err(Cause::WrongKind { wanted: Kind::File, found: stat.kind }).on("open", name);
    }
    Ok((fd, stat))
}

/// Turns the numbers that stand for "not a file" into the kind that was found.
fn explain(at: BorrowedFd<'_>, name: &Name, errno: Errno) -> Cause {
    if !matches!(errno, Errno::NXIO | Errno::LOOP | Errno::ISDIR | Errno::NODEV) {
        return errno.into();
    }
    match crate::stat::stat_at(at, name.as_c_str()) {
        Ok(stat) if stat.kind != Kind::File => Cause::WrongKind { wanted: Kind::File, found: stat.kind },
        _ => errno.into(),
    }
}

/// A regular file held for reading.
#[derive(Debug)]
pub struct ReadFile {
    fd: OwnedFd,
    name: Name,
    opened: Stat,
}

impl ReadFile {
    pub(crate) fn new(fd: OwnedFd, name: Name) -> Result<Self> {
        let opened = stat_fd(fd.as_fd()).on("stat", &name)?;
        Ok(Self { fd, name, opened })
    }

    /// Returns the attributes at the time of opening, without a call.
    #[must_use]
    pub fn opened(&self) -> &Stat {
        &self.opened
    }

    /// Returns the attributes as they are now.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.fd()).on("stat", &self.name)
    }

    /// Returns the extended attributes.
    pub fn xattrs(&self) -> Result<Xattrs> {
        Attributes::Open(self.fd()).read().on("read attributes", &self.name)
    }

    /// Reads from `offset` until the buffer is full or the file ends; returns how much was read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        read_full(self.fd(), buffer, offset).on("read", &self.name)
    }

    /// Returns the first range at or after `offset` that holds data, or nothing up to the end.
    ///
    /// A file system that does not know holes answers with all the rest.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        next_data(self.fd(), offset).on("seek", &self.name)
    }

    /// Returns the ranges below `size` that hold data, in order; the rest are holes.
    ///
    /// Worth asking only if [`Stat::is_sparse`]. It moves the descriptor's position, which nothing here
    /// uses, and a writer may change the answer at any time.
    #[must_use]
    pub fn data_extents(&self, size: u64) -> DataExtents<'_> {
        DataExtents { file: self, offset: 0, size }
    }

    /// Tells the kernel that the file will be read from start to end.
    ///
    /// A hint; where it is not taken nothing is lost.
    pub fn advise_sequential(&self) {
        self.advise(0, 0, Advice::Sequential);
    }

    /// Lets the kernel forget a range that was read, so that a migration does not empty the page cache.
    pub fn drop_cache(&self, range: Range<u64>) {
        self.advise(range.start, range.end.saturating_sub(range.start), Advice::DontNeed);
    }

    /// Returns the project of the file; nothing where there are none.
    #[must_use]
    pub(crate) fn project(&self) -> Option<u32> {
        crate::syscall::fs_attributes(self.fd()).ok().map(|found| found.project)
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) {
        // A hint has no failure worth telling.
        rustix::fs::fadvise(self.fd(), offset, std::num::NonZeroU64::new(length), advice).ok();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads until the buffer is full or the end.
pub(crate) fn read_full(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> std::result::Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset.checked_add(filled as u64).ok_or(Errno::OVERFLOW)?;
        match retry_on_intr(|| rustix::io::pread(fd, &mut buffer[filled..], at))? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn next_data(fd: BorrowedFd<'_>, offset: u64) -> std::result::Result<Option<Range<u64>>, Errno> {
    let start = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            let size = stat_fd(fd)?.size;
            return Ok((offset < size).then_some(offset..size));
        }
        Err(errno) => return Err(errno),
    };
    match rustix::fs::seek(fd, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Some(start..end)),
        // The file was cut meanwhile.
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The ranges of a file that hold data.
#[derive(Debug)]
pub struct DataExtents<'a> {
    file: &'a ReadFile,
    offset: u64,
    size: u64,
}

impl Iterator for DataExtents<'_> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.size {
            return None;
        }
        let found = self.file.next_data(self.offset).transpose();
        let Some(Ok(range)) = &found else {
            self.offset = self.size;
            return found;
        };
        let range = range.start..range.end.min(self.size);
        self.offset = range.end;
        if range.start >= range.end {
            self.offset = self.size;
            return None;
        }
        Some(Ok(range))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::io::Errno;

    use super::until_let_go;
    use crate::kernel::Kernel;
    use crate::scratch::{is_root, name, on_each_kernel, skipped};
    use crate::stat::{DeviceKind, device_number};

    /// Everything that is not a regular file, put where a file was expected.
    #[test]
    fn opens_regular_files_only_and_never_blocks() {
        on_each_kernel(|scratch| {
            let dir = &scratch.dir;
            dir.create_fifo(&name("fifo"), 0o600).unwrap();
            dir.create_socket(&name("socket"), 0o600).unwrap();
            dir.create_dir(&name("dir"), 0o700).unwrap();
            symlink(scratch.outside.join("victim"), scratch.path.join("link")).unwrap();
            symlink("/proc/self/fd/0", scratch.path.join("magic")).unwrap();
            symlink("fifo", scratch.path.join("link-to-fifo")).unwrap();
            for odd in ["fifo", "socket", "dir", "link", "magic", "link-to-fifo"] {
                let error = dir.open_file(&name(odd)).unwrap_err();
                assert!(error.is_wrong_kind(), "{odd}: {error:?}");
                assert!(dir.open_existing_for_write(&name(odd), 0, 0).is_err(), "{odd}");
                assert!(dir.open_append(&name(odd)).is_err(), "{odd}");
                assert!(dir.lock_exclusive(&name(odd)).is_err(), "{odd}");
                if !odd.starts_with("link") && odd != "magic" {
                    assert!(dir.pin(&name(odd)).unwrap().open_file().unwrap_err().is_wrong_kind(), "{odd}");
                }
            }
            assert!(dir.open_file(&name("missing")).unwrap_err().is_not_found());
            if is_root() {
                let null = device_number(1, 3);
                dir.create_device(&name("null"), DeviceKind::Character, null, 0o600).unwrap();
                dir.create_device(&name("loop"), DeviceKind::Block, device_number(7, 255), 0o600).unwrap();
                assert_eq!(dir.stat(&name("null")).unwrap().rdev, null);
                assert!(dir.open_file(&name("null")).unwrap_err().is_wrong_kind());
                assert!(dir.open_file(&name("loop")).is_err());
            }
        });
    }

    #[test]
    fn magic_links_are_not_followed() {
        for kernel in [Kernel::detect(), Kernel::oldest()] {
            let file = tempfile::tempfile().unwrap();
            let number = name(std::os::fd::AsRawFd::as_raw_fd(&file).to_string());
            let dir = crate::root::Root::open_as("/proc/self/fd".as_ref(), kernel).unwrap().dir();
            assert!(dir.open_file(&number).unwrap_err().is_wrong_kind());
            assert!(dir.open_dir(&number).unwrap_err().is_symlink());
        }
    }

    #[test]
    fn a_file_replaced_after_opening_is_not_read() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), b"inside").unwrap();
            let file = scratch.dir.open_file(&name("f")).unwrap();
            std::fs::remove_file(scratch.path.join("f")).unwrap();
            symlink(scratch.outside.join("victim"), scratch.path.join("f")).unwrap();
            let mut buffer = [0; 100];
            assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 6);
            assert_eq!(&buffer[..6], b"inside");
            assert_eq!(file.stat().unwrap().nlink, 0);
        });
    }

    #[test]
    fn finds_data_and_holes() {
        on_each_kernel(|scratch| {
            let mib = 1024 * 1024;
            let new = scratch.dir.create_file(&name("sparse"), 0o600).unwrap();
            new.set_len(4 * mib).unwrap();
            new.write_at(&[1; 4096], mib).unwrap();
            new.write_at(&[2; 4096], 3 * mib).unwrap();
            let file = scratch.dir.open_file(&name("sparse")).unwrap();
            assert!(file.opened().is_sparse());
            file.advise_sequential();
            file.drop_cache(0..4096);
            let extents: Vec<_> = file.data_extents(4 * mib).map(Result::unwrap).collect();
            if extents.first() == Some(&(0..4 * mib)) {
                skipped("no holes on this file system");
                return;
            }
            assert_eq!(extents, [mib..mib + 4096, 3 * mib..3 * mib + 4096]);
            let cut: Vec<_> = file.data_extents(mib + 100).map(Result::unwrap).collect();
            assert_eq!((cut.len(), cut[0].clone()), (1, mib..mib + 100));
            assert_eq!(file.data_extents(10).count(), 0);
            new.punch_hole(mib, 4096).unwrap();
            assert_eq!(file.next_data(0).unwrap(), Some(3 * mib..3 * mib + 4096));
            assert_eq!(new.stat().unwrap().size, 4 * mib);
        });
    }

    #[test]
    fn a_lease_is_waited_for_and_nothing_else() {
        let mut answers = [Err(Errno::WOULDBLOCK), Err(Errno::WOULDBLOCK), Ok(7), Ok(8)].into_iter();
        assert_eq!(until_let_go(|| answers.next().unwrap()), Ok(7));
        let mut answers = [Err(Errno::ACCESS), Ok(7)].into_iter();
        assert_eq!(until_let_go(|| answers.next().unwrap()), Err(Errno::ACCESS));
    }

    #[test]
    fn reading_leaves_the_access_time_alone() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), b"content").unwrap();
            let before = scratch.dir.stat(&name("f")).unwrap().atime;
            let file = scratch.dir.open_file(&name("f")).unwrap();
            file.read_at(&mut [0; 10], 0).unwrap();
            assert_eq!(file.stat().unwrap().atime, before);
        });
    }
}
