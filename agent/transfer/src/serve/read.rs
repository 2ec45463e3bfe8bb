//! Reading files that somebody may be writing to.
//!
//! A whole read is believed when the file's stamp is the same before and after. One that only grew meanwhile is
//! believed at its size before when a second read of those bytes gives the same digest, as for a log that is appended
//! to. Anything else is read again, three times in all; then it is "changed".
//!
//! A call that writes sets the times when it begins, so one that is still under way shows in no stamp. Hence a file
//! that was changed a moment ago is believed only when a second read agrees, too.

use sync::pack::LayoutBuilder;
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Layout, Why};
use tree::{ReadFile, TreeError};

use crate::scan::look::{describe, stamp_of};
use crate::serve;

/// Reads of one file before it counts as changing.
const READS_MAX: u32 = 3;
/// How long a call that writes may be under way, at the usual sizes, with much to spare.
const RECENT_S: u32 = 2;
/// Read at once where only the digest is wanted.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;

/// The result of one read of a state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) stamp: Stamp,
    pub(super) layout: Layout,
    pub(super) digest: [u8; 32],
}

/// Appends a small file's data to `content`.
///
/// # Errors
/// When it keeps changing, is larger than `bytes_max` by now, or cannot be read; then `content` is as it was.
pub(super) fn whole(file: &ReadFile, bytes_max: u64, content: &mut Vec<u8>) -> Result<Whole, Why> {
    let start = content.len();
    let read = stable(file, |stamp| {
        content.truncate(start);
        if stamp.size > bytes_max {
            return Err(Why::Changed { stamp: Some(stamp) });
        }
        let length = u32::try_from(stamp.size).or(Err(Why::Changed { stamp: Some(stamp) }))?;
        let layout = data(file, 0, length, content).map_err(|error| unreadable(&error))?;
        let Some(layout) = layout else { return Ok(None) };
        let digest = sync::pack::content_digest(&layout, length as usize, &content[start..]);
        Ok(Some((layout, digest)))
    });
    match read {
        Ok((stamp, (layout, digest))) => Ok(Whole { stamp, layout, digest }),
        Err(why) => {
            content.truncate(start);
            Err(why)
        }
    }
}

/// Computes the digest of a file of any size; `proceed` is told of every piece and may stop it.
///
/// # Errors
/// As [`whole`], and nothing when it was stopped.
pub(super) fn digest(
    file: &ReadFile,
    buffer: &mut Vec<u8>,
    mut proceed: impl FnMut(usize) -> bool,
) -> Option<Result<(Stamp, [u8; 32]), Why>> {
    let mut is_stopped = false;
    let read = stable(file, |stamp| {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        // Not more than the file needs: filling a mebibyte costs more than reading a small file.
        buffer.resize(usize::try_from(stamp.size).unwrap_or(PIECE_BYTES).min(PIECE_BYTES), 0);
        while at < stamp.size {
            let wanted = usize::try_from(stamp.size - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let count = file.read_at(&mut buffer[..wanted], at).map_err(|error| unreadable(&error))?;
            if count < wanted {
                return Ok(None);
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
            if !proceed(count) {
                is_stopped = true;
                return Err(Why::Vanished);
            }
        }
        Ok(Some(((), *hasher.finalize().as_bytes())))
    });
    (!is_stopped).then(|| read.map(|(stamp, ((), digest))| (stamp, digest)))
}

/// Reads until two looks at the file agree. `read` gets the stamp to read under and returns nothing when the file was
/// cut meanwhile.
fn stable<T>(
    file: &ReadFile,
    mut read: impl FnMut(Stamp) -> Result<Option<(T, [u8; 32])>, Why>,
) -> Result<(Stamp, (T, [u8; 32])), Why> {
    let mut before = stamp_of(file.opened());
    for _ in 0..READS_MAX {
        let found = read(before)?;
        let after = stamp_of(&file.stat().map_err(|error| unreadable(&error))?);
        match found {
            Some(found) if after == before && !is_recent(&before, serve::now()) => {
                return Ok((before, found));
            }
            Some((_, digest)) if before.may_have_grown_into(&after) => {
                // The second read is of the same bytes, whatever came behind them.
                if let Some(second) = read(before)?
                    && second.1 == digest
                {
                    return Ok((before, second));
                }
            }
            Some(_) | None => {}
        }
        before = stamp_of(&file.stat().map_err(|error| unreadable(&error))?);
    }
    Err(Why::Changed { stamp: Some(before) })
}

/// Whether somebody may still have been writing at this time to a file whose times are these.
///
/// Only the change time tells: whatever writes sets it, and nobody else can. The other one may lie in the future for
/// good.
pub(super) fn is_recent(stamp: &Stamp, at: Time) -> bool {
    stamp.ctime >= at.seconds_earlier(RECENT_S)
}

/// Appends the data of a part of a file to `content` and says where it is; nothing when the file ends before.
///
/// # Errors
/// When reading fails.
pub(super) fn data(
    file: &ReadFile,
    start: u64,
    length: u32,
    content: &mut Vec<u8>,
) -> Result<Option<Layout>, TreeError> {
    let layout = layout(file, start, length)?;
    let extents = match &layout {
        Layout::Dense => &[sync::wire::content::Extent { offset: 0, length }][..],
        Layout::Sparse(extents) => extents,
    };
    for extent in extents {
        let at = content.len();
        content.resize(at + extent.length as usize, 0);
        let count = file.read_at(&mut content[at..], start + u64::from(extent.offset))?;
        if count < extent.length as usize {
            return Ok(None);
        }
    }
    Ok(Some(layout))
}

/// Asks where in a part of a file data is.
fn layout(file: &ReadFile, start: u64, length: u32) -> Result<Layout, TreeError> {
    if !file.opened().is_sparse() {
        return Ok(Layout::Dense);
    }
    let end = start + u64::from(length);
    let mut builder = LayoutBuilder::default();
    let mut at = start;
    while at < end {
        let Some(found) = file.next_data(at)? else { break };
        let (from, to) = (found.start.clamp(at, end), found.end.min(end));
        if from >= to {
            break;
        }
        let offset = |position: u64| u32::try_from(position - start).unwrap_or(length);
        builder.push(offset(from), offset(to) - offset(from));
        at = to;
    }
    Ok(builder.finish(length))
}

/// Returns the reason that the destination is told.
pub(super) fn unreadable(error: &TreeError) -> Why {
    Why::Unreadable { why: describe(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_the_last_seconds_are_recent_whatever_the_files_own_time() {
        let time = |seconds| Time { seconds, nanos: 5 };
        let stamp = |mtime, ctime| Stamp { ino: 1, size: 1, mtime: time(mtime), ctime: time(ctime) };
        assert!(!is_recent(&stamp(97, 97), time(100)));
        assert!(is_recent(&stamp(98, 98), time(100)));
        // An old time that was set a moment ago.
        assert!(is_recent(&stamp(5, 100), time(100)));
        assert!(is_recent(&stamp(5, 900), time(100)));
        assert!(!is_recent(&stamp(900, 97), time(100)));
    }
}
