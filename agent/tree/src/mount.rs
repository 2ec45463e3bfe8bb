//! Which mount a descriptor was reached through, and where in its file system that mount begins.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::error::Cause;
use crate::stat::stat_fd;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    /// `major:minor` of the file system, the same for all of its mounts and subvolumes.
    pub(crate) device: String,
    /// The directory of the file system that is visible at `point`.
    pub(crate) root: Vec<u8>,
    /// Where it is mounted.
    pub(crate) point: Vec<u8>,
    /// The name of the file system's type.
    pub(crate) fs_type: String,
    /// What is mounted: a block device, as a rule.
    pub(crate) source: Vec<u8>,
    /// The file system's own options.
    pub(crate) options: String,
}

/// Returns the number of the mount that a descriptor was reached through.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Cause> {
    if let Some(id) = stat_fd(fd)?.mount_id {
        return Ok(id);
    }
    mount_id_from_proc(fd)
}

/// The same for kernels before 5.8.
fn mount_id_from_proc(fd: BorrowedFd<'_>) -> Result<u64, Cause> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    parse_fdinfo(&text).ok_or_else(|| Errno::NOSYS.into())
}

fn parse_fdinfo(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Returns the mount that a descriptor was reached through; nothing when this process does not see it.
pub(crate) fn mount_of(fd: BorrowedFd<'_>) -> Result<Option<Mount>, Cause> {
    let id = mount_id(fd)?;
    Ok(mounts()?.into_iter().find(|mount| mount.id == id))
}

/// Returns all mounts that this process sees.
pub(crate) fn mounts() -> Result<Vec<Mount>, Cause> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    // Optional fields end with a single hyphen; the type comes behind it.
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || behind.next().unwrap_or_default();
    let fs_type = String::from_utf8_lossy(text()).into_owned();
    let source = unescape(text());
    let options = String::from_utf8_lossy(text()).into_owned();
    Some(Mount { id, device, root, point, fs_type, source, options })
}

/// Turns `\040` and its like, which stand for blanks and backslashes, back into bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Says whether `path` is `base` or below it; returns what is below, without a leading slash.
pub(crate) fn below<'a>(path: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    let base = base.strip_suffix(b"/").unwrap_or(base);
    match path.strip_prefix(base)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Mount, below, mount_id, mount_id_from_proc, mounts, parse_fdinfo, parse_line};
    use crate::root::Root;

    #[test]
    fn both_ways_find_the_same_mount() {
        for path in ["/", "/proc", "/tmp"] {
            let dir = Root::open(path.as_ref()).unwrap().dir();
            let id = mount_id(dir.fd()).unwrap();
            assert_eq!(mount_id_from_proc(dir.fd()).unwrap(), id);
            assert!(mounts().unwrap().iter().any(|mount| mount.id == id));
        }
    }

    #[test]
    fn reads_lines() {
        let line = br"36 35 98:0 /a\040b /mnt\134x rw,noatime master:1 - ext3 /dev/root rw";
        let expected = Mount {
            id: 36,
            device: "98:0".into(),
            root: b"/a b".to_vec(),
            point: br"/mnt\x".to_vec(),
            fs_type: "ext3".into(),
            source: b"/dev/root".to_vec(),
            options: "rw".into(),
        };
        assert_eq!(parse_line(line), Some(expected));
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"x y"), None);
        assert_eq!(parse_fdinfo("pos:\t0\nflags:\t012\nmnt_id:\t29\n"), Some(29));
    }

    #[test]
    fn compares_whole_components() {
        for (path, base, expected) in [
            ("/a/b", "/a", Some("b")),
            ("/a", "/a", Some("")),
            ("/ab", "/a", None),
            ("/a", "/", Some("a")),
            ("/", "/", Some("")),
            ("/b", "/a", None),
        ] {
            assert_eq!(below(path.as_bytes(), base.as_bytes()), expected.map(str::as_bytes), "{path} {base}");
        }
    }
}
