//! Files that leave their host only replaced or masked.
//!
//! Such a file is read whole, made what it shall be, and served from memory, so that every answer about it, digests
//! and ranges too, is about what the destination gets. Whoever asks for a path decides nothing: the rules of the
//! signed ticket do, also for a path that no manifest ever named.

use std::sync::Arc;

use common::mask::Unmaskable;
use common::rel_path::RelPath;
use common::sanitize::MASKED_BYTES_MAX;
use sync::sanitize::{Sanitizer, Treatment};
use sync::stamp::Stamp;
use sync::wire::content::{Layout, Why};
use tree::ReadFile;

use crate::scan::look::stamp_of;
use crate::serve::read;

/// One file as it is served.
#[derive(Debug)]
pub(super) struct Sanitized {
    /// The file as it was while it was read, with the size of what is served.
    pub(super) stamp: Stamp,
    pub(super) content: Vec<u8>,
}

/// What a thread knows of the file that it served last: the ranges of one file are asked for one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    sanitizer: Arc<Sanitizer>,
    last: Option<(RelPath, Stamp, Arc<Sanitized>)>,
}

impl Reader {
    pub(super) fn new(sanitizer: Arc<Sanitizer>) -> Self {
        Self { sanitizer, last: None }
    }

    /// Returns what is done to a path.
    pub(super) fn treatment(&self, path: &RelPath) -> Treatment {
        self.sanitizer.treatment_of(path)
    }

    /// Returns a file as it is served; `is_fresh` asks for one that is read now.
    ///
    /// # Errors
    /// When it cannot be read, keeps changing, or cannot be masked: then nothing of it is served.
    pub(super) fn read(
        &mut self,
        path: &RelPath,
        treatment: &Treatment,
        file: &ReadFile,
        is_fresh: bool,
    ) -> Result<Arc<Sanitized>, Why> {
        let raw = stamp_of(file.opened());
        if let Some((known, stamp, sanitized)) = &self.last
            && !is_fresh
            && known == path
            && *stamp == raw
        {
            return Ok(Arc::clone(sanitized));
        }
        self.last = None;
        let (stamp, content) = match treatment {
            Treatment::Kept | Treatment::Dropped(_) => return Err(Why::Vanished),
            Treatment::Replaced(number) => (raw, self.sanitizer.replacement(*number).to_vec()),
            Treatment::Masked(numbers) => self.masked(numbers, file)?,
        };
        let raw = stamp;
        let stamp = Stamp { size: content.len() as u64, ..raw };
        let sanitized = Arc::new(Sanitized { stamp, content });
        self.last = Some((path.clone(), raw, Arc::clone(&sanitized)));
        Ok(sanitized)
    }

    fn masked(&self, numbers: &[usize], file: &ReadFile) -> Result<(Stamp, Vec<u8>), Why> {
        let size = file.opened().size;
        if size > MASKED_BYTES_MAX {
            let why = format!("it has {size} bytes, and at most {MASKED_BYTES_MAX} can be masked");
            return Err(Why::Unmaskable { why });
        }
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read::Whole { stamp, layout, digest: _ } = read::whole(file, MASKED_BYTES_MAX, &mut content)?;
        let masked = match layout {
            Layout::Dense => self.sanitizer.mask(numbers, &mut content),
            // Holes read as zeros, which no text has.
            Layout::Sparse(_) => Err(Unmaskable::Binary),
        };
        masked.map_err(|error| Why::Unmaskable { why: error.to_string() })?;
        Ok((stamp, content))
    }
}
