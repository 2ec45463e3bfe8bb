//! What of a tree moves besides what patterns leave out, and whose it becomes.
//!
//! The same value stands in a spec's `transfer` and in the parameters of file steps, so that every pass and every
//! verification go by one set of rules.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::filter::{Filter, InvalidPattern};
use crate::owner_map::OwnerMap;
use crate::rel_path::RelPath;

/// The longest path of a backup directory, so that the paths below it have room.
const BACKUP_BYTES_MAX: usize = 1024;
/// The longest name of a file system.
const NAME_BYTES_MAX: usize = 255;

/// Rules for the whole tree; the default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Larger files are left out; in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Smaller files are left out; in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// Files that were changed before are left out: `max_age`, counted when the spec was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<WallMs>,
    /// Files that were changed later are left out: `min_age`, counted when the spec was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_before: Option<WallMs>,
    /// What is mounted below the root is left out, and removed nowhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_file_system: bool,
    /// What a link leads to comes in its place, if that is below the root.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub copy_links: bool,
    /// Where in the destination's root earlier versions go when the way back ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_dir: Option<BackupDir>,
    /// Who becomes whom.
    #[serde(skip_serializing_if = "OwnerMap::is_empty")]
    pub usermap: OwnerMap,
    /// Which group becomes which.
    #[serde(skip_serializing_if = "OwnerMap::is_empty")]
    pub groupmap: OwnerMap,
}

/// A directory below the destination's root for earlier versions of what is replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupDir(String);

/// A text that names no directory below a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no path inside of the destination's root: write it relative to the root and without `..`, as .backup/2026-11-21"
)]
pub struct InvalidBackupDir(String);

impl BackupDir {
    /// Returns its path below the root.
    pub fn path(&self) -> RelPath {
        RelPath::try_from(self.0.as_bytes().to_vec()).unwrap_or_default()
    }
}

impl FromStr for BackupDir {
    type Err = InvalidBackupDir;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
        let is_path = !trimmed.is_empty() && RelPath::try_from(trimmed.as_bytes().to_vec()).is_ok();
        // The names of stages are the program's own.
        let is_free =
            trimmed.split('/').all(|name| name.len() <= NAME_BYTES_MAX && !name.starts_with(".drover-"));
        if is_path && is_free && trimmed.len() <= BACKUP_BYTES_MAX {
            Ok(Self(trimmed.to_owned()))
        } else {
            Err(InvalidBackupDir(text.to_owned()))
        }
    }
}

impl fmt::Display for BackupDir {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for BackupDir {
    type Error = InvalidBackupDir;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BackupDir> for String {
    fn from(backup: BackupDir) -> Self {
        backup.0
    }
}

/// Why rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// No size is left.
    #[error("no file is at least {min} and at most {max} bytes long, so nothing would be moved")]
    Sizes {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// No age is left.
    #[error("no file was changed both after `max_age` and before `min_age`, so nothing would be moved")]
    Ages,
    /// A link would lead around the rules.
    #[error(
        "`copy_links` and `sanitize` do not go together: a link would lead around the rules of its target"
    )]
    Links,
    /// A pattern.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
}

impl Rules {
    /// Whether there is nothing to say.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether files may be left out for their size or age.
    pub fn has_limits(&self) -> bool {
        let Self { max_size, min_size, changed_since, changed_before, .. } = self;
        max_size.or(*min_size).is_some() || changed_since.or(*changed_before).is_some()
    }

    /// Checks what fits together, with the patterns that stand beside the rules.
    ///
    /// # Errors
    /// When nothing could ever be moved, or a pattern cannot be read.
    pub fn check<'a>(
        &self,
        exclude: impl IntoIterator<Item = &'a String>,
        include: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), InvalidRules> {
        let (exclude, include): (Vec<_>, Vec<_>) =
            (exclude.into_iter().collect(), include.into_iter().collect());
        Filter::new(&exclude, &include)?;
        if let (Some(min), Some(max)) = (self.min_size, self.max_size)
            && min > max
        {
            return Err(InvalidRules::Sizes { min, max });
        }
        match (self.changed_since, self.changed_before) {
            (Some(since), Some(before)) if since >= before => Err(InvalidRules::Ages),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_leave_nothing_are_refused() {
        let none: [String; 0] = [];
        let check = |rules: &Rules| rules.check(&none, &none);
        assert_eq!(check(&Rules::default()), Ok(()));
        let sizes = Rules { min_size: Some(2), max_size: Some(1), ..Rules::default() };
        assert_eq!(check(&sizes), Err(InvalidRules::Sizes { min: 2, max: 1 }));
        let (since, before) = (Some(WallMs(5)), Some(WallMs(5)));
        let ages = Rules { changed_since: since, changed_before: before, ..Rules::default() };
        assert_eq!(check(&ages), Err(InvalidRules::Ages));
        let bad = Rules::default().check(&["[".to_owned()], &none);
        assert!(matches!(bad, Err(InvalidRules::Pattern(InvalidPattern::Unclosed { .. }))));
    }

    #[test]
    fn a_backup_directory_is_inside_of_the_root() {
        let parse = |text: &str| text.parse::<BackupDir>().map(|backup| backup.to_string());
        for (text, expected) in [("kept", "kept"), ("./a/b/", "a/b"), (".backup/x y", ".backup/x y")] {
            assert_eq!(parse(text).unwrap(), expected);
        }
        for text in
            ["", ".", "/", "/srv/kept", "../kept", "a/../b", "a//b", "a/.", ".drover-x", "a/.drover-x/b"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_rules_are_no_keys() {
        assert_eq!(serde_json::to_string(&Rules::default()).unwrap(), "{}");
        assert!(
            !Rules::default().has_limits() && Rules { min_size: Some(1), ..Rules::default() }.has_limits()
        );
    }
}
