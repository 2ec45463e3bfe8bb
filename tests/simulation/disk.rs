//! What is protected: the roots of the machines, each with its fence.
//!
//! An effect is on its way for a while after its agent looked at its lease, as a write is in a stalled kernel or in a
//! process that was stopped; then only the fence stands between an old holder and the root.

use std::collections::BTreeMap;

use common::fence::FencingToken;
use common::id::{HostName, StepId};

use crate::mutant::Mutant;
use crate::wire::Place;
use crate::world::World;

/// An effect on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Effect {
    pub(crate) host: HostName,
    /// The start of the agent that made it.
    pub(crate) incarnation: u64,
    pub(crate) place: Place,
    pub(crate) step: StepId,
    pub(crate) token: FencingToken,
    pub(crate) kind: EffectKind,
}

/// What an effect does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EffectKind {
    /// Puts up the fence.
    Claim,
    /// One more unit stands.
    Do,
    /// One unit less stands.
    Undo,
}

/// One root of one migration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    /// The highest token that put up the fence.
    fence: Option<FencingToken>,
    /// The highest token that worked here; what the oracle knows, not the disk.
    highest: Option<FencingToken>,
    /// Whether it was removed with its undo log.
    is_gone: bool,
    /// Units that stand, by step.
    pub(crate) standing: BTreeMap<StepId, u64>,
}

/// All roots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    stages: BTreeMap<Place, Stage>,
}

impl Disk {
    /// Returns the units of a step that stand.
    pub(crate) fn standing(&self, place: &Place, step: &StepId) -> u64 {
        self.stages.get(place).and_then(|stage| stage.standing.get(step)).copied().unwrap_or(0)
    }

    /// Returns the parts of a migration's root at which something stands.
    pub(crate) fn of<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = (&'a Place, &'a Stage)> {
        let is_same = |other: &Place| {
            (other.machine, other.root, &other.migration) == (place.machine, place.root, &place.migration)
        };
        self.stages.iter().filter(move |(other, _)| is_same(other))
    }

    /// Removes the stage of a migration; false when somebody with a later token was there.
    pub(crate) fn settle(&mut self, place: &Place, token: FencingToken) -> bool {
        let parts: Vec<Place> = self.of(place).map(|(part, _)| part.clone()).collect();
        for part in parts {
            let Some(stage) = self.stages.get_mut(&part) else { continue };
            if stage.fence.is_some_and(|fence| fence > token) {
                return false;
            }
            stage.fence = Some(token);
            stage.is_gone = true;
        }
        true
    }
}

impl World {
    /// Lets an effect reach the disk, and tells its agent, if that still runs.
    pub(crate) fn reach_disk(&mut self, effect: &Effect) {
        let skips_fence = self.mutant == Some(Mutant::SkipFence);
        let stage = self.disk.stages.entry(effect.place.clone()).or_default();
        let is_fenced = stage.fence.is_some_and(|fence| fence > effect.token);
        let is_taken = !stage.is_gone && (!is_fenced || skips_fence);
        if is_taken {
            let is_old = stage.highest.is_some_and(|highest| highest > effect.token);
            stage.highest = stage.highest.max(Some(effect.token));
            let units = stage.standing.entry(effect.step.clone()).or_default();
            match effect.kind {
                EffectKind::Claim => stage.fence = stage.fence.max(Some(effect.token)),
                EffectKind::Do => *units += 1,
                EffectKind::Undo => *units = units.saturating_sub(1),
            }
            if is_old {
                let message = format!("an effect under the old token {} was taken: {effect:?}", effect.token);
                self.violate(message);
            }
            self.check_undo_order(effect);
            self.counts.effects += 1;
        } else {
            self.counts.fenced += 1;
        }
        self.effect_ended(effect, is_taken);
    }
}
