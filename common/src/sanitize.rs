//! Rules that drop, replace or mask files on their way, so that a copy holds less than its source.
//!
//! They are applied by the source's agent before any byte leaves its host; the signed ticket carries them, so that no
//! destination can ask for less. A mask keeps the length of a file and the kind of each letter: sizes that are
//! written down elsewhere, as in serialised data or the names of mails, stay right.

use serde::{Deserialize, Serialize};

use crate::filter::{Filter, InvalidPattern};
use crate::mask::{InvalidMask, Masker};
use crate::reference::Reference;

/// Rules of one spec.
pub const RULES_MAX: usize = 64;
/// Bytes of all rules as JSON; every ticket carries them.
pub const RULES_BYTES_MAX: usize = 12 * 1024;
/// The largest file that is masked: it is held in memory while it is read.
pub const MASKED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is dropped, replaced or masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sanitize {
    /// The key of masks that are made `with: key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Reference>,
    /// Which version of that key, where it is a secret of the cluster; set when the plan is made, so that every pass
    /// masks alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Rules for files, in their order.
    pub files: Vec<FileRule>,
}

/// One rule for files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Patterns of the files, as those of `exclude`.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// What is done to them.
    pub action: Action,
}

/// What is done to a file. A dropped one is dropped whatever other rules say; of the rules that replace, the first
/// counts, and then none that masks; of those that mask, all do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is left out as if the source did not have it; a directory with all that is in it.
    Drop,
    /// It has this content instead.
    Replace(String),
    /// Parts of it are masked.
    Mask(Mask),
}

/// What is masked, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// Known kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub find: Vec<Find>,
    /// Regular expressions; of one with groups only the groups are masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<String>,
    /// What stands there instead.
    pub with: With,
}

/// A known kind of what is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// E-mail addresses.
    Email,
    /// Keys of payment providers, and card numbers.
    PaymentKey,
    /// Tokens of well-known services, and values of keys such as `password`.
    Token,
}

impl Find {
    /// Every kind, by the word in a spec.
    pub const ALL: [(&'static str, Self); 3] =
        [("email", Self::Email), ("payment_key", Self::PaymentKey), ("token", Self::Token)];
}

/// What stands in the place of what is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum With {
    /// `x` for letters, `0` for digits.
    Filler,
    /// Other letters and digits, the same ones for the same text wherever it stands: computed with the key.
    Key,
}

/// Why rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSanitize {
    /// There are too many.
    #[error("there are more than {RULES_MAX} rules")]
    Rules,
    /// They are too long together.
    #[error("the rules take {0} bytes, and {RULES_BYTES_MAX} are possible")]
    Bytes(usize),
    /// A rule matches nothing.
    #[error("rule {0} has no pattern under `match`")]
    Empty(usize),
    /// A pattern cannot be read.
    #[error("rule {0}: {1}")]
    Pattern(usize, InvalidPattern),
    /// A rule masks nothing.
    #[error("rule {0} masks nothing: name what under `find` or `regex`")]
    Nothing(usize),
    /// A mask needs a key that is not there.
    #[error("rule {0} masks with a key, and `key` is not set")]
    Key(usize),
    /// A regular expression cannot be used.
    #[error("rule {0}: {1}")]
    Mask(usize, InvalidMask),
}

impl Sanitize {
    /// Checks what can be checked without a file. Rules are counted from 1.
    ///
    /// # Errors
    /// With the first rule that cannot be used.
    pub fn check(&self) -> Result<(), InvalidSanitize> {
        if self.files.len() > RULES_MAX {
            return Err(InvalidSanitize::Rules);
        }
        for (number, rule) in (1..).zip(&self.files) {
            if rule.patterns.is_empty() {
                return Err(InvalidSanitize::Empty(number));
            }
            Filter::new(&rule.patterns, &[]).map_err(|error| InvalidSanitize::Pattern(number, error))?;
            let Action::Mask(mask) = &rule.action else { continue };
            if mask.find.is_empty() && mask.regex.is_empty() {
                return Err(InvalidSanitize::Nothing(number));
            }
            if mask.with == With::Key && self.key.is_none() {
                return Err(InvalidSanitize::Key(number));
            }
            Masker::new(mask, None).map_err(|error| InvalidSanitize::Mask(number, error))?;
        }
        let bytes = serde_json::to_string(self).map_or(usize::MAX, |text| text.len());
        if bytes > RULES_BYTES_MAX { Err(InvalidSanitize::Bytes(bytes)) } else { Ok(()) }
    }

    /// Returns the key that the source's agent needs.
    pub fn needed_key(&self) -> Option<&Reference> {
        let needs = |rule: &FileRule| matches!(&rule.action, Action::Mask(Mask { with: With::Key, .. }));
        self.key.as_ref().filter(|_| self.files.iter().any(needs))
    }
}

impl FileRule {
    /// Returns what people call the rule.
    pub fn title(&self) -> String {
        let action = match &self.action {
            Action::Drop => "drop",
            Action::Replace(_) => "replace",
            Action::Mask(_) => "mask",
        };
        format!("{action} {}", self.patterns.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(action: Action) -> Sanitize {
        Sanitize {
            key: None,
            key_version: None,
            files: vec![FileRule { patterns: vec!["*".to_owned()], action }],
        }
    }

    fn mask(regex: &str, with: With) -> Action {
        Action::Mask(Mask { find: Vec::new(), regex: vec![regex.to_owned()], with })
    }

    #[test]
    fn rules_that_cannot_work_are_named() {
        assert_eq!(rules(Action::Drop).check(), Ok(()));
        assert_eq!(rules(mask("a", With::Key)).check(), Err(InvalidSanitize::Key(1)));
        assert!(matches!(rules(mask("(", With::Filler)).check(), Err(InvalidSanitize::Mask(1, _))));
        assert!(matches!(
            rules(mask("a*", With::Filler)).check(),
            Err(InvalidSanitize::Mask(1, InvalidMask::Empty(_)))
        ));
        let nothing = Mask { find: Vec::new(), regex: Vec::new(), with: With::Filler };
        assert_eq!(rules(Action::Mask(nothing)).check(), Err(InvalidSanitize::Nothing(1)));
        let long = rules(Action::Replace("x".repeat(RULES_BYTES_MAX)));
        assert!(matches!(long.check(), Err(InvalidSanitize::Bytes(_))));
    }

    #[test]
    fn a_key_is_needed_only_where_a_mask_uses_it() {
        let key = Some("${secret:m}".parse().unwrap());
        assert_eq!(Sanitize { key: key.clone(), ..rules(mask("a", With::Filler)) }.needed_key(), None);
        assert_eq!(Sanitize { key: key.clone(), ..rules(mask("a", With::Key)) }.needed_key(), key.as_ref());
    }
}
