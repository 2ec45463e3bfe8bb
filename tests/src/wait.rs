//! Waiting for a condition with a deadline; the only place in the tests that lets time pass.

use std::time::Duration;

use common::clock;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value.
///
/// # Panics
/// When it has given none by the deadline; `what` says what was waited for.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = clock::boot();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(clock::boot().since(begun) < deadline, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(POLL);
    }
}
