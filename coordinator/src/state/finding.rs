//! What was noticed during a migration: of each rule the first thousand, and the count of all.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::finding::{Finding, Rule};
use common::id::StepId;
use common::limit::FINDINGS_PER_RULE_MAX;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::step::{TEXT_BYTES_MAX, cut};

/// Bytes of findings that one migration keeps, as a snapshot holds them. What comes beyond is only counted: whatever
/// agents say, the record stays far below the largest frame that a snapshot is read with.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The findings of a migration's latest attempts.
///
/// A repeated report of a rule and an object that are kept counts once, whichever steps it comes from. What an earlier
/// attempt of a step found goes when the step begins again, because the new attempt looks at everything again; what
/// another step found as well stays with that one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Findings {
    rules: BTreeMap<Rule, OfRule>,
    /// The bytes of all that is kept; counted anew when the record is read.
    #[serde(skip)]
    bytes: usize,
}

/// What is written of [`Findings`].
#[derive(Deserialize)]
struct Stored {
    rules: BTreeMap<Rule, OfRule>,
}

/// A copy is cheap, because one is made for each report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfRule {
    #[serde(with = "super::document")]
    first: RedBlackTreeMapSync<String, Arc<Reported>>,
    /// By the step that reported an object first.
    totals: BTreeMap<StepId, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reported {
    /// Who counts it.
    step: StepId,
    finding: Finding,
    /// The other steps that reported it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    also: Vec<StepId>,
}

impl Reported {
    fn is_of(&self, step: &StepId) -> bool {
        self.step == *step || self.also.contains(step)
    }

    /// Takes a step away; none when no other reported it.
    fn without(&self, step: &StepId) -> Option<Self> {
        let mut rest = std::iter::once(&self.step).chain(&self.also).filter(|other| *other != step).cloned();
        let step = rest.next()?;
        Some(Self { step, finding: self.finding.clone(), also: rest.collect() })
    }

    /// The bytes that it takes in a snapshot, which holds it as text.
    fn bytes(&self) -> usize {
        let object = serde_json::to_string(&self.finding.object);
        let whole = serde_json::to_string(self);
        object.map_or(0, |text| text.len()) + whole.map_or(0, |text| text.len()) + ":,".len()
    }
}

impl From<Stored> for Findings {
    fn from(Stored { rules }: Stored) -> Self {
        let bytes = rules.values().flat_map(|of_rule| of_rule.first.values()).map(|it| it.bytes()).sum();
        Self { rules, bytes }
    }
}

impl Findings {
    /// Adds what a step reported.
    pub(super) fn add(&mut self, step: &StepId, findings: Vec<Finding>) {
        for mut finding in findings {
            for text in [&mut finding.object, &mut finding.message, &mut finding.hint] {
                cut(text, TEXT_BYTES_MAX);
            }
            let of_rule = self.rules.entry(finding.rule).or_default();
            let known = of_rule.first.get(&finding.object).cloned();
            let mut reported = match &known {
                Some(known) => Reported { finding, ..Reported::clone(known) },
                None => Reported { step: step.clone(), finding, also: Vec::new() },
            };
            let is_told = known.is_some() && reported.is_of(step);
            if !reported.is_of(step) {
                reported.also.push(step.clone());
            }
            let bytes = self.bytes - known.as_ref().map_or(0, |known| known.bytes()) + reported.bytes();
            let has_place = known.is_some() || of_rule.first.size() < FINDINGS_PER_RULE_MAX;
            let is_kept = has_place && bytes <= KEPT_BYTES_MAX;
            if known.is_none() || !(is_kept || is_told) {
                *of_rule.totals.entry(step.clone()).or_default() += 1;
            }
            if is_kept {
                self.bytes = bytes;
                of_rule.first.insert_mut(reported.finding.object.clone(), Arc::new(reported));
            }
        }
    }

