//! Where a test may stop everything, as `kill -9` would, or hold it: between any two effects.

use common::failure::Failure;

/// Passed before every effect. Outside of tests it is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct KillPoint {
    #[cfg(test)]
    remaining: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
    #[cfg(test)]
    gate: Option<std::sync::Arc<Gate>>,
}

/// Holds groups until it is opened.
#[cfg(test)]
#[derive(Debug, Default)]
struct Gate {
    is_open: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
}

impl KillPoint {
    /// Stops at the effect with this number, counted from zero.
    #[cfg(test)]
    pub(crate) fn at(number: i64) -> Self {
        Self { remaining: Some(std::sync::Arc::new(number.into())), gate: None }
    }

    /// Holds every group before it is committed until [`Self::let_go`], so that a test can act meanwhile and cannot be
    /// overtaken.
    #[cfg(test)]
    pub(crate) fn held() -> Self {
        Self { remaining: None, gate: Some(std::sync::Arc::default()) }
    }

    /// Lets everything pass from now on.
    #[cfg(test)]
    pub(crate) fn let_go(&self) {
        let gate = self.gate.as_ref().unwrap();
        *gate.is_open.lock().unwrap() = true;
        gate.opened.notify_all();
    }

    /// Whether something was stopped here.
    #[cfg(test)]
    pub(crate) fn was_hit(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        self.remaining.as_ref().is_some_and(|remaining| remaining.load(SeqCst) < 0)
    }

    /// Waits for as long as the test holds groups.
    #[cfg(test)]
    pub(crate) fn hold(&self) {
        // Bounded, so that a test which fails before it lets go ends.
        const HELD_MAX: std::time::Duration = std::time::Duration::from_secs(120);
        let Some(gate) = &self.gate else { return };
        let held = gate.is_open.lock().unwrap();
        drop(gate.opened.wait_timeout_while(held, HELD_MAX, |is_open| !*is_open).unwrap());
    }

    /// Holds nothing.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn hold(&self) {}

    /// Passes one effect, unless this is where everything stops; from then on nothing passes.
    #[cfg(test)]
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        use std::sync::atomic::Ordering::SeqCst;
        match &self.remaining {
            Some(remaining) if remaining.fetch_sub(1, SeqCst) <= 0 => {
                Err(Failure::new(common::failure::FailureKind::Bug, "killed by the test"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Passes one effect.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "it is something in tests only")]
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        Ok(())
    }
}
