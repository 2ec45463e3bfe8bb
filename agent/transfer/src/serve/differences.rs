//! Comparing a range with what the destination has of it.

use sync::pack;
use sync::range::{self, ChainingValue};
use sync::wire::content::Layout;
use sync::wire::delta::{Basis, Form, Sample};

use crate::delta::{blocks, rolling, samples};

/// What a comparison gave.
#[derive(Debug)]
pub(crate) enum Found {
    /// What differs was written down.
    Differences {
        /// In which form.
        form: Form,
        /// The chaining value of the whole range.
        value: ChainingValue,
    },
    /// Too little is where it was looked for; perhaps it is elsewhere.
    Unlike(Vec<Sample>),
    /// Nothing by which less would have to be sent.
    Nothing,
}

/// Compares a range, whose data is `content`, with a basis; what differs is appended to `changed`.
pub(crate) fn find(
    index: u64,
    layout: &Layout,
    length: u32,
    content: &[u8],
    basis: &Basis,
    changed: &mut Vec<u8>,
) -> Found {
    let length = length as usize;
    // Of a range that is mostly holes there is little to send.
    if content.len() < length / 2 {
        return Found::Nothing;
    }
    let with_holes = match layout {
        Layout::Dense => None,
        Layout::Sparse(_) => Some(expanded(layout, length, content)),
    };
    let whole = with_holes.as_deref().unwrap_or(content);
    let form = match basis {
        Basis::Blocks(hashes) => {
            let (same, has_moved) = blocks::compare(whole, hashes);
            if has_moved {
                return Found::Unlike(samples::take(whole));
            }
            blocks::missing(whole, &same, changed);
            Form::Blocks(same)
        }
        Basis::Rolling(entries) => match rolling::diff(entries, whole, changed) {
            Some(()) => Form::Rolling,
            None => return Found::Nothing,
        },
    };
    Found::Differences { form, value: range::chaining_value(index, whole) }
}

/// Returns a range with zeros where its holes are.
fn expanded(layout: &Layout, length: usize, content: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; length];
    for (offset, piece) in pack::pieces(layout, length, content) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(place) = start.checked_add(piece.len()).and_then(|end| whole.get_mut(start..end)) {
            place.copy_from_slice(piece);
        }
    }
    whole
}
