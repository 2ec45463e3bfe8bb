//! Being told what changes in directories, by inotify.
//!
//! A watch stands on the directory that is held, whatever it is called later. What it tells are hints: stores through
//! mappings, changes by other names of an inode, and changes on another machine do not show.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Context, Result};
use crate::kernel::ProcPath;

/// Room for a hundred events or more at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Watches on directories.
#[derive(Debug)]
pub struct Watcher {
    events: OwnedFd,
}

/// A watch, as its events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(i32);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Something about a name of a watched directory changed.
    Name {
        /// The directory.
        watch: WatchId,
        /// The name.
        name: Vec<u8>,
        /// Whether a directory has come to this name, with all that it may hold, or went.
        is_other_directory: bool,
    },
    /// The watch has ended: its directory is gone.
    Ended(WatchId),
    /// The kernel's queue was full, and what came then is lost.
    Overflowed,
    /// The file system of a watched directory was taken away.
    Unmounted,
}

impl Watcher {
    /// Makes one without watches.
    ///
    /// # Errors
    /// When the user has too many of them.
    pub fn new() -> io::Result<Self> {
        Ok(Self { events: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)? })
    }

    /// Watches the names of a directory; the same directory keeps its watch.
    ///
    /// # Errors
    /// When there are too many watches, or the directory may not be read.
    pub fn add(&self, directory: &Dir) -> Result<WatchId> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        // `/proc/self/fd/N` is a link, which is followed to the directory that is held.
        let path = ProcPath::new(directory.fd()).on_self("watch directory")?;
        inotify::add_watch(&self.events, path.as_c_str(), flags).map(WatchId).on_self("watch directory")
    }

    /// Returns the events that wait; none when there are none now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self) -> io::Result<Vec<WatchEvent>> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.extend(told(&event)),
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }
}

fn told(event: &inotify::Event<'_>) -> Option<WatchEvent> {
    let (watch, events) = (WatchId(event.wd()), event.events());
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(WatchEvent::Overflowed);
    }
    if events.contains(ReadFlags::UNMOUNT) {
        return Some(WatchEvent::Unmounted);
    }
    if events.contains(ReadFlags::IGNORED) {
        return Some(WatchEvent::Ended(watch));
    }
    // What is told of the directory itself is told of its name in the one above, too.
    let name = event.file_name()?.to_bytes().to_vec();
    let other = ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE;
    let is_other_directory = events.contains(ReadFlags::ISDIR) && events.intersects(other);
    Some(WatchEvent::Name { watch, name, is_other_directory })
}
