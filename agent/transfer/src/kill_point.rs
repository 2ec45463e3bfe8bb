//! Where a test may stop everything, as `kill -9` would: between any two effects.

use common::failure::Failure;

/// Passed before every effect. Outside of tests it is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct KillPoint {
    #[cfg(test)]
    remaining: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
}

impl KillPoint {
    /// Stops at the effect with this number, counted from zero.
    #[cfg(test)]
    pub(crate) fn at(number: i64) -> Self {
        Self { remaining: Some(std::sync::Arc::new(number.into())) }
    }

    /// Whether something was stopped here.
    #[cfg(test)]
    pub(crate) fn was_hit(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        self.remaining.as_ref().is_some_and(|remaining| remaining.load(SeqCst) < 0)
    }

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
