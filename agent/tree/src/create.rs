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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::dir::Dir;
    use crate::error::TreeError;
    use crate::name::Name;
    use crate::scratch::{Scratch, name, on_each_kernel, plain};
    use crate::stat::{DeviceKind, Kind, device_number};

    type Maker<'a> = Box<dyn Fn(&Name) -> Result<(), TreeError> + 'a>;

    /// Every way to make a name.
    fn makers(dir: &Dir) -> Vec<(&'static str, Maker<'_>)> {
        vec![
            ("file", Box::new(|new| dir.create_file(new, 0o600).map(drop))),
            ("dir", Box::new(|new| dir.create_dir(new, 0o700).map(drop))),
            ("symlink", Box::new(|new| dir.create_symlink(new, b"x"))),
            ("fifo", Box::new(|new| dir.create_fifo(new, 0o600))),
            ("socket", Box::new(|new| dir.create_socket(new, 0o600))),
            (
                "device",
                Box::new(|new| dir.create_device(new, DeviceKind::Character, device_number(1, 3), 0o600)),
            ),
            ("log", Box::new(|new| dir.create_append(new).map(drop))),
            ("link", Box::new(|new| dir.hard_link(&name("base"), dir, new))),
            ("pinned link", Box::new(|new| dir.pin(&name("base"))?.link_into(dir, new))),
            ("rename", Box::new(|new| dir.rename_noreplace(&name("base"), dir, new))),
        ]
    }

    fn occupy(scratch: &Scratch) -> Vec<&'static str> {
        let (path, dir) = (&scratch.path, &scratch.dir);
        std::fs::write(path.join("base"), b"base").unwrap();
        std::fs::write(path.join("old-file"), b"old").unwrap();
        std::fs::create_dir(path.join("old-dir")).unwrap();
        dir.create_fifo(&name("old-fifo"), 0o600).unwrap();
        symlink(scratch.outside.join("made"), path.join("dangling")).unwrap();
        symlink(scratch.outside.join("victim"), path.join("to-file")).unwrap();
        symlink(&scratch.outside, path.join("to-dir")).unwrap();
        vec!["old-file", "old-dir", "old-fifo", "dangling", "to-file", "to-dir"]
    }

    #[test]
    fn nothing_is_made_over_or_through_what_exists() {
        on_each_kernel(|scratch| {
            let is_root = rustix::process::geteuid().is_root();
            let occupied = occupy(scratch);
            for (maker, make) in makers(&scratch.dir) {
                for old in &occupied {
                    let before = scratch.dir.stat(&name(old)).unwrap();
                    let error = make(&name(old)).unwrap_err();
                    assert!(
                        error.is_exists() || (maker == "device" && !is_root),
                        "{maker} over {old}: {error:?}"
                    );
                    assert_eq!(scratch.dir.stat(&name(old)).unwrap().ino, before.ino, "{maker} over {old}");
                }
            }
            assert_eq!(std::fs::read(scratch.path.join("old-file")).unwrap(), b"old");
        });
    }

    #[test]
    fn link_texts_are_kept_and_never_used() {
        on_each_kernel(|scratch| {
            // XFS takes 1023 bytes, others 4095.
            let long = vec![b'x'; 1023];
            for (index, text) in [
                &b"/etc/passwd"[..],
                b"../../../../outside",
                b"..",
                b".",
                b"/",
                b"\xff\xfe\n",
                b"a//b",
                &long,
            ]
            .iter()
            .enumerate()
            {
                let link = name(format!("link{index}"));
                scratch.dir.create_symlink(&link, text).unwrap();
                assert_eq!(&scratch.dir.read_link(&link).unwrap(), text);
                assert_eq!(&scratch.dir.pin(&link).unwrap().read_link().unwrap(), text);
                assert_eq!(scratch.dir.stat(&link).unwrap().kind, Kind::Symlink);
                assert!(scratch.dir.apply(&link, &plain(0o777), None).unwrap().is_complete());
            }
            assert!(scratch.dir.create_symlink(&name("nul"), b"a\0b").is_err());
            assert!(scratch.dir.create_symlink(&name("empty"), b"").is_err());
        });
    }

    #[test]
    fn a_hard_link_to_a_symlink_names_the_symlink() {
        on_each_kernel(|scratch| {
            symlink(scratch.outside.join("victim"), scratch.path.join("link")).unwrap();
            scratch.dir.hard_link(&name("link"), &scratch.dir, &name("second")).unwrap();
            scratch.dir.pin(&name("link")).unwrap().link_into(&scratch.dir, &name("third")).unwrap();
            let stat = scratch.dir.stat(&name("second")).unwrap();
            assert_eq!((stat.kind, stat.nlink), (Kind::Symlink, 3));
            assert_eq!(scratch.dir.stat(&name("third")).unwrap().ino, stat.ino);
            assert_eq!(
                std::os::unix::fs::MetadataExt::nlink(&scratch.outside.join("victim").metadata().unwrap()),
                1
            );
        });
    }

    #[test]
    fn names_may_be_long_and_strange() {
        on_each_kernel(|scratch| {
            for bytes in
                [&[b'x'; 255][..], b"\xff\xfe\x80", b"a\nb", b" ", b"-rf", b"\x1b[2J", "日本".as_bytes()]
            {
                scratch.dir.create_file(&name(bytes), 0o600).unwrap();
                assert_eq!(scratch.dir.stat(&name(bytes)).unwrap().kind, Kind::File);
            }
            let error = scratch.dir.create_file(&name([b'x'; 256]), 0o600).unwrap_err();
            assert!(error.is_name_too_long());
            let listed: Vec<_> = scratch.dir.list().unwrap().map(Result::unwrap).collect();
            assert_eq!(listed.len(), 7);
            assert!(listed.iter().any(|entry| entry.name == name(b"\xff\xfe\x80")));
        });
    }

    #[test]
    fn a_staged_file_is_resumed_by_inode_only() {
        on_each_kernel(|scratch| {
            let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
            new.allocate(0, 100_000).unwrap();
            new.write_at(b"half", 0).unwrap();
            new.sync().unwrap();
            let stat = new.stat().unwrap();
            let again = scratch.dir.open_existing_for_write(&name("f"), stat.dev, stat.ino).unwrap();
            again.write_at(b"whole", 4).unwrap();
            again.sync_data().unwrap();
            assert_eq!(scratch.dir.read_small(&name("f"), 100).unwrap(), b"halfwhole");
            std::fs::rename(scratch.path.join("f"), scratch.path.join("g")).unwrap();
            std::fs::write(scratch.path.join("f"), b"planted").unwrap();
            let error = scratch.dir.open_existing_for_write(&name("f"), stat.dev, stat.ino).unwrap_err();
            assert!(error.is_replaced());
            let mut buffer = [0; 9];
            assert_eq!(again.reopen().unwrap().read_at(&mut buffer, 0).unwrap(), 9);
            assert_eq!(&buffer, b"halfwhole");
        });
    }

    #[test]
    fn copies_inside_the_kernel() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), vec![7; 10_000]).unwrap();
            let (from, to) = (
                scratch.dir.open_file(&name("f")).unwrap(),
                scratch.dir.create_file(&name("g"), 0o600).unwrap(),
            );
            match to.copy_range_from(&from, 0, 0, 10_000) {
                Ok(count) => assert_eq!(to.stat().unwrap().size, count as u64),
                Err(error) => assert!(error.is_unsupported(), "{error:?}"),
            }
            if let Err(error) = to.reflink_from(&from) {
                assert!(error.is_unsupported(), "{error:?}");
            }
        });
    }
}
