//! Making trees: the odd one with everything that a file system can hold, and plain ones of a given size.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Whether this process may make owners and devices; without it the odd tree lacks them.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns bytes that look random and are the same for the same seed, by the generator xorshift64*.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let mut content = Vec::with_capacity(len + 8);
    while content.len() < len {
        content.extend_from_slice(&next());
    }
    content.truncate(len);
    content
}

/// Returns text that compresses as web sites do.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["function ", "return ", "$value", "\n    ", "<div class=", "array(", ");", "// note "];
    let picks = bytes(seed, len / 4 + 1);
    let mut content = Vec::with_capacity(len + 16);
    for pick in picks {
        if content.len() >= len {
            break;
        }
        content.extend_from_slice(WORDS[usize::from(pick) % WORDS.len()].as_bytes());
    }
    content.resize(len, b' ');
    content
}

/// Makes a plain tree of about `files` files in directories of a hundred, each with between 0 and `size_max` bytes.
///
/// # Errors
/// When the file system refuses.
pub fn plain(root: &Path, files: usize, size_max: usize) -> io::Result<()> {
    fill(root, files, size_max, text)
}

/// Makes such a tree out of bytes that do not compress, so that a limited bandwidth says how long a move takes.
///
/// # Errors
/// When the file system refuses.
pub fn noise(root: &Path, files: usize, size_max: usize) -> io::Result<()> {
    fill(root, files, size_max, bytes)
}

fn fill(root: &Path, files: usize, size_max: usize, content: fn(u64, usize) -> Vec<u8>) -> io::Result<()> {
    fs::create_dir_all(root)?;
    for number in 0..files {
        let directory =
            root.join(format!("d{:03}", number / 1000)).join(format!("e{:02}", number / 100 % 10));
        if number % 100 == 0 {
            fs::create_dir_all(&directory)?;
        }
        let seed = number as u64 + 1;
        let size = usize::from(u16::from_le_bytes([bytes(seed, 2)[0], bytes(seed, 2)[1]])) % size_max.max(1);
        fs::write(directory.join(format!("f{number:06}.php")), content(seed, size))?;
    }
    Ok(())
}

/// Makes a tree with everything that the design calls fidelity; times are set last and differ in nanoseconds.
///
/// # Errors
/// When the file system refuses.
pub fn odd(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    odd_names(root)?;
    odd_files(root)?;
    odd_links(root)?;
    odd_attributes(root)?;
    if is_root() {
        odd_owners(root)?;
    }
    set_times(root, &mut 0)
}

/// Names with any byte, very long names, and a tree deeper than one path can name.
fn odd_names(root: &Path) -> io::Result<()> {
    let names = root.join("names");
    fs::create_dir(&names)?;
    let odd: [&[u8]; 14] = [
        b"new\nline",
        b"tab\ttab",
        b"back\\slash",
        b"-rf",
        b" leading and trailing ",
        b"quote'\"`$(x)",
        b"latin1-\xe4\xf6\xfc",
        b"\xff\xfe\xfd",
        "umläut-日本-🦀".as_bytes(),
        "u\u{308}".as_bytes(),
        b"\x01\x1b[31mred",
        b"...",
        b".hidden",
        b"*?[a]{b}",
    ];
    for name in odd {
        fs::write(names.join(OsStr::from_bytes(name)), name)?;
    }
    fs::write(names.join("n".repeat(255)), "long")?;
    fs::create_dir(names.join(".drover-not-a-stage"))?;
    fs::write(names.join(".drover-not-a-stage/kept"), "kept")?;
    let mut deep = names.join("deep");
    for _ in 0..12 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("bottom"), "bottom")
}

