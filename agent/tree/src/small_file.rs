//! Small files of ours (markers, side-cars, pointers): read whole, replaced whole.
//!
//! For directories of ours only: the new content is written beside the old one under `<name>.new`, which
//! is taken over if a crash left it.

use crate::dir::Dir;
use crate::error::{Cause, Context, Result};
use crate::name::Name;

const SUFFIX: &[u8] = b".new";
/// So that the name with its suffix stays within 255 bytes.
const STEM_BYTES_MAX: usize = 255 - SUFFIX.len();

impl Dir {
    /// Writes a small file so that after a crash the old content or the new one stands there, durably.
    pub fn write_atomic(&self, name: &Name, content: &[u8], mode: u32) -> Result<()> {
        let temporary = temporary_name(name);
        let file = match self.create_file(&temporary, mode) {
            Err(error) if error.is_exists() => {
                self.unlink(&temporary)?;
                self.create_file(&temporary, mode)?
            }
            other => other?,
        };
        file.write_at(content, 0)?;
        file.sync()?;
        self.rename_over(&temporary, self, name)?;
        self.sync_dir()
    }

    /// Reads a small file whole; one above the limit is an error.
    pub fn read_small(&self, name: &Name, limit_bytes: u64) -> Result<Vec<u8>> {
        let file = self.open_file(name)?;
        let too_large = || Cause::TooLarge { limit_bytes };
        let size = file.opened().size;
        if size > limit_bytes {
            return Err(too_large()).on("read", name);
        }
        let length = usize::try_from(size).map_err(|_too_large| too_large()).on("read", name)?;
        let mut content = vec![0_u8; length];
        let count = file.read_at(&mut content, 0)?;
        content.truncate(count);
        Ok(content)
    }
}

fn temporary_name(name: &Name) -> Name {
    let stem = name.as_bytes();
    let mut bytes = stem[..stem.len().min(STEM_BYTES_MAX)].to_vec();
    bytes.extend_from_slice(SUFFIX);
    Name::new(bytes).expect("a part of a valid name with a suffix is a valid name")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::scratch::{name, on_each_kernel};

    #[test]
    fn replaces_whole_files() {
        on_each_kernel(|scratch| {
            let (dir, long) = (&scratch.dir, name([b'x'; 255]));
            for marker in [&name("marker"), &long] {
                dir.write_atomic(marker, b"one", 0o600).unwrap();
                dir.write_atomic(marker, b"two", 0o600).unwrap();
                assert_eq!(dir.read_small(marker, 3).unwrap(), b"two");
                assert!(dir.read_small(marker, 2).unwrap_err().is_too_large());
                assert_eq!(dir.stat(marker).unwrap().mode, 0o600);
            }
            assert_eq!(dir.list().unwrap().count(), 2);
        });
    }

    /// What a crash, or somebody, left under the temporary name is not written through.
    #[test]
    fn a_planted_temporary_is_replaced() {
        on_each_kernel(|scratch| {
            symlink(scratch.outside.join("victim"), scratch.path.join("marker.new")).unwrap();
            symlink(scratch.outside.join("victim"), scratch.path.join("marker")).unwrap();
            scratch.dir.write_atomic(&name("marker"), b"content", 0o600).unwrap();
            assert_eq!(scratch.dir.read_small(&name("marker"), 100).unwrap(), b"content");
            symlink(scratch.outside.join("victim"), scratch.path.join("other")).unwrap();
            assert!(scratch.dir.read_small(&name("other"), 100).unwrap_err().is_wrong_kind());
        });
    }
}
