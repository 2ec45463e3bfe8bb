//! Making things: always new, never over or through something that exists.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::dir::{Dir, open_directory};
use crate::error::{Cause, Context, Result};
use crate::name::Name;
use crate::new_file::NewFile;
use crate::read_file::open_regular;
use crate::stat::DeviceKind;

impl Dir {
    /// Makes a file and holds it for writing; the umask applies to `mode`.
    pub fn create_file(&self, name: &Name, mode: u32) -> Result<NewFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(self.fd(), name.as_c_str(), flags, permissions(mode));
        let fd = retry_on_intr(open).on("create file", name)?;
        Ok(NewFile::fresh(fd, name.clone(), self.has_default_acl()))
    }

    /// Opens a file that was made before, to write on: it must be the inode `ino` of `dev`.
    pub fn open_existing_for_write(&self, name: &Name, dev: u64, ino: u64) -> Result<NewFile> {
        let (fd, stat) = open_regular(self.fd(), name, OFlags::RDWR)?;
        if !stat.is_inode(dev, ino) {
            return Err(Cause::Replaced).on("open for writing", name);
        }
        Ok(NewFile::existing(fd, name.clone()))
    }

    /// Makes a directory and holds it; the umask applies to `mode`.
    pub fn create_dir(&self, name: &Name, mode: u32) -> Result<Self> {
        rustix::fs::mkdirat(self.fd(), name.as_c_str(), permissions(mode)).on("create directory", name)?;
        let (fd, is_readable) = open_directory(self.fd(), name.as_c_str()).on("open directory", name)?;
        Ok(Self::hold(fd, is_readable, self.kernel()))
    }

    /// Makes a symbolic link with this text, whatever it points to; nothing here ever follows it.
    pub fn create_symlink(&self, name: &Name, text: &[u8]) -> Result<()> {
        if text.contains(&0) {
            return Err(Errno::INVAL).on("create link", name);
        }
        rustix::fs::symlinkat(text, self.fd(), name.as_c_str()).on("create link", name)
    }

    /// Makes a named pipe; the umask applies to `mode`.
    pub fn create_fifo(&self, name: &Name, mode: u32) -> Result<()> {
        self.make_node(name, FileType::Fifo, mode, 0).on("create fifo", name)
    }

    /// Makes a socket's name, which nothing listens on; the umask applies to `mode`.
    pub fn create_socket(&self, name: &Name, mode: u32) -> Result<()> {
        self.make_node(name, FileType::Socket, mode, 0).on("create socket", name)
    }

    /// Makes a device node; the umask applies to `mode`.
    pub fn create_device(&self, name: &Name, kind: DeviceKind, rdev: u64, mode: u32) -> Result<()> {
        let file_type = match kind {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
        };
        self.make_node(name, file_type, mode, rdev).on("create device", name)
    }

    fn make_node(&self, name: &Name, kind: FileType, mode: u32, rdev: u64) -> std::result::Result<(), Errno> {
        rustix::fs::mknodat(self.fd(), name.as_c_str(), kind, permissions(mode), rdev)
    }

    /// Gives the inode at `name` a further name; a symbolic link gets the name itself, never its target.
    ///
    /// Where `name` could be replaced meanwhile, [`crate::Pinned::link_into`] names a held inode.
    pub fn hard_link(&self, name: &Name, to: &Self, new: &Name) -> Result<()> {
        rustix::fs::linkat(self.fd(), name.as_c_str(), to.fd(), new.as_c_str(), AtFlags::empty())
            .on("link", new)
    }
}

/// The bits of a mode that may be set, whatever a peer sent.
pub(crate) fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}
