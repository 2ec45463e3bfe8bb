//! What was granted to a person or an API key: a role in a tenant, perhaps only for some hosts and migrations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{HostName, LabelKey, LabelValue, TenantId};
use crate::role::Role;

/// Labels that one thing may bear; a page of `ctl` still shows them.
pub const LABELS_MAX: usize = 16;
/// Hosts that one scope may name; above that a label says it better.
pub const SCOPE_HOSTS_MAX: usize = 64;
/// Grants that one person may hold.
pub const GRANTS_MAX: usize = 32;

/// What a host or a migration is called besides its name.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

/// A role in a tenant, within a scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// Where.
    pub tenant: TenantId,
    /// As what.
    pub role: Role,
    /// For which hosts and migrations.
    pub scope: Scope,
}

/// The hosts and migrations that a grant reaches: all, unless it names some.
///
/// A host is in scope when it is among the named ones (if any are) and bears all the labels. A migration is when both
/// its hosts are among the named ones and it bears all the labels. A secret is when labels are asked for and it bears
/// them all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// The named hosts; none for any.
    pub hosts: BTreeSet<HostName>,
    /// What must be borne.
    pub labels: Labels,
}

/// One word of a scope: `host:NAME` or `label:KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeItem {
    /// A host.
    Host(HostName),
    /// A label.
    Label(LabelKey, LabelValue),
}

/// Why a text is no part of a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// It is neither form.
    #[error("a scope is written `host:NAME` or `label:KEY=VALUE`")]
    Form,
    /// A name in it is none.
    #[error(transparent)]
    Id(#[from] crate::id::InvalidId),
    /// A label is asked for twice, with two values.
    #[error("the label `{0}` cannot have two values")]
    Twice(LabelKey),
    /// There are too many.
    #[error("a scope names at most {SCOPE_HOSTS_MAX} hosts and {LABELS_MAX} labels")]
    TooMany,
}

impl Scope {
    /// Whether it reaches everything of the tenant.
    pub fn is_whole(&self) -> bool {
        self.hosts.is_empty() && self.labels.is_empty()
    }

    /// Whether something of these hosts and labels is in it.
    pub fn holds(&self, hosts: &[&HostName], labels: &Labels) -> bool {
        let is_named = self.hosts.is_empty() || hosts.iter().all(|host| self.hosts.contains(*host));
        let is_labelled = self.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        is_named && is_labelled
    }

    /// Whether something that belongs to no host is in it: by its labels, which a scope of hosts alone does not know.
    pub fn holds_by_labels(&self, labels: &Labels) -> bool {
        self.is_whole() || (!self.labels.is_empty() && self.holds(&[], labels))
    }

    /// Makes a scope out of its words.
    ///
    /// # Errors
    /// When there are too many, or one label has two values.
    pub fn of_items(items: impl IntoIterator<Item = ScopeItem>) -> Result<Self, InvalidScope> {
        let mut scope = Self::default();
        for item in items {
            match item {
                ScopeItem::Host(host) => drop(scope.hosts.insert(host)),
                ScopeItem::Label(key, value) => match scope.labels.insert(key.clone(), value.clone()) {
                    Some(other) if other != value => return Err(InvalidScope::Twice(key)),
                    Some(_) | None => {}
                },
            }
        }
        scope.check()?;
        Ok(scope)
    }

    /// Says whether it is small enough to be kept.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<(), InvalidScope> {
        if self.hosts.len() > SCOPE_HOSTS_MAX || self.labels.len() > LABELS_MAX {
            return Err(InvalidScope::TooMany);
        }
        Ok(())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|host| format!("host:{host}"));
        let labels = self.labels.iter().map(|(key, value)| format!("label:{key}={value}"));
        f.write_str(&hosts.chain(labels).collect::<Vec<_>>().join(" "))
    }
}

impl FromStr for ScopeItem {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        if let Some(host) = text.strip_prefix("host:") {
            return Ok(Self::Host(host.parse()?));
        }
        let (key, value) = text
            .strip_prefix("label:")
            .ok_or(InvalidScope::Form)?
            .split_once('=')
            .ok_or(InvalidScope::Form)?;
        Ok(Self::Label(key.parse()?, value.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(items: &[&str]) -> Scope {
        Scope::of_items(items.iter().map(|item| item.parse().unwrap())).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn holds_what_is_named_and_labelled() {
        let (web1, web2): (HostName, HostName) = ("web1".parse().unwrap(), "web2".parse().unwrap());
        let shop = labels(&[("team", "shop"), ("wave", "1")]);
        assert!(Scope::default().is_whole() && Scope::default().holds(&[&web1], &Labels::new()));
        assert!(scope(&["host:web1"]).holds(&[&web1], &Labels::new()));
        assert!(!scope(&["host:web1"]).holds(&[&web1, &web2], &shop), "one of two hosts is outside");
        assert!(scope(&["label:team=shop"]).holds(&[&web1, &web2], &shop));
        assert!(!scope(&["label:team=shop", "host:web2"]).holds(&[&web1], &shop));
        assert!(!scope(&["label:team=mail"]).holds(&[&web1], &shop));
        assert!(!scope(&["label:team=shop"]).holds(&[&web1], &Labels::new()));
    }

    #[test]
    fn what_has_no_host_is_held_by_its_labels_only() {
        let (shop, none) = (labels(&[("team", "shop")]), Labels::new());
        assert!(Scope::default().holds_by_labels(&none));
        assert!(scope(&["label:team=shop"]).holds_by_labels(&shop));
        assert!(scope(&["label:team=shop", "host:web1"]).holds_by_labels(&shop));
        assert!(!scope(&["label:team=shop"]).holds_by_labels(&none));
        assert!(!scope(&["host:web1"]).holds_by_labels(&shop), "no host says whose a secret is");
    }

    #[test]
    fn words_are_read_back_and_nonsense_is_refused() {
        let read = scope(&["label:team=shop", "host:web1", "host:web1"]);
        assert_eq!(read.to_string(), "host:web1 label:team=shop");
        for bad in ["web1", "host:", "label:team", "label:=x", "host:../x", ""] {
            assert!(bad.parse::<ScopeItem>().is_err(), "{bad:?} was taken for a scope");
        }
        let twice = ["label:a=1", "label:a=2"].map(|item| item.parse().unwrap());
        assert!(Scope::of_items(twice).is_err());
    }
}
