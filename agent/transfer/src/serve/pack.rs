//! Gathering small files to packs.

use sync::pack::{PACK_BYTES_MAX, PACK_FILES_MAX};
use sync::wire::content::{Coding, Pack, PackedFile};

use crate::buffer::{Buffer, Buffers};

/// A pack that is being filled.
#[derive(Debug)]
pub(super) struct OpenPack {
    pub(super) files: Vec<PackedFile>,
    pub(super) content: Buffer,
    buffers: Buffers,
}

impl OpenPack {
    pub(super) fn new(buffers: &Buffers) -> Self {
        Self { files: Vec::new(), content: buffers.take(), buffers: buffers.clone() }
    }

    /// Whether a file that takes so many bytes must go to the next pack.
    pub(super) fn is_full_for(&self, bytes: u64) -> bool {
        let room = PACK_BYTES_MAX.saturating_sub(self.content.len());
        self.files.len() >= PACK_FILES_MAX || usize::try_from(bytes).map_or(true, |bytes| bytes > room)
    }

    /// Takes the pack, not compressed yet; nothing when it is empty.
    pub(super) fn take(&mut self) -> Option<(Pack, Buffer)> {
        if self.files.is_empty() {
            return None;
        }
        let files = std::mem::take(&mut self.files);
        let content = std::mem::replace(&mut self.content, self.buffers.take());
        let bytes = content.len();
        Some((Pack { files, coding: Coding::Plain, stored_bytes: bytes, content_bytes: bytes }, content))
    }
}
