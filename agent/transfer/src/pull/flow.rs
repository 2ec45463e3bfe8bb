//! What is asked for and not committed yet: bounded, and the place where a pass learns that it has failed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::limit::IN_FLIGHT_BYTES_MAX;
use common::rel_path::RelPath;
use sync::entry::Entry;
use sync::wire::content::OUTSTANDING_MAX;

/// What may always be in flight, so that small trees move at all.
const BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Which part of what is known may be in flight: an interruption costs less than ten percent of a tree.
const PART_OF_KNOWN: u64 = 20;
/// What a file weighs beside its bytes: its inode, its record and its place in a group, with the paths and attributes
/// that are usual.
const FILE_BYTES: u64 = 1024;
/// What paths and attributes of items on their way to the committer may take, beyond what is usual: an entry may have a
/// mebibyte of them. Each item holds
/// up to five copies.
const HELD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long the first group waits for the end of the source's scan: some million entries. A tree that takes longer lands
/// meanwhile, and that it does not fit is said when it is known.
const HELD_MAX: Duration = Duration::from_secs(60);

/// What the cursors of all large files under way may take together, unless it is one file alone.
const CURSOR_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The budget of a pass and its first failure.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    count: usize,
    known_bytes: u64,
    cursor_bytes: u64,
    /// Items on their way to the committer, also those that weigh nothing.
    items: usize,
    /// What these hold beyond what is usual.
    held_bytes: u64,
    waiting: usize,
    /// Whether nothing may be committed yet.
    is_held: bool,
    failure: Option<Failure>,
}

impl State {
    fn limit(&self) -> u64 {
        (self.known_bytes / PART_OF_KNOWN).clamp(BYTES_MIN, IN_FLIGHT_BYTES_MAX)
    }
}

impl Flow {
    /// Takes room for something that will be committed, waiting until there is some.
    ///
    /// # Errors
    /// When the pass has failed.
    pub(crate) fn acquire(&self, bytes: u64) -> Result<(), Failure> {
        let mut state = self.wait_while(|state| {
            let is_full = state.bytes + bytes + FILE_BYTES > state.limit();
            state.count > 0 && (state.count >= OUTSTANDING_MAX || is_full)
        })?;
        state.bytes += bytes + FILE_BYTES;
        state.count += 1;
        Ok(())
    }

    /// Takes room for the cursor of a large file, waiting until there is some.
    ///
    /// # Errors
    /// When the pass has failed.
    pub(crate) fn acquire_cursor(self: &Arc<Self>, bytes: u64) -> Result<CursorRoom, Failure> {
        let mut state = self.wait_while(|state| {
            state.cursor_bytes > 0 && state.cursor_bytes.saturating_add(bytes) > CURSOR_BYTES_MAX
        })?;
        state.cursor_bytes = state.cursor_bytes.saturating_add(bytes);
        Ok(CursorRoom { flow: Arc::clone(self), bytes })
    }

    /// Gives room back.
    pub(crate) fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes + FILE_BYTES);
        state.count = state.count.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that an item goes to the committer, once there is room for what it holds.
    ///
    /// # Errors
    /// When the pass has failed.
    pub(crate) fn send(&self, held_bytes: u64) -> Result<(), Failure> {
        let mut state = self.wait_while(|state| {
            let is_full = state.held_bytes.saturating_add(held_bytes) > HELD_BYTES_MAX;
            held_bytes > 0 && state.held_bytes > 0 && is_full
        })?;
        state.items += 1;
        state.held_bytes = state.held_bytes.saturating_add(held_bytes);
        Ok(())
    }

    /// Notes that items, with what they hold, were committed, or that it is known why not.
    pub(crate) fn land(&self, items: usize, held_bytes: u64) {
        let mut state = self.lock();
        state.items = state.items.saturating_sub(items);
        state.held_bytes = state.held_bytes.saturating_sub(held_bytes);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until nothing is in flight: what is looked at then is as the pass left it.
    ///
    /// # Errors
    /// When the pass has failed.
    pub(crate) fn wait_until_idle(&self) -> Result<(), Failure> {
        self.wait_while(|state| state.count > 0 || state.items > 0).map(drop)
    }

    /// Has the first group wait until it is known whether all will fit.
    pub(crate) fn hold(&self) {
        self.lock().is_held = true;
    }

    /// Lets groups be committed.
    pub(crate) fn let_go(&self) {
        self.lock().is_held = false;
        self.changed.notify_all();
    }

    /// Waits until groups may be committed.
    ///
    /// # Errors
    /// When the pass has failed.
    pub(crate) fn wait_until_let_go(&self) -> Result<(), Failure> {
        let mut state = self.lock();
        state.waiting += 1;
        let is_held = |state: &mut State| state.is_held && state.failure.is_none();
        let waited = self.changed.wait_timeout_while(state, HELD_MAX, is_held);
        let (mut state, _is_over) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.is_held = false;
        state.failure.clone().map_or(Ok(()), Err)
    }

    /// Notes how many bytes are known of so far.
    pub(crate) fn know(&self, bytes: u64) {
        let mut state = self.lock();
        state.known_bytes = state.known_bytes.saturating_add(bytes);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether somebody waits for room, so that a group should not wait for more.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.lock().waiting > 0
    }

    /// Returns how many bytes one group should commit.
    pub(crate) fn group_bytes(&self) -> u64 {
        self.lock().limit() / 3
    }

    /// Ends the pass; the first failure is kept.
    pub(crate) fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// Returns the failure, if there is one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// # Errors
    /// When the pass has failed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.failure().map_or(Ok(()), Err)
    }

    /// Waits as long as the state is such, and counts as somebody who waits meanwhile.
    fn wait_while(&self, is_so: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, Failure> {
        let mut state = self.lock();
        state.waiting += 1;
        let waited = self.changed.wait_while(state, |state| state.failure.is_none() && is_so(state));
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above leaves whole numbers behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what a path and entries take in memory.
pub(crate) fn held_bytes<'a>(path: &RelPath, entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    let entries = entries.into_iter().map(Entry::encoded_bytes).sum::<usize>();
    (path.as_bytes().len() + entries) as u64
}

/// Returns what of that is beyond what is usual.
pub(crate) fn unusual_bytes<'a>(path: &RelPath, entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    held_bytes(path, entries).saturating_sub(FILE_BYTES)
}

