//! What remains of migrations that ended long ago: first their totals, later nothing.
//!
//! A migration that is condensed keeps its id, name, status and totals; its plan, steps, outputs, findings and roots go.
//! Which ones are old enough is the leader's to say, by its settings; the state only refuses to forget what is not
//! over: something that runs, or that still has a way back.

use std::sync::Arc;

use common::clock::WallMs;
use common::failure::FailureKind;
use common::human;
use common::id::{MigrationId, TenantId};
use common::plan::Plan;
use common::principal::Principal;

use super::Applied;
use super::migration::{Migration, Migrations, WayBack};
use super::refusal::Refusal;
use super::stamp::Stamp;

/// Migrations in one command; a bound on what one command makes every replica do.
pub const RETAINED_MAX: usize = 256;
/// Bytes of one error that is kept.
const ERROR_BYTES_MAX: usize = 1024;

/// What is left to be done about old migrations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Those to condense, by tenant.
    pub condense: Vec<(TenantId, MigrationId)>,
    /// Those to forget.
    pub forget: Vec<(TenantId, MigrationId)>,
}

/// For how long, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What ended before this is condensed.
    pub condense_before: WallMs,
    /// What ended before this is forgotten.
    pub forget_before: WallMs,
    /// Ended migrations that are kept whole.
    pub whole_max: usize,
    /// Condensed migrations that are kept.
    pub condensed_max: usize,
}

impl Migration {
    /// Whether nothing of it is left but its totals.
    pub fn is_condensed(&self) -> bool {
        self.condensed.is_some()
    }

    /// Whether it is over for good: it has ended, and no way back is left.
    fn is_over(&self) -> bool {
        self.status.is_end() && !self.is_active() && self.way_back == WayBack::Ended
    }

    /// Refuses what cannot be asked of a migration of which only the totals are left.
    pub(super) fn check_whole(&self) -> Result<(), Refusal> {
        if !self.is_condensed() {
            return Ok(());
        }
        let message = format!("migration `{}` ended long ago, and only its totals were kept", self.id);
        let hint = "nothing of it can be undone, tried again or verified any more; start a new one";
        Err(Refusal::new(FailureKind::Conflict, message, hint))
    }

    fn condense(&mut self, now: WallMs) {
        let mut view = self.view(now, &|_| None, false);
        view.steps = Vec::new();
        view.findings = Vec::new();
        view.errors.truncate(1);
        for error in &mut view.errors {
            error.context = Vec::new();
            super::step::cut(&mut error.message, ERROR_BYTES_MAX);
        }
        view.warnings = vec![format!(
            "only the totals were kept on {}; the plan, the steps and the findings are gone",
            human::moment(now)
        )];
        let generation = self.plan.generation;
        self.plan =
            Arc::new(Plan { generation, steps: Vec::new(), settles: Vec::new(), ..(*self.plan).clone() });
        self.steps = Vec::new();
        let mut roots = (*self.roots).clone();
        for root in [&mut roots.source, &mut roots.destination] {
            root.chain = Vec::new();
            root.missing = Vec::new();
        }
        self.roots = Arc::new(roots);
        self.failures = Vec::new();
        self.warnings = Vec::new();
        self.findings = Arc::default();
        let mut spec = (*self.spec).clone();
        for side in [&mut spec.source, &mut spec.destination] {
            side.include = Vec::new();
            side.exclude = Vec::new();
        }
        self.spec = Arc::new(spec);
        self.control = super::control::Control::default();
        self.condensed = Some(Arc::new(view));
    }
}

impl Migrations {
    /// Condenses and forgets what the leader names; what is not over, or gone already, is passed over.
    pub(super) fn retain(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        condense: Vec<MigrationId>,
        forget: &[MigrationId],
    ) -> Result<Applied, Refusal> {
        if !matches!(stamp.principal, Principal::Node { .. }) || condense.len() + forget.len() > RETAINED_MAX
        {
            let hint = "what ended long ago is forgotten by the coordinators themselves";
            return Err(Refusal::new(
                FailureKind::Denied,
                "nobody asks for migrations to be forgotten",
                hint,
            ));
        }
        for id in condense {
            let Some(found) = self.get(tenant, &id).filter(|it| it.is_over() && !it.is_condensed()) else {
                continue;
            };
            let mut migration = found.as_ref().clone();
            migration.condense(stamp.wall);
            self.put(migration);
        }
        for id in forget {
            if self.get(tenant, id).is_some_and(|it| it.is_over() && it.is_condensed()) {
                self.remove(tenant, id);
            }
        }
        Ok(Applied::done())
    }

    /// Returns what is old enough, or too much, oldest first.
    pub fn due(&self, bounds: &Bounds) -> Due {
        let (mut whole, mut condensed) = (Vec::new(), Vec::new());
        for (tenant, id, migration) in self.table().all() {
            let Some(ended) = migration.ended.filter(|_| migration.is_over()) else { continue };
            let list = if migration.is_condensed() { &mut condensed } else { &mut whole };
            list.push((ended, tenant, id));
        }
        Due {
            condense: oldest(whole, bounds.condense_before, bounds.whole_max),
            forget: oldest(condensed, bounds.forget_before, bounds.condensed_max),
        }
    }
}

