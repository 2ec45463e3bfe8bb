//! A new directory that is filled in the stage before it gets its name, so that one rename brings it with its files.
//!
//! Whoever is going to bring a file of it holds a [`Seat`]; whoever has the file's content takes the seat and makes the
//! file in the directory, under its last name, as long as the directory is still in the stage. The committer closes it,
//! takes in what was begun until then, and lets directory and files land in one group: their intents are recorded before
//! the rename, like those of everything else. Files that come later are staged one by one.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tree::{Dir, Name, TreeError};

/// Directories that are held open for it by one pass: a descriptor is a scarce thing.
const HELD_MAX: usize = 128;

/// How many directories a pass holds for this.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<AtomicUsize>);

/// A directory in the stage that is being filled.
#[derive(Debug)]
pub(crate) struct Assembly {
    bench: Dir,
    name: Name,
    held: Held,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Once there is something in it.
    dir: Option<Dir>,
    /// Files that were promised, and of which it is not known yet what becomes of them.
    seats: usize,
    /// Files that were begun in it.
    begun: usize,
    /// Nothing more will be promised.
    is_sealed: bool,
    /// Nothing more is begun in it.
    is_closed: bool,
    /// It has got its name.
    is_live: bool,
}

/// The promise of one file.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Assembly>);

impl Assembly {
    /// Has a directory of the stage filled.
    pub(crate) fn new(bench: Dir, name: Name, held: Held) -> Arc<Self> {
        Arc::new(Self { bench, name, held, state: Mutex::default() })
    }

    /// Promises a file.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        self.lock().seats += 1;
        Seat(Arc::clone(self))
    }

    /// Notes that no further file will be promised.
    pub(crate) fn seal(&self) {
        self.lock().is_sealed = true;
    }

    /// Whether all that was promised has come, or will not.
    pub(crate) fn is_complete(&self) -> bool {
        let state = self.lock();
        state.is_sealed && state.seats == 0
    }

    /// Has nothing more begun in it.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Whether nothing more may be begun in it.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Returns how many files were begun in it and not given up.
    pub(crate) fn begun(&self) -> usize {
        self.lock().begun
    }

    /// Returns the directory, once there is something in it.
    pub(crate) fn dir(&self) -> Option<Dir> {
        self.lock().dir.clone()
    }

    /// Notes that the directory has got its name, and what is in it with it.
    pub(crate) fn set_live(&self) {
        self.lock().is_live = true;
    }

    /// Whether what was begun in it stands where it shall.
    pub(crate) fn is_live(&self) -> bool {
        self.lock().is_live
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        if self.lock().dir.is_some() {
            self.held.0.fetch_sub(1, Relaxed);
        }
    }
}

impl Seat {
    /// Returns the directory to make the file in, if it is still in the stage; then the file counts as begun.
    pub(crate) fn take(&self) -> Result<Option<Dir>, TreeError> {
        let Assembly { bench, name, held, state: _ } = self.0.as_ref();
        let mut state = self.0.lock();
        if state.is_closed {
            return Ok(None);
        }
        let dir = match &state.dir {
            Some(dir) => dir.clone(),
            None if held.0.fetch_add(1, Relaxed) >= HELD_MAX => {
                held.0.fetch_sub(1, Relaxed);
                return Ok(None);
            }
            None => match bench.open_dir(name) {
                Ok(dir) => state.dir.insert(dir).clone(),
                Err(error) => {
                    held.0.fetch_sub(1, Relaxed);
                    return Err(error);
                }
            },
        };
        state.begun += 1;
        Ok(Some(dir))
    }

    /// Takes back a begun file that could not be made, once nothing is left of it.
    pub(crate) fn give_back(&self) {
        self.0.lock().begun -= 1;
    }

    /// Returns where it is.
    pub(crate) fn assembly(&self) -> &Arc<Assembly> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().seats -= 1;
    }
}
