//! Temporary files without a name, in the agent's state directory: for what is too much for memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

/// Makes a file that vanishes when it is closed.
pub(crate) fn temporary(directory: &Path) -> io::Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Some file systems (overlays, network) have no nameless files.
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("spill-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Writes one name with a number beside it.
pub(crate) fn write_name(to: &mut impl Write, name: &[u8], number: u64) -> io::Result<()> {
    let length = u16::try_from(name.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&number.to_le_bytes())?;
    to.write_all(name)
}

/// Reads what [`write_name`] wrote; nothing at the end.
pub(crate) fn read_name(from: &mut impl Read) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut head = [0; 10];
    match from.read(&mut head[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut head[1..])?,
    }
    let [a, b, number @ ..] = head;
    let mut name = vec![0; usize::from(u16::from_le_bytes([a, b]))];
    from.read_exact(&mut name)?;
    Ok(Some((name, u64::from_le_bytes(number))))
}