/// Empty, sparse, large, and set-id files; empty and read-only directories.
fn odd_files(root: &Path) -> io::Result<()> {
    let files = root.join("files");
    fs::create_dir(&files)?;
    fs::write(files.join("empty"), "")?;
    fs::write(files.join("one"), "1")?;
    // Either side of the edge between packs and ranges, and of a range's end.
    for (name, size) in [("edge-low", (1 << 20) - 1), ("edge", 1 << 20), ("edge-high", (1 << 20) + 1)] {
        fs::write(files.join(name), bytes(size as u64, size))?;
    }
    fs::write(files.join("large"), bytes(7, 9 * (1 << 20) + 123))?;
    let mut sparse = File::create(files.join("sparse"))?;
    for at in [3_u64 << 20, 20 << 20, 45 << 20] {
        sparse.seek(SeekFrom::Start(at))?;
        sparse.write_all(&bytes(at, 70_000))?;
    }
    sparse.set_len(64 << 20)?;
    File::create(files.join("only-hole"))?.set_len(5 << 20)?;
    let mut small_sparse = File::create(files.join("small-sparse"))?;
    small_sparse.seek(SeekFrom::Start(600_000))?;
    small_sparse.write_all(b"end")?;
    for (name, mode) in
        [("set-uid", 0o4755), ("set-gid", 0o2755), ("nobody-reads", 0o000), ("odd-mode", 0o137)]
    {
        fs::write(files.join(name), name)?;
        fs::set_permissions(files.join(name), fs::Permissions::from_mode(mode))?;
    }
    fs::create_dir(files.join("empty-directory"))?;
    for (name, mode) in [("read-only", 0o555), ("sticky", 0o1777), ("set-gid-directory", 0o2775)] {
        fs::create_dir(files.join(name))?;
        fs::write(files.join(name).join("inside"), name)?;
        fs::set_permissions(files.join(name), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Symbolic links of every sort, hard-link groups across directories, and special files.
fn odd_links(root: &Path) -> io::Result<()> {
    let links = root.join("links");
    fs::create_dir_all(links.join("a/b"))?;
    fs::create_dir_all(links.join("z"))?;
    symlink("one", links.join("dangling"))?;
    symlink("/etc/passwd", links.join("absolute"))?;
    symlink("../../../../../../etc", links.join("climbing"))?;
    symlink("loop-b", links.join("loop-a"))?;
    symlink("loop-a", links.join("loop-b"))?;
    symlink(".", links.join("self"))?;
    symlink("x".repeat(4000), links.join("long"))?;
    symlink(OsStr::from_bytes(b"bytes-\xff\n"), links.join("bytes"))?;
    fs::write(links.join("a/first"), bytes(3, 5000))?;
    fs::hard_link(links.join("a/first"), links.join("a/b/second"))?;
    fs::hard_link(links.join("a/first"), links.join("z/third"))?;
    fs::write(links.join("a/large-first"), bytes(4, 3 << 20))?;
    fs::hard_link(links.join("a/large-first"), links.join("z/large-second"))?;
    rustix::fs::linkat(CWD, links.join("dangling"), CWD, links.join("z/dangling-too"), AtFlags::empty())?;
    rustix::fs::mknodat(CWD, links.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    rustix::fs::linkat(CWD, links.join("fifo"), CWD, links.join("z/fifo-too"), AtFlags::empty())?;
    rustix::fs::mknodat(CWD, links.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0)?;
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            CWD,
            links.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )?;
        let device = rustix::fs::makedev(7, 200);
        rustix::fs::mknodat(
            CWD,
            links.join("block"),
            FileType::BlockDevice,
            Mode::from_raw_mode(0o660),
            device,
        )?;
    }
    Ok(())
}

/// A POSIX ACL in the kernel's form: version 2, then (tag, permissions, id) of the owner, user 33, group, mask, other.
const ACL: [(u16, u16, u32); 5] =
    [(0x01, 6, u32::MAX), (0x02, 6, 33), (0x04, 4, u32::MAX), (0x10, 6, u32::MAX), (0x20, 4, u32::MAX)];

/// Returns the bytes of [`ACL`].
fn acl() -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in ACL {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// Extended attributes, ACLs and file capabilities.
fn odd_attributes(root: &Path) -> io::Result<()> {
    let attributes = root.join("attributes");
    fs::create_dir(&attributes)?;
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(attributes.join(name), key, value, XattrFlags::empty())
    };
    for name in ["user", "acl", "capability"] {
        fs::write(attributes.join(name), name)?;
    }
    fs::create_dir(attributes.join("directory"))?;
    set("user", "user.empty", b"")?;
    set("user", "user.binary", b"\x00\xff\n")?;
    set("user", "user.long", &bytes(9, 2000))?;
    set("acl", "system.posix_acl_access", &acl())?;
    set("directory", "user.on-directory", b"yes")?;
    set("directory", "system.posix_acl_default", &acl())?;
    fs::write(attributes.join("directory/inherits"), "x")?;
    if is_root() {
        set("user", "trusted.drover-test", b"root only")?;
        // cap_net_bind_service=ep, revision 2.
        set("capability", "security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")?;
        symlink("target", attributes.join("link"))?;
        let value = b"on a link";
        rustix::fs::lsetxattr(attributes.join("link"), "trusted.drover-test", value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Owners with and without names, also on links; set-id bits and capabilities must survive.
fn odd_owners(root: &Path) -> io::Result<()> {
    let owners = root.join("owners");
    fs::create_dir(&owners)?;
    for (name, uid, gid) in [("www-data", 33, 33), ("no-name", 54_321, 54_322), ("mixed", 0, 33)] {
        fs::write(owners.join(name), name)?;
        std::os::unix::fs::lchown(owners.join(name), Some(uid), Some(gid))?;
    }
    symlink("nowhere", owners.join("link"))?;
    std::os::unix::fs::lchown(owners.join("link"), Some(33), Some(54_322))?;
    fs::write(owners.join("set-uid"), "x")?;
    std::os::unix::fs::lchown(owners.join("set-uid"), Some(33), Some(33))?;
    fs::set_permissions(owners.join("set-uid"), fs::Permissions::from_mode(0o6755))
}

/// Gives every entry a time of its own, in the past, before 1970 or in the future, with nanoseconds.
fn set_times(path: &Path, number: &mut i64) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        let mut children: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        children.sort();
        for child in children {
            set_times(&child, number)?;
        }
    }
    *number += 1;
    let seconds = match *number % 20 {
        0 => -86_400,
        1 => 4_000_000_000,
        _ => 1_500_000_000 + *number * 3_601,
    };
    let time = Timespec { tv_sec: seconds, tv_nsec: *number * 1_234_567 % 1_000_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