/// Room for the cursor of one large file, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct CursorRoom {
    flow: Arc<Flow>,
    bytes: u64,
}

impl Drop for CursorRoom {
    fn drop(&mut self) {
        let mut state = self.flow.lock();
        state.cursor_bytes = state.cursor_bytes.saturating_sub(self.bytes);
        drop(state);
        self.flow.changed.notify_all();
    }
}

/// Fails the pass when its thread panics, so that no other thread waits for ever.
pub(crate) struct PanicGuard<'a>(pub(crate) &'a Flow);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::new(FailureKind::Bug, "a thread of the file mover panicked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_a_failure_wakes_everybody() {
        let flow = Flow::default();
        for _ in 0..8 {
            flow.acquire(BYTES_MIN / 8 - FILE_BYTES).unwrap();
        }
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flow.acquire(1));
            while !flow.is_waited_for() {
                std::thread::yield_now();
            }
            flow.release(BYTES_MIN / 8 - FILE_BYTES);
            assert_eq!(waiter.join().unwrap(), Ok(()));
            let idle = scope.spawn(|| flow.wait_until_idle());
            while !flow.is_waited_for() {
                std::thread::yield_now();
            }
            let failure = Failure::new(FailureKind::Fenced, "lost");
            flow.fail(failure.clone());
            flow.fail(Failure::new(FailureKind::Bug, "later"));
            assert_eq!(idle.join().unwrap(), Err(failure.clone()));
            assert_eq!(flow.acquire(1), Err(failure));
        });
    }

    #[test]
    fn the_first_group_waits_until_it_may_land_or_the_pass_fails() {
        for failure in [None, Some(Failure::new(FailureKind::Exhausted, "it does not fit"))] {
            let flow = Flow::default();
            flow.hold();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| flow.wait_until_let_go());
                match failure.clone() {
                    Some(failure) => flow.fail(failure),
                    None => flow.let_go(),
                }
                assert_eq!(waiter.join().unwrap().err(), failure);
            });
        }
    }

    #[test]
    fn attributes_on_their_way_are_bounded() {
        let flow = Flow::default();
        // Usual ones weigh nothing.
        for _ in 0..OUTSTANDING_MAX {
            flow.send(0).unwrap();
        }
        flow.send(HELD_BYTES_MAX * 2).unwrap();
        flow.send(0).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flow.send(1));
            while !flow.is_waited_for() {
                std::thread::yield_now();
            }
            flow.land(1, HELD_BYTES_MAX * 2);
            assert_eq!(waiter.join().unwrap(), Ok(()));
        });
        flow.land(OUTSTANDING_MAX + 2, 1);
        assert_eq!(flow.wait_until_idle(), Ok(()));
    }

    #[test]
    fn cursors_wait_for_each_other() {
        let flow = Arc::new(Flow::default());
        let first = flow.acquire_cursor(CURSOR_BYTES_MAX * 2).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flow.acquire_cursor(1).map(drop));
            while !flow.is_waited_for() {
                std::thread::yield_now();
            }
            drop(first);
            assert_eq!(waiter.join().unwrap(), Ok(()));
        });
        assert_eq!(flow.lock().cursor_bytes, 0);
    }

    #[test]
    fn one_thing_larger_than_the_budget_still_goes() {
        let flow = Flow::default();
        flow.acquire(IN_FLIGHT_BYTES_MAX * 2).unwrap();
        flow.release(IN_FLIGHT_BYTES_MAX * 2);
        assert_eq!(flow.wait_until_idle(), Ok(()));
    }
}
