//! What an operator changes of a migration while it runs, and its pause.
//!
//! It stands beside the record of the migration in a snapshot, as text, because it grows by fields.

use common::bandwidth::Bandwidth;
use common::clock::WallMs;
use common::control::{ControlChange, MaxLoad, Priority};
use common::view::MigrationStatus;
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::migration::{Migration, WayBack};
use super::refusal::Refusal;
use super::stamp::Stamp;
use crate::saga::status::Change;

/// What an operator said since the migration was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// Since when it is paused; set exactly while it is.
    pub paused: Option<WallMs>,
    /// How fast its source may send, in the place of what the spec says.
    pub bandwidth: Option<Bandwidth>,
    /// Up to which load the source's host is read, in the place of what the spec says.
    pub max_load: Option<MaxLoad>,
    /// Which of those that wait for a place comes first, in the place of what the spec says.
    pub priority: Option<Priority>,
}

impl Migration {
    /// Returns how fast its source may send, as it was said last.
    pub fn bandwidth(&self) -> Option<&Bandwidth> {
        self.control.bandwidth.as_ref().or(self.spec.transfer.bandwidth_limit.as_ref())
    }

    /// Returns up to which load its source's host is read, as it was said last.
    pub fn max_load(&self) -> Option<u32> {
        self.control.max_load.or(self.spec.transfer.max_load)?.hundredths
    }

    /// Returns which of those that wait for a place comes first, as it was said last.
    pub fn priority(&self) -> Priority {
        self.control.priority.unwrap_or(self.spec.transfer.priority)
    }

    /// Changes how it runs, for whatever of it is still to run.
    pub(super) fn set(&mut self, change: ControlChange) -> Result<Vec<Effect>, Refusal> {
        if self.status.is_end() {
            let hint = "what is set holds for one migration; start a new one with the flags of `ctl migrate`";
            return Err(self.refused("it has ended, and nothing of it can be changed", hint));
        }
        if self.status == MigrationStatus::Unwinding {
            return Err(
                self.refused("it is being undone, and nothing of that can be changed", "wait for its end")
            );
        }
        if change.is_empty() {
            return Err(
                self.refused("nothing is to be changed", "say what, as in `ctl set ID --bandwidth 20MiB`")
            );
        }
        let ControlChange { bandwidth_limit, max_load, priority } = change;
        self.control.priority = priority.or(self.control.priority);
        if let Some(max_load) = max_load {
            self.control.max_load = Some(max_load);
        }
        if let Some(bandwidth) = bandwidth_limit {
            self.control.bandwidth = Some(bandwidth);
        }
        Ok(Vec::new())
    }

    /// Holds a migration up: its leases end, and what has landed stays.
    pub(super) fn pause(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        match self.status {
            MigrationStatus::Paused => return Ok(Vec::new()),
            MigrationStatus::Unwinding => {
                return Err(self.refused("it is being undone, and that is not held up", "wait for its end"));
            }
            _ if self.status.is_end() => {
                return Err(self.refused("it has ended", "nothing is left to hold up"));
            }
            _ if matches!(self.way_back, WayBack::Settling(_)) => {
                return Err(self.refused("it has done its work and is ending", "wait for its end"));
            }
            _ => {}
        }
        let effects = self.end_leases(stamp.wall, Change::Lost, "the migration was paused")?;
        self.status = MigrationStatus::Paused;
        self.control.paused = Some(stamp.wall);
        Ok(effects)
    }

    /// Lets a paused migration wait for its turn again, which comes at once where no limit stands against it. The time
    /// of the pause does not count into the time that the whole may take.
    pub(super) fn resume(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        let Some(paused) = self.control.paused else {
            if self.status.is_end() {
                let hint = format!("see `ctl status {}`", self.id);
                return Err(self.refused("it has ended, and nothing of it goes on", &hint));
            }
            return Ok(Vec::new());
        };
        let held_ms = stamp.wall.since(paused);
        self.clock_began = self.clock_began.map(|began| WallMs(began.0.saturating_add(held_ms)));
        self.control.paused = None;
        self.status = MigrationStatus::Queued;
        Ok(Vec::new())
    }
}
