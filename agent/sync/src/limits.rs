//! Which files are left out for their size or age.
//!
//! The source judges, because it has the file before it; such a file is no entry of its listing but a problem with a
//! reason of a known form. So it is neither brought nor removed, as where rsync has `--max-size`.

use common::clock::WallMs;
use common::rules::Rules;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Kind};
use crate::listing::Problem;
use crate::stamp::Time;

/// Bounds of size and age for regular files; the default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Larger files are left out.
    pub max_size: Option<u64>,
    /// Smaller files are left out.
    pub min_size: Option<u64>,
    /// Files that were changed before are left out.
    pub since: Option<Time>,
    /// Files that were changed at this time or later are left out.
    pub before: Option<Time>,
}

/// Why a file is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is too large or too small.
    BySize,
    /// It was changed too early or too late.
    ByAge,
}

impl LeftOut {
    /// The reason of the problem that stands in a listing instead of the file.
    fn why(self) -> &'static str {
        match self {
            Self::BySize => "it is left out for its size",
            Self::ByAge => "it is left out for its age",
        }
    }

    /// Returns what stands in a listing instead of a file of this name.
    pub fn problem(self, name: &[u8]) -> Problem {
        Problem { name: name.to_vec(), why: self.why().to_owned() }
    }

    /// Returns why a file is left out, if that is what a problem says.
    pub fn of(problem: &Problem) -> Option<Self> {
        [Self::BySize, Self::ByAge].into_iter().find(|reason| problem.why == reason.why())
    }
}

impl Limits {
    /// Returns the limits that rules hold.
    pub fn of(rules: &Rules) -> Self {
        let time = |wall: WallMs| Time {
            seconds: i64::try_from(wall.0 / 1000).unwrap_or(i64::MAX),
            nanos: u32::try_from(wall.0 % 1000).unwrap_or(0) * 1_000_000,
        };
        Self {
            max_size: rules.max_size,
            min_size: rules.min_size,
            since: rules.changed_since.map(time),
            before: rules.changed_before.map(time),
        }
    }

    /// Whether its times are times.
    pub(crate) fn is_possible(&self) -> bool {
        self.since.iter().chain(&self.before).all(|time| time.is_possible())
    }

    /// Returns why an entry is left out, if it is.
    pub fn judge(&self, entry: &Entry) -> Option<LeftOut> {
        let Kind::File { size, .. } = entry.kind else { return None };
        let is_size =
            self.max_size.is_none_or(|max| size <= max) && self.min_size.is_none_or(|min| size >= min);
        if !is_size {
            return Some(LeftOut::BySize);
        }
        let is_age = self.since.is_none_or(|since| entry.mtime >= since)
            && self.before.is_none_or(|before| entry.mtime < before);
        (!is_age).then_some(LeftOut::ByAge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, seconds: i64) -> Entry {
        let time = Time { seconds, nanos: 0 };
        let name = b"f".to_vec();
        Entry {
            name,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            dev: 0,
            ino: 1,
            nlink: 1,
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn the_ends_of_a_range_belong_to_it() {
        let rules = Rules {
            max_size: Some(10),
            min_size: Some(2),
            changed_since: Some(WallMs(5_000)),
            changed_before: Some(WallMs(9_000)),
            ..Rules::default()
        };
        let limits = Limits::of(&rules);
        let file = |size| Kind::File { size, allocated_bytes: size };
        for (kind, seconds, expected) in [
            (file(10), 5, None),
            (file(2), 8, None),
            (file(11), 5, Some(LeftOut::BySize)),
            (file(1), 5, Some(LeftOut::BySize)),
            (file(5), 4, Some(LeftOut::ByAge)),
            (file(5), 9, Some(LeftOut::ByAge)),
            (Kind::Directory, 0, None),
            (Kind::Symlink { target: b"x".to_vec() }, 0, None),
        ] {
            assert_eq!(limits.judge(&entry(kind.clone(), seconds)), expected, "{kind:?} {seconds}");
        }
        assert!(Limits::default().judge(&entry(file(0), 0)).is_none());
        let told = LeftOut::ByAge.problem(b"f");
        assert_eq!(LeftOut::of(&told), Some(LeftOut::ByAge));
        assert_eq!(LeftOut::of(&Problem { why: "it is left out".to_owned(), ..told }), None);
    }
}