/// Returns those that ended before a moment, and of the others the oldest above the bound.
fn oldest(
    mut all: Vec<(WallMs, &TenantId, &MigrationId)>,
    before: WallMs,
    max: usize,
) -> Vec<(TenantId, MigrationId)> {
    all.sort_unstable();
    let above = all.len().saturating_sub(max);
    let is_due = |place: usize, ended: WallMs| place < above || ended < before;
    let due = all.into_iter().enumerate().filter(|(place, (ended, ..))| is_due(*place, *ended));
    due.map(|(_, (_, tenant, id))| (tenant.clone(), id.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::migration::{self, Act};
    use crate::state::sample::{self, Log};
    use crate::state::{Command, snapshot};

    /// A log with migrations that were cancelled one after the other, a second apart.
    fn log(count: u64) -> Log {
        let mut log = Log::new();
        for number in 0..count {
            log.now = 10_000 + number * 1_000;
            log.create(&format!("m{number}"), number, |_| {}).unwrap();
            log.act(&format!("m{number}"), Act::Cancel).unwrap();
        }
        log
    }

    fn retain(log: &mut Log, due: Due) {
        let ids = |all: Vec<(TenantId, MigrationId)>| all.into_iter().map(|(_, id)| id).collect();
        let (condense, forget) = (ids(due.condense), ids(due.forget));
        let command = migration::Command::Retain { tenant: sample::tenant(), condense, forget };
        log.apply(sample::node(), Command::Migration(command)).unwrap();
    }

    fn bounds(condense: u64, forget: u64, whole_max: usize, condensed_max: usize) -> Bounds {
        Bounds { condense_before: WallMs(condense), forget_before: WallMs(forget), whole_max, condensed_max }
    }

    fn named(all: &[(TenantId, MigrationId)]) -> Vec<&str> {
        all.iter().map(|(_, id)| id.as_str()).collect()
    }

    #[test]
    fn the_oldest_go_by_time_and_by_number() {
        let log = log(5);
        let due = |bounds| log.state.migrations().due(&bounds);
        assert_eq!(due(bounds(0, 0, 10, 10)), Due::default());
        assert_eq!(named(&due(bounds(12_000, 0, 10, 10)).condense), ["m0", "m1"]);
        assert_eq!(named(&due(bounds(0, 0, 2, 10)).condense), ["m0", "m1", "m2"]);
    }

    #[test]
    fn what_is_condensed_keeps_its_totals_and_what_is_forgotten_is_absent() {
        let mut log = log(3);
        let before = log.state.migrations().get(&sample::tenant(), &"m0".parse().unwrap()).cloned().unwrap();
        let whole = before.view(WallMs(50_000), &|_| None, true);
        let due = log.state.migrations().due(&bounds(0, 0, 2, 10));
        retain(&mut log, due);
        let get = |log: &Log, id: &str| {
            log.state.migrations().get(&sample::tenant(), &id.parse().unwrap()).cloned()
        };
        let condensed = get(&log, "m0").unwrap();
        assert!(condensed.is_condensed() && condensed.steps.is_empty() && condensed.plan.steps.is_empty());
        let view = condensed.view(WallMs(60_000), &|_| None, true);
        assert_eq!((&view.id, &view.name, view.status), (&whole.id, &whole.name, whole.status));
        assert_eq!(
            (view.duration_ms, view.steps_total, view.ended),
            (whole.duration_ms, whole.steps_total, whole.ended)
        );
        assert!(view.warnings[0].contains("only the totals"), "{:?}", view.warnings);
        assert!(
            log.act("m0", Act::Retry).is_err_and(|refusal| refusal.failure().kind == FailureKind::Conflict)
        );
        // A repeated request still finds what it made, and a snapshot keeps what remains.
        assert!(log.state.migrations().by_request(&sample::tenant(), "request-m0").is_some());
        let mut bytes = Vec::new();
        snapshot::write(&log.state, &mut bytes).unwrap();
        assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), log.state);
        let due = log.state.migrations().due(&bounds(0, 11_000, 2, 10));
        assert_eq!((named(&due.forget), due.condense.len()), (vec!["m0"], 0));
        retain(&mut log, due);
        assert!(get(&log, "m0").is_none() && get(&log, "m1").is_some());
        assert!(log.state.migrations().by_request(&sample::tenant(), "request-m0").is_none());
    }

    #[test]
    fn what_is_not_over_is_never_forgotten() {
        let mut log = Log::new();
        log.create("m0", 1, |_| {}).unwrap();
        let due = Due {
            condense: vec![(sample::tenant(), "m0".parse().unwrap())],
            forget: vec![(sample::tenant(), "m0".parse().unwrap())],
        };
        assert_eq!(log.state.migrations().due(&bounds(u64::MAX, u64::MAX, 0, 0)), Due::default());
        let before = log.state.clone();
        retain(&mut log, due);
        assert_eq!(log.state, before);
        let asked =
            migration::Command::Retain { tenant: sample::tenant(), condense: Vec::new(), forget: Vec::new() };
        assert!(log.apply(sample::operator(), Command::Migration(asked)).is_err());
    }
}
