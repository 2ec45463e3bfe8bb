//! What a move costs the host that it reads from.
//!
//! Counted in whole numbers where it travels and is added up, and shown in percent.

use serde::{Deserialize, Serialize};

/// One look at the source's host, by its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceCost {
    /// Time that the agent computed, in thousandths of one processor.
    pub cpu_permille: u32,
    /// Time in which something on that host waited for a disk, in thousandths.
    pub io_permille: u32,
    /// The load average of the last minute, in hundredths.
    pub load_hundredths: u32,
    /// Whether the source holds back because its load is too high.
    pub is_throttled: bool,
}

/// Many looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceCosts {
    /// How many, one a second.
    pub samples: u64,
    /// How many of them found the source holding back.
    pub samples_throttled: u64,
    /// The sum and the highest of each figure.
    pub cpu_permille_sum: u64,
    /// The highest.
    pub cpu_permille_max: u32,
    /// The sum.
    pub io_permille_sum: u64,
    /// The highest.
    pub io_permille_max: u32,
    /// The sum.
    pub load_hundredths_sum: u64,
    /// The highest.
    pub load_hundredths_max: u32,
}

/// The cost as scripts and people read it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostView {
    /// What the agent computed, in percent of one processor.
    pub cpu_percent: f64,
    /// How much of the time something on that host waited for a disk, in percent.
    pub io_pressure_percent: f64,
    /// The load average of the last minute.
    pub load: f64,
}

/// What a migration costs its source's host, now and all in all; its keys stand in the migration's view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceLoad {
    /// What it costs now.
    #[serde(rename = "source_cost", default, skip_serializing_if = "Option::is_none")]
    pub now: Option<CostView>,
    /// Whether the source holds back now because its load is too high.
    #[serde(rename = "source_throttled", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_throttled: bool,
    /// What it has cost, second by second.
    #[serde(rename = "source_cost_mean", default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<CostView>,
    /// The highest of each figure.
    #[serde(rename = "source_cost_peak", default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<CostView>,
    /// For how long the source held back, in seconds.
    #[serde(rename = "source_throttled_s", default, skip_serializing_if = "is_zero")]
    pub throttled_s: u64,
}

impl SourceLoad {
    /// Returns what `costs` come to, and what a step that runs costs `now`.
    pub fn new(costs: &SourceCosts, now: Option<SourceCost>) -> Self {
        Self {
            now: now.map(CostView::from),
            is_throttled: now.is_some_and(|cost| cost.is_throttled),
            mean: costs.mean(),
            peak: costs.peak(),
            throttled_s: costs.samples_throttled,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SourceCosts {
    /// Adds a look.
    pub fn add(&mut self, cost: SourceCost) {
        let SourceCost { cpu_permille, io_permille, load_hundredths, is_throttled } = cost;
        self.add_all(&Self {
            samples: 1,
            samples_throttled: u64::from(is_throttled),
            cpu_permille_sum: u64::from(cpu_permille),
            cpu_permille_max: cpu_permille,
            io_permille_sum: u64::from(io_permille),
            io_permille_max: io_permille,
            load_hundredths_sum: u64::from(load_hundredths),
            load_hundredths_max: load_hundredths,
        });
    }

    /// Adds the looks of another step.
    pub fn add_all(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.samples_throttled = self.samples_throttled.saturating_add(other.samples_throttled);
        self.cpu_permille_sum = self.cpu_permille_sum.saturating_add(other.cpu_permille_sum);
        self.cpu_permille_max = self.cpu_permille_max.max(other.cpu_permille_max);
        self.io_permille_sum = self.io_permille_sum.saturating_add(other.io_permille_sum);
        self.io_permille_max = self.io_permille_max.max(other.io_permille_max);
        self.load_hundredths_sum = self.load_hundredths_sum.saturating_add(other.load_hundredths_sum);
        self.load_hundredths_max = self.load_hundredths_max.max(other.load_hundredths_max);
    }

    /// Returns the mean of all looks; none without any.
    pub fn mean(&self) -> Option<CostView> {
        let mean =
            |sum: u64| sum.checked_div(self.samples).map(|mean| u32::try_from(mean).unwrap_or(u32::MAX));
        Some(view(mean(self.cpu_permille_sum)?, mean(self.io_permille_sum)?, mean(self.load_hundredths_sum)?))
    }

    /// Returns the highest of each figure; none without any look.
    pub fn peak(&self) -> Option<CostView> {
        let peak = view(self.cpu_permille_max, self.io_permille_max, self.load_hundredths_max);
        (self.samples > 0).then_some(peak)
    }
}

impl From<SourceCost> for CostView {
    fn from(cost: SourceCost) -> Self {
        view(cost.cpu_permille, cost.io_permille, cost.load_hundredths)
    }
}

fn view(cpu_permille: u32, io_permille: u32, load_hundredths: u32) -> CostView {
    CostView {
        cpu_percent: f64::from(cpu_permille) / 10.0,
        io_pressure_percent: f64::from(io_permille) / 10.0,
        load: f64::from(load_hundredths) / 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_have_a_mean_and_a_peak() {
        let mut costs = SourceCosts::default();
        assert_eq!((costs.mean(), costs.peak()), (None, None));
        for (cpu_permille, load_hundredths, is_throttled) in [(100, 50, false), (300, 150, true)] {
            costs.add(SourceCost { cpu_permille, io_permille: 7, load_hundredths, is_throttled });
        }
        assert_eq!(costs.mean(), Some(CostView { cpu_percent: 20.0, io_pressure_percent: 0.7, load: 1.0 }));
        assert_eq!(costs.peak(), Some(CostView { cpu_percent: 30.0, io_pressure_percent: 0.7, load: 1.5 }));
        assert_eq!((costs.samples, costs.samples_throttled), (2, 1));
    }
}
