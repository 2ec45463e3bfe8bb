//! Side-cars of partial large files: which ranges were written and matched, for the attempt that goes on from there.
//!
//! One is a head that says what the file is a copy of, and one record for each range. It never claims what is not there,
//! as long as the machine runs; after a reboot every recorded range is read again before it counts.

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::cursor::Cursor;
use sync::range::{self, ChainingValue};
use sync::stamp::Stamp;
use tree::{AppendFile, Dir, Name, NewFile};

use crate::frame_file::{FrameReader, encode};
use crate::trouble::of_stage;

const VERSION: u32 = 1;

/// What a side-car is made of.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Head { version: u32, path: RelPath, stamp: Stamp, boot_id: String, ino: u64 },
    Proven { index: u64, value: ChainingValue },
}

/// Returns the name of a partial file's side-car.
pub(super) fn name_of(name: &Name) -> Name {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend_from_slice(b".ranges");
    Name::new(bytes).expect("a name of ours with a suffix is a name")
}

/// Notes a range that was written and has this value.
pub(super) fn note(sidecar: &mut AppendFile, index: u64, value: ChainingValue) -> Result<(), Failure> {
    let mut frame = Vec::new();
    encode(&Record::Proven { index, value }, &mut frame)?;
    sidecar.append(&frame).map_err(|error| of_stage(&error))?;
    Ok(())
}

/// Begins the side-car of a file that is to be a copy of this state.
pub(super) fn begin(
    large: &Dir,
    name: &Name,
    boot_id: &str,
    path: &RelPath,
    stamp: Stamp,
    file: &NewFile,
) -> Result<AppendFile, Failure> {
    let stat = file.stat().map_err(|error| of_stage(&error))?;
    let head = Record::Head {
        version: VERSION,
        path: path.clone(),
        stamp,
        boot_id: boot_id.to_owned(),
        ino: stat.ino,
    };
    let mut frame = Vec::new();
    encode(&head, &mut frame)?;
    let mut sidecar = large.create_append(name).map_err(|error| of_stage(&error))?;
    sidecar.append(&frame).map_err(|error| of_stage(&error))?;
    Ok(sidecar)
}

/// Opens what an earlier attempt left; nothing if it is of another file, or of another state of it.
pub(super) fn resume(
    large: &Dir,
    this_boot: &str,
    name: &Name,
    wanted: &RelPath,
    now: Stamp,
    proceed: &dyn Fn() -> Result<(), Failure>,
) -> Result<Option<(NewFile, Cursor, AppendFile)>, Failure> {
    let sidecar = match large.open_append(&name_of(name)) {
        Ok(sidecar) => sidecar,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(of_stage(&error)),
    };
    let mut reader = FrameReader::<Record>::forwards(sidecar, 0);
    let Some(Record::Head { version: VERSION, path, stamp, boot_id, ino }) = reader.next()? else {
        return Ok(None);
    };
    if path != *wanted || stamp != now {
        return Ok(None);
    }
    let dev = large.stat_self().map_err(|error| of_stage(&error))?.dev;
    let file = match large.open_existing_for_write(name, dev, ino) {
        Ok(file) => file,
        Err(error) if error.is_not_found() || error.is_replaced() => return Ok(None),
        Err(error) => return Err(of_stage(&error)),
    };
    let mut cursor = new_cursor(now.size)?;
    while let Some(record) = reader.next()? {
        if let Record::Proven { index, value } = record {
            cursor.mark(index, value);
        }
    }
    let whole_bytes = reader.offset();
    let mut sidecar = reader.into_file();
    sidecar.truncate(whole_bytes).map_err(|error| of_stage(&error))?;
    if boot_id != this_boot {
        read_again(&file, &mut cursor, proceed)?;
    }
    Ok(Some((file, cursor, sidecar)))
}

/// Forgets ranges that are not on the disk as they were recorded: the machine was down since.
fn read_again(
    file: &NewFile,
    cursor: &mut Cursor,
    proceed: &dyn Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for index in 0..range::count(cursor.size()) {
        proceed()?;
        let (Some(value), Some(bounds)) = (cursor.value(index), range::bounds(cursor.size(), index)) else {
            continue;
        };
        buffer.resize(usize::try_from(bounds.end - bounds.start).unwrap_or(0), 0);
        let count = file.read_at(&mut buffer, bounds.start).map_err(|error| of_stage(&error))?;
        if count < buffer.len() || range::chaining_value(index, &buffer) != value {
            cursor.forget(index);
        }
    }
    Ok(())
}

/// Returns the cursor of a file of this size.
pub(super) fn new_cursor(size: u64) -> Result<Cursor, Failure> {
    Cursor::new(size).map_err(|error| Failure::of(FailureKind::Unsupported, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 6 * 1024 * 1024 + 77;

    #[test]
    fn fixtures_of_side_cars_are_read() {
        let time = sync::stamp::Time { seconds: 1_700_000_000, nanos: 3 };
        let head = Record::Head {
            version: 1,
            path: RelPath::root().join(b"large").unwrap(),
            stamp: Stamp { ino: 7, size: SIZE, mtime: time, ctime: time },
            boot_id: "boot".to_owned(),
            ino: 9,
        };
        let proven = Record::Proven { index: 3, value: ChainingValue([7; 32]) };
        crate::fixture_test::frames("side-car.frames", &[head, proven]);
    }
}
