//! What was noticed during a migration: of each rule the first thousand, and the count of all.

use std::collections::BTreeMap;

use common::finding::{Finding, Rule};
use common::id::StepId;
use common::limit::FINDINGS_PER_RULE_MAX;
use serde::{Deserialize, Serialize};

use super::step::{TEXT_BYTES_MAX, cut};

/// The findings of a migration's latest attempts.
///
/// A repeated report of the same rule and object counts once, and what an earlier attempt of a step found goes when the
/// step begins again, because the new attempt looks at everything again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    rules: BTreeMap<Rule, OfRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfRule {
    #[serde(with = "super::document")]
    first: BTreeMap<String, Reported>,
    totals: BTreeMap<StepId, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reported {
    step: StepId,
    finding: Finding,
}

impl Findings {
    /// Adds what a step reported.
    pub(super) fn add(&mut self, step: &StepId, findings: Vec<Finding>) {
        for mut finding in findings {
            for text in [&mut finding.object, &mut finding.message, &mut finding.hint] {
                cut(text, TEXT_BYTES_MAX);
            }
            let of_rule = self.rules.entry(finding.rule).or_default();
            let is_known = of_rule.first.contains_key(&finding.object);
            if !is_known {
                *of_rule.totals.entry(step.clone()).or_default() += 1;
            }
            if is_known || of_rule.first.len() < FINDINGS_PER_RULE_MAX {
                let object = finding.object.clone();
                of_rule.first.insert(object, Reported { step: step.clone(), finding });
            }
        }
    }

    /// Drops what a step reported.
    pub(super) fn forget(&mut self, step: &StepId) {
        for of_rule in self.rules.values_mut() {
            of_rule.first.retain(|_, reported| reported.step != *step);
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
}
