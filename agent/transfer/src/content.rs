//! Reading content at the destination.

use common::digest::Digest;
use common::rel_path::RelPath;
use tree::{Dir, Name, Stat, TreeError};

/// Read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What reading a file gave.
#[derive(Debug)]
pub(crate) struct Read {
    /// BLAKE3 over its bytes.
    pub(crate) digest: Digest,
    /// The file after the read.
    pub(crate) stat: Stat,
}

/// Reads a file whole, past the page cache when asked; nothing if `proceed`, which is asked now and then, says no.
///
/// What is appended meanwhile is left out, so reading ends however fast the file grows; the stat tells of it.
pub(crate) fn read(
    root: &Dir,
    path: &RelPath,
    drops_cache: bool,
    proceed: impl Fn() -> bool,
) -> Result<Option<Read>, TreeError> {
    let (parent, name) = path.split().unwrap_or_default();
    let name = Name::new(name).expect("a file has a name");
    let file = root.open_beneath(parent.as_bytes())?.open_file(&name)?;
    let size = file.opened().size;
    if drops_cache {
        file.drop_cache(0..size);
    }
    file.advise_sequential();
    let at_most = |bytes: u64| usize::try_from(bytes).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
    let mut buffer = vec![0; at_most(size)];
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < size {
        if !proceed() {
            return Ok(None);
        }
        match file.read_at(&mut buffer[..at_most(size - offset)], offset)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(Some(Read { digest: Digest::from(hasher.finalize()), stat: file.stat()? }))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;

    use tree::Root;

    use super::*;

    #[test]
    fn a_file_that_grows_is_read_to_where_it_ended_and_a_stop_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![7; 3 * BUFFER_BYTES + 5];
        std::fs::write(folder.path().join("log"), &content).unwrap();
        let mut log = std::fs::File::options().append(true).open(folder.path().join("log")).unwrap();
        let (root, path) = (Root::open(folder.path()).unwrap().dir(), RelPath::root().join(b"log").unwrap());
        let grow = || (&log).write_all(&content).is_ok();
        let read_whole = read(&root, &path, false, grow).unwrap().unwrap();
        assert_eq!(read_whole.digest, Digest::of(&content));
        assert!(read_whole.stat.size > content.len() as u64);
        log.flush().unwrap();
        let asked = Cell::new(0);
        let twice = || asked.replace(asked.get() + 1) < 2;
        assert!(read(&root, &path, false, twice).unwrap().is_none());
        assert_eq!(asked.get(), 3);
    }
}
