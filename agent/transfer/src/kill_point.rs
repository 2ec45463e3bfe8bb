//! Where a test may stop everything, as `kill -9` would, hold it, or look: between any two effects.
//!
//! A test gives it to a step with the lease ([`crate::LeaseGuard::with_kill_point`]). Neither exists in a build without
//! the feature `kill-points`, which only test suites ask for.

use common::failure::Failure;

use crate::commit::durable::Durable;

/// Passed before every effect. Outside of tests it is nothing.
#[derive(Clone, Debug, Default)]
pub struct KillPoint {
    #[cfg(any(test, feature = "kill-points"))]
    remaining: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
    #[cfg(any(test, feature = "kill-points"))]
    gate: Option<std::sync::Arc<Gate>>,
    #[cfg(test)]
    sync: Sync,
    #[cfg(test)]
    watcher: Option<std::sync::Arc<Watcher>>,
    #[cfg(test)]
    is_other_boot: bool,
}

/// Waits, and asks now and then whether the lease is over, so that nobody need wait any more.
#[cfg(feature = "kill-points")]
type Wait = dyn Fn(&dyn Fn() -> bool) + Send + std::marker::Sync;

/// What every group of this process waits for.
#[cfg(feature = "kill-points")]
static EVERY_GROUP: std::sync::OnceLock<Box<Wait>> = std::sync::OnceLock::new();

/// Has every group of this process wait before it is committed, for tests with real processes; only the first call
/// counts.
#[cfg(feature = "kill-points")]
pub fn before_every_group(wait: impl Fn(&dyn Fn() -> bool) + Send + std::marker::Sync + 'static) {
    EVERY_GROUP.set(Box::new(wait)).ok();
}

/// Told the number of every effect before it is made.
#[cfg(test)]
struct Watcher {
    next: std::sync::atomic::AtomicU64,
    look: Box<dyn Fn(u64) + Send + std::marker::Sync>,
}

#[cfg(test)]
impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("next", &self.next).finish_non_exhaustive()
    }
}

/// How a test has everything synced.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sync {
    #[default]
    AsEver,
    /// File by file.
    ByFile,
    /// Not at all, which a test must notice.
    LeftOut,
}

/// Holds groups until it is opened.
#[cfg(any(test, feature = "kill-points"))]
#[derive(Debug, Default)]
struct Gate {
    is_open: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
    /// Whether a pass has seen both trees.
    #[cfg(test)]
    is_compared: tokio::sync::watch::Sender<bool>,
}

#[cfg(any(test, feature = "kill-points"))]
impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        // One flag is always whole.
        self.is_open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl KillPoint {
    /// Stops at the effect with this number, counted from zero.
    #[cfg(any(test, feature = "kill-points"))]
    #[must_use]
    pub fn at(number: i64) -> Self {
        Self { remaining: Some(std::sync::Arc::new(number.into())), ..Self::default() }
    }

    /// Holds every group before it is committed until [`Self::let_go`], so that a test can act meanwhile and cannot be
    /// overtaken.
    #[cfg(any(test, feature = "kill-points"))]
    #[must_use]
    pub fn held() -> Self {
        Self { gate: Some(std::sync::Arc::default()), ..Self::default() }
    }

    /// Has a test look before every effect.
    #[cfg(test)]
    pub(crate) fn watched(look: impl Fn(u64) + Send + std::marker::Sync + 'static) -> Self {
        let watcher = Watcher { next: 0.into(), look: Box::new(look) };
        Self { watcher: Some(std::sync::Arc::new(watcher)), ..Self::default() }
    }

    /// Has everything synced in another way.
    #[cfg(test)]
    pub(crate) fn with_sync(self, sync: Sync) -> Self {
        Self { sync, ..self }
    }

    /// Works as after a reboot of the machine.
    #[cfg(test)]
    pub(crate) fn after_reboot() -> Self {
        Self { is_other_boot: true, ..Self::default() }
    }

    /// Returns the boot that the machine is in.
    #[cfg(test)]
    pub(crate) fn boot_id(&self, real: String) -> String {
        if self.is_other_boot { format!("{real}-and-another") } else { real }
    }

    /// Returns the boot that the machine is in.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn boot_id(&self, real: String) -> String {
        real
    }

    /// Lets everything pass from now on.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn let_go(&self) {
        if let Some(gate) = &self.gate {
            *gate.lock() = true;
            gate.opened.notify_all();
        }
    }

    /// Waits until a pass that is held has seen both trees to their ends.
    #[cfg(test)]
    pub(crate) async fn compared(&self) {
        if let Some(gate) = &self.gate {
            gate.is_compared.subscribe().wait_for(|is_compared| *is_compared).await.ok();
        }
    }

    /// Tells a test that both trees were seen.
    #[cfg(test)]
    pub(crate) fn tell_compared(&self) {
        if let Some(gate) = &self.gate {
            gate.is_compared.send_replace(true);
        }
    }

    /// Tells nobody.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn tell_compared(&self) {}

    /// Whether something was stopped here.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn was_hit(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        self.remaining.as_ref().is_some_and(|remaining| remaining.load(SeqCst) < 0)
    }

    /// Waits for as long as the test holds groups.
    #[cfg(any(test, feature = "kill-points"))]
    #[cfg_attr(not(feature = "kill-points"), expect(unused_variables, reason = "only that feature asks"))]
    pub(crate) fn hold(&self, is_over: impl Fn() -> bool) {
        #[cfg(feature = "kill-points")]
        if let Some(wait) = EVERY_GROUP.get() {
            wait(&is_over);
        }
        // Bounded, so that a test which fails before it lets go ends.
        const HELD_MAX: std::time::Duration = std::time::Duration::from_secs(120);
        let Some(gate) = &self.gate else { return };
        drop(gate.opened.wait_timeout_while(gate.lock(), HELD_MAX, |is_open| !*is_open));
    }

    /// Holds nothing.
    #[cfg(not(any(test, feature = "kill-points")))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn hold(&self, _is_over: impl Fn() -> bool) {}

    /// Has files synced as the test says.
    #[cfg(test)]
    pub(crate) fn set_sync(&self, durable: &Durable) {
        if self.sync == Sync::ByFile {
            durable.force_by_file(u32::MAX);
        }
    }

    /// Leaves everything as it is.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn set_sync(&self, _durable: &Durable) {}

    /// Whether the test leaves out what makes groups durable.
    #[cfg(test)]
    pub(crate) fn is_sync_left_out(&self) -> bool {
        self.sync == Sync::LeftOut
    }

    /// Nothing is left out.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is something in tests only")]
    pub(crate) fn is_sync_left_out(&self) -> bool {
        false
    }

    /// Passes one effect, unless this is where everything stops; from then on nothing passes.
    #[cfg(any(test, feature = "kill-points"))]
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        use std::sync::atomic::Ordering::SeqCst;
        #[cfg(test)]
        if let Some(watcher) = &self.watcher {
            (watcher.look)(watcher.next.fetch_add(1, SeqCst));
        }
        match &self.remaining {
            Some(remaining) if remaining.fetch_sub(1, SeqCst) <= 0 => {
                Err(Failure::new(common::failure::FailureKind::Bug, "killed by the test"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Passes one effect.
    #[cfg(not(any(test, feature = "kill-points")))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "it is something in tests only")]
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        Ok(())
    }
}
