//! Packs: many small files as one unit, and the layout of data and holes that they share with ranges.

use crate::range::{ChainingValue, RangeHasher};
use crate::wire::content::{Extent, Layout, Pack, PackedFile, RangeReply};

/// Content in one pack; no file that travels whole is larger.
pub const PACK_BYTES_MAX: usize = 1024 * 1024;
/// Files in one pack.
pub const PACK_FILES_MAX: usize = 256;
/// Pieces of data in one file or range; what is more scattered travels as if it had no holes.
pub const EXTENTS_MAX: usize = 256;

/// Returns the files of a pack, each with its data; nothing when the bytes are not those that the pack announces.
pub fn split<'a>(pack: &'a Pack, content: &'a [u8]) -> Option<Vec<(&'a PackedFile, &'a [u8])>> {
    let mut rest = content;
    let mut files = Vec::with_capacity(pack.files.len());
    for file in &pack.files {
        let (data, after) = rest.split_at_checked(file.layout.data_bytes(file.stamp.size)?)?;
        files.push((file, data));
        rest = after;
    }
    rest.is_empty().then_some(files)
}

/// Returns the pieces of data with their places, in order.
///
/// `length` is that of the file or range; a layout that does not fit the data ends the sequence early.
pub fn pieces<'a>(
    layout: &'a Layout,
    length: usize,
    data: &'a [u8],
) -> impl Iterator<Item = (u64, &'a [u8])> {
    let mut rest = data;
    extents(layout, length).map_while(move |extent| {
        let (piece, after) = rest.split_at_checked(usize::try_from(extent.length).ok()?)?;
        rest = after;
        Some((u64::from(extent.offset), piece))
    })
}

/// Returns the BLAKE3 digest of a small file's content, holes read as zeros.
pub fn content_digest(layout: &Layout, length: usize, data: &[u8]) -> [u8; 32] {
    if *layout == Layout::Dense {
        return *blake3::hash(data).as_bytes();
    }
    hash(blake3::Hasher::new(), layout, length, data)
}

/// Returns the proof that whoever computed it has a small file's content: keyed BLAKE3, holes read as zeros.
pub fn content_proof(nonce: &[u8; 32], layout: &Layout, length: usize, data: &[u8]) -> [u8; 32] {
    hash(blake3::Hasher::new_keyed(nonce), layout, length, data)
}

fn hash(mut hasher: blake3::Hasher, layout: &Layout, length: usize, data: &[u8]) -> [u8; 32] {
    walk(layout, length, data, |piece| match piece {
        Piece::Data(bytes) => {
            hasher.update(bytes);
        }
        Piece::Hole(count) => {
            hasher.update(&vec![0; count]);
        }
    });
    *hasher.finalize().as_bytes()
}

/// Returns the chaining value of a range's content, holes read as zeros.
pub fn range_value(range: &RangeReply, data: &[u8]) -> ChainingValue {
    let length = usize::try_from(range.length).unwrap_or(usize::MAX);
    let mut hasher = RangeHasher::new(range.index);
    walk(&range.layout, length, data, |piece| match piece {
        Piece::Data(bytes) => hasher.update(bytes),
        Piece::Hole(count) => hasher.update_zeros(count),
    });
    hasher.finish()
}

/// Returns where data is in a file or range of this length.
pub fn extents(layout: &Layout, length: usize) -> impl Iterator<Item = Extent> {
    let dense = match layout {
        Layout::Dense if length > 0 => {
            Some(Extent { offset: 0, length: u32::try_from(length).unwrap_or(u32::MAX) })
        }
        Layout::Dense | Layout::Sparse(_) => None,
    };
    let sparse: &[Extent] = match layout {
        Layout::Dense => &[],
        Layout::Sparse(extents) => extents,
    };
    dense.into_iter().chain(sparse.iter().copied())
}

enum Piece<'a> {
    Data(&'a [u8]),
    Hole(usize),
}

