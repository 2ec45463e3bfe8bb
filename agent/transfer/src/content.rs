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

/// Reads a file whole; past the page cache when asked.
pub(crate) fn read(root: &Dir, path: &RelPath, drops_cache: bool) -> Result<Read, TreeError> {
    let (parent, name) = path.split().unwrap_or_default();
    let name = Name::new(name).expect("a file has a name");
    let file = root.open_beneath(parent.as_bytes())?.open_file(&name)?;
    let size = file.opened().size;
    if drops_cache {
        file.drop_cache(0..size);
    }
    file.advise_sequential();
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES)).max(1)];
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(Read { digest: Digest::from(hasher.finalize()), stat: file.stat()? })
}
