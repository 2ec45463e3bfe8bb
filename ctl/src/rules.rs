//! What of a tree moves, and as whose: the flags that `ctl migrate` has for it.

use std::path::{Path, PathBuf};

use common::clock::{self, WallMs};
use common::filter;
use common::human;
use common::owner_map::{InvalidOwnerMap, OwnerMap};
use common::rules::{BackupDir, Rules};

use crate::failure::CommandError;

/// What moves, and as whose.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What moves, and as whose")]
pub(crate) struct RuleArgs {
    /// Leave out what matches; may be given again, and the last pattern that matches decides. `!PATTERN` keeps what an
    /// earlier one leaves out
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same with the patterns of this file, one a line as in a gitignore file; they come before those of --exclude
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
    /// Keep what matches, whatever --exclude says and wherever it stands (rsync would take the first that matches); may be
    /// given again
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// The same with the patterns of this file
    #[arg(long, value_name = "FILE")]
    include_from: Vec<PathBuf>,
    /// Leave out larger files, as 1GiB. What is left out for its size or age is neither changed nor removed at the
    /// destination, with --delete either; the result says how many files that were
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    max_size: Option<u64>,
    /// Leave out smaller files
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    min_size: Option<u64>,
    /// Leave out files that were last changed longer ago, as 30d, or before a date, as 2026-11-21. Counted once, when
    /// the migration is made
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    max_age: Option<WallMs>,
    /// Leave out files that were changed within this time, or since a date
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    min_age: Option<WallMs>,
    /// Leave out what is mounted below the source's root, and remove nothing from what is mounted below the
    /// destination's; a mount point itself is made as an empty directory
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Bring what a link leads to in its place, if that is below the source's root; what leads out of it, nowhere or back
    /// to where it is comes not at all and is told. Links are kept as they are without this
    #[arg(short = 'L', long)]
    copy_links: bool,
    /// Keep what is replaced or removed in this directory inside of the destination's root, under the path that it had,
    /// as .backup/2026-11-21. It appears there when the way back ends (at once, without --rollback-window), so a
    /// rollback gives back everything as ever; a version that stands there already stays, and the new one gets a number.
    /// The directory is no part of the tree: nothing in it is sent, compared or removed. What is mounted below the root
    /// is not changed with this
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<BackupDir>,
    /// Say whose the files of a user become: FROM is a name, in which * may stand, a number, a range of numbers, * for
    /// everybody, or nothing for numbers without a name; TO is a name or number of the destination. The first that
    /// matches counts; ACLs follow
    #[arg(long, value_name = "FROM:TO,…")]
    usermap: Option<OwnerMap>,
    /// The same for groups
    #[arg(long, value_name = "FROM:TO,…")]
    groupmap: Option<OwnerMap>,
    /// Give everything to one owner: the same as --usermap *:USER --groupmap *:GROUP
    #[arg(long, value_name = "USER:GROUP", value_parser = parse_owner, conflicts_with_all = ["usermap", "groupmap"])]
    chown: Option<(OwnerMap, OwnerMap)>,
}

fn parse_moment(text: &str) -> Result<WallMs, human::InvalidQuantity> {
    human::parse_moment(text, clock::wall())
}

fn parse_owner(text: &str) -> Result<(OwnerMap, OwnerMap), InvalidOwnerMap> {
    OwnerMap::of_owner(text)
}

impl RuleArgs {
    /// Returns the patterns that leave out, and those that keep.
    ///
    /// # Errors
    /// When a file of patterns cannot be read.
    pub(crate) fn patterns(&self) -> Result<(Vec<String>, Vec<String>), CommandError> {
        Ok((gathered(&self.exclude_from, &self.exclude)?, gathered(&self.include_from, &self.include)?))
    }

    /// Returns the other rules.
    pub(crate) fn rules(&self) -> Rules {
        let maps = || (self.usermap.clone().unwrap_or_default(), self.groupmap.clone().unwrap_or_default());
        let (usermap, groupmap) = self.chown.clone().unwrap_or_else(maps);
        Rules {
            max_size: self.max_size,
            min_size: self.min_size,
            changed_since: self.max_age,
            changed_before: self.min_age,
            one_file_system: self.one_file_system,
            copy_links: self.copy_links,
            backup_dir: self.backup_dir.clone(),
            usermap,
            groupmap,
        }
    }
}

fn gathered(files: &[PathBuf], patterns: &[String]) -> Result<Vec<String>, CommandError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file)?);
    }
    all.extend_from_slice(patterns);
    Ok(all)
}

fn read(file: &Path) -> Result<Vec<String>, CommandError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| CommandError::io("reading", file.display(), &error))?;
    Ok(filter::lines(&text).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_files_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("patterns");
        std::fs::write(&file, "# caches\n/cache/\n\n*.log\n").unwrap();
        let args = RuleArgs {
            exclude: vec!["!keep.log".to_owned()],
            exclude_from: vec![file],
            ..RuleArgs::default()
        };
        let (exclude, include) = args.patterns().unwrap();
        assert_eq!(
            (exclude, include),
            (["/cache/", "*.log", "!keep.log"].map(str::to_owned).to_vec(), Vec::new())
        );
        let missing = RuleArgs { include_from: vec![folder.path().join("none")], ..RuleArgs::default() };
        assert!(missing.patterns().is_err());
    }
}