    /// Drops what a step reported.
    pub(super) fn forget(&mut self, step: &StepId) {
        for of_rule in self.rules.values_mut() {
            let reported = of_rule.first.values().filter(|reported| reported.is_of(step));
            let reported: Vec<Arc<Reported>> = reported.cloned().collect();
            for whole in reported {
                let object = &whole.finding.object;
                self.bytes -= whole.bytes();
                let Some(rest) = whole.without(step) else {
                    of_rule.first.remove_mut(object);
                    continue;
                };
                self.bytes += rest.bytes();
                if rest.step != whole.step {
                    *of_rule.totals.entry(rest.step.clone()).or_default() += 1;
                }
                of_rule.first.insert_mut(object.clone(), Arc::new(rest));
            }
            of_rule.totals.remove(step);
        }
        self.rules.retain(|_, of_rule| !of_rule.totals.is_empty());
    }

    /// Returns the findings that are kept, by rule and object.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.rules.values().flat_map(|of_rule| of_rule.first.values().map(|reported| &reported.finding))
    }

    /// Returns how many were reported.
    pub fn total(&self) -> u64 {
        self.rules.values().flat_map(|of_rule| of_rule.totals.values()).sum()
    }

    /// Returns how many of a rule were reported.
    pub fn total_of(&self, rule: Rule) -> u64 {
        self.rules.get(&rule).map_or(0, |of_rule| of_rule.totals.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use common::finding::Severity;

    use super::*;

    fn finding(rule: Rule, object: usize) -> Finding {
        Finding {
            rule,
            severity: Severity::Warning,
            object: object.to_string(),
            message: String::new(),
            hint: String::new(),
        }
    }

    #[test]
    fn keeps_the_first_thousand_and_counts_all() {
        let step: StepId = "file.copy-1".parse().unwrap();
        let mut findings = Findings::default();
        findings.add(&step, (0..1_200).map(|object| finding(Rule::Changed, object)).collect());
        findings.add(&step, vec![finding(Rule::Changed, 3), finding(Rule::Vanished, 3)]);
        assert_eq!(findings.iter().count(), 1_001);
        assert_eq!(findings.total(), 1_201);
        assert_eq!(findings.total_of(Rule::Changed), 1_200);
        let other: StepId = "file.verify-1".parse().unwrap();
        findings.add(&other, vec![finding(Rule::Conflict, 9)]);
        findings.forget(&step);
        assert_eq!((findings.iter().count(), findings.total()), (1, 1));
    }

    #[test]
    fn what_two_steps_found_counts_once_and_stays_with_the_one_that_is_left() {
        let (copy, verify): (StepId, StepId) =
            ("file.copy-1".parse().unwrap(), "file.verify-1".parse().unwrap());
        let both = || {
            let mut findings = Findings::default();
            findings.add(&copy, vec![finding(Rule::Conflict, 1)]);
            findings.add(&verify, vec![finding(Rule::Conflict, 1)]);
            assert_eq!((findings.iter().count(), findings.total_of(Rule::Conflict)), (1, 1));
            findings
        };
        for (first, second) in [(&copy, &verify), (&verify, &copy)] {
            let mut findings = both();
            findings.forget(first);
            assert_eq!((findings.iter().count(), findings.total_of(Rule::Conflict)), (1, 1), "{first}");
            findings.forget(second);
            assert_eq!(findings, Findings::default());
        }
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_survives_its_writing() {
        let step: StepId = "file.copy-1".parse().unwrap();
        let long = "\u{1}".repeat(TEXT_BYTES_MAX);
        let endless = |object: usize| Finding {
            object: format!("{object:04}{long}"),
            message: long.clone(),
            hint: long.clone(),
            ..finding(Rule::Changed, object)
        };
        let mut findings = Findings::default();
        findings.add(&step, (0..1_000).map(endless).collect());
        findings.add(&step, (0..10).map(endless).collect());
        let written = postcard::to_stdvec(&findings).unwrap();
        assert!(
            findings.bytes <= KEPT_BYTES_MAX && written.len() <= KEPT_BYTES_MAX + 1_024,
            "{}",
            written.len()
        );
        assert!(findings.bytes > KEPT_BYTES_MAX / 2 && findings.total() >= 1_000);
        assert_eq!(postcard::from_bytes::<Findings>(&written).unwrap(), findings);
        findings.forget(&step);
        assert_eq!(findings, Findings::default());
    }
}