fn walk(layout: &Layout, length: usize, data: &[u8], mut visit: impl FnMut(Piece<'_>)) {
    let mut at = 0;
    for (offset, bytes) in pieces(layout, length, data) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset > at {
            visit(Piece::Hole(offset - at));
        }
        visit(Piece::Data(bytes));
        at = offset + bytes.len();
    }
    if length > at {
        visit(Piece::Hole(length - at));
    }
}

/// Gathers the extents of one file or range, in order.
#[derive(Debug, Default)]
pub struct LayoutBuilder {
    extents: Vec<Extent>,
    is_scattered: bool,
}

impl LayoutBuilder {
    /// Adds a piece of data; one that touches the last piece is joined with it.
    pub fn push(&mut self, offset: u32, length: u32) {
        if length == 0 {
            return;
        }
        if let Some(last) = self.extents.last_mut()
            && last.offset + last.length == offset
        {
            last.length += length;
            return;
        }
        self.extents.push(Extent { offset, length });
        self.is_scattered |= self.extents.len() > EXTENTS_MAX;
    }

    /// Returns the layout of `length` bytes.
    pub fn finish(self, length: u32) -> Layout {
        let is_whole = matches!(self.extents[..], [Extent { offset: 0, length: all }] if all == length);
        if self.is_scattered || is_whole || length == 0 {
            Layout::Dense
        } else {
            Layout::Sparse(self.extents)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LayoutBuilder, content_digest, pieces, range_value};
    use crate::range::chaining_value;
    use crate::stamp::Stamp;
    use crate::wire::content::{Coding, Layout, RangeReply};

    fn punched() -> impl Strategy<Value = (Vec<u8>, Layout, Vec<u8>)> {
        proptest::collection::vec((1_u32..3000, any::<bool>()), 1..20).prop_map(|runs| {
            let (mut whole, mut data, mut builder) = (Vec::new(), Vec::new(), LayoutBuilder::default());
            for (length, is_data) in runs {
                let start = whole.len();
                whole.resize(start + length as usize, 0);
                if is_data {
                    whole[start..].fill(7);
                    builder.push(u32::try_from(start).unwrap(), length);
                    data.extend_from_slice(&whole[start..]);
                }
            }
            let length = u32::try_from(whole.len()).unwrap();
            (whole, builder.finish(length), data)
        })
    }

    proptest! {
        #[test]
        fn holes_come_back((whole, layout, data) in punched()) {
            let mut copy = vec![0; whole.len()];
            for (offset, piece) in pieces(&layout, whole.len(), &data) {
                let offset = usize::try_from(offset).unwrap();
                copy[offset..offset + piece.len()].copy_from_slice(piece);
            }
            prop_assert_eq!(&copy, &whole);
            prop_assert_eq!(layout.data_bytes(whole.len() as u64), Some(data.len()));
            prop_assert_eq!(content_digest(&layout, whole.len(), &data), *blake3::hash(&whole).as_bytes());
            let range = RangeReply {
                id: 0,
                index: 3,
                stamp: Stamp { ino: 0, size: 0, mtime: crate::stamp::Time::default(), ctime: crate::stamp::Time::default() },
                length: u32::try_from(whole.len()).unwrap(),
                layout,
                value: chaining_value(3, &whole),
                coding: Coding::Plain,
                stored_bytes: data.len(),
            };
            prop_assert_eq!(range_value(&range, &data), range.value);
        }
    }

    #[test]
    fn an_empty_file_and_a_hole_are_told_apart() {
        assert_eq!(LayoutBuilder::default().finish(0), Layout::Dense);
        assert_eq!(LayoutBuilder::default().finish(9), Layout::Sparse(Vec::new()));
        assert_eq!(content_digest(&Layout::Sparse(Vec::new()), 9, &[]), *blake3::hash(&[0; 9]).as_bytes());
        assert_eq!(content_digest(&Layout::Dense, 0, &[]), *blake3::hash(&[]).as_bytes());
    }
}
