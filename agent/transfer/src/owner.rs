//! Whose a file becomes at the destination.
//!
//! Owners travel by name: web servers and customers have other numbers on another host. A number without a name at
//! the source stays only if nobody has that number here, for else a file would silently become somebody's. ACL entries
//! follow the same rule. With `numeric_ids` every number stays as it is. Before all that come the maps of the rules,
//! which say of a name or a number at the source whose it becomes.

use common::failure::{Failure, FailureKind};
use common::filter::Filter;
use common::owner_map::{Account, OwnerMap, OwnerRule, Whom};
use common::rel_path::{RelPath, escape};
use common::step::file::FileParams;
use sync::acl;
use sync::byte_string::ByteString;
use sync::entry::Entry;
use sync::listing::Listing;
use sync::wire::manifest::Names;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::account::Accounts;

/// What the names of the source's owners may take: two hundred thousand of usual length.
const NAMES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a name takes beside its letters.
const NAME_BYTES: usize = 64;

/// Maps the source's owners to this host's.
#[derive(Debug)]
pub(crate) struct Owners {
    is_numeric: bool,
    usermap: Vec<Mapping>,
    groupmap: Vec<Mapping>,
    accounts: Accounts,
    user_names: HashMap<u32, Vec<u8>>,
    group_names: HashMap<u32, Vec<u8>>,
    /// What the names take.
    bytes: usize,
}

/// The owner of an entry in this host's numbers, and its attributes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) xattrs: Vec<(ByteString, ByteString)>,
}

impl Owners {
    /// Makes a mapping that knows no names of the source yet.
    ///
    /// # Errors
    /// `Invalid` when the rules name somebody who does not exist here.
    pub(crate) fn new(params: &FileParams) -> Result<Self, Failure> {
        let mut accounts = Accounts::default();
        let usermap = mappings(&params.rules.usermap, "user", |name| accounts.user_id(name))?;
        let groupmap = mappings(&params.rules.groupmap, "group", |name| accounts.group_id(name))?;
        Ok(Self {
            is_numeric: params.numeric_ids,
            usermap,
            groupmap,
            accounts,
            user_names: HashMap::new(),
            group_names: HashMap::new(),
            bytes: 0,
        })
    }

    /// Takes the source's names of the owners of the entries that follow.
    ///
    /// # Errors
    /// When there are more names than memory is spent on.
    pub(crate) fn learn(&mut self, names: Names) -> Result<(), Failure> {
        // Maps go by names, also where numbers stay as they are.
        if self.is_numeric && self.usermap.is_empty() && self.groupmap.is_empty() {
            return Ok(());
        }
        for (known, told) in [(&mut self.user_names, names.users), (&mut self.group_names, names.groups)] {
            for (id, ByteString(name)) in told {
                self.bytes += name.len() + NAME_BYTES;
                if let Some(before) = known.insert(id, name) {
                    self.bytes -= before.len() + NAME_BYTES;
                }
            }
        }
        if self.bytes > NAMES_BYTES_MAX {
            return Err(Failure::new(
                FailureKind::Unsupported,
                "the source's tree has more owners than an agent keeps in memory",
            )
            .hint("Move the tree in parts, or move numbers as they are with --numeric-ids."));
        }
        Ok(())
    }

    /// Returns whose `entry` becomes here.
    ///
    /// # Errors
    /// `Invalid` when an owner has no place here, with the entry's path.
    pub(crate) fn map(&mut self, path: &RelPath, entry: &Entry) -> Result<Owned, Failure> {
        if self.is_numeric && self.usermap.is_empty() && self.groupmap.is_empty() {
            return Ok(Owned { uid: entry.uid, gid: entry.gid, xattrs: entry.xattrs.clone() });
        }
        let uid = self.user(path, entry.uid)?;
        let gid = self.group(path, entry.gid)?;
        let mut xattrs = entry.xattrs.clone();
        for (name, value) in &mut xattrs {
            if acl::is_acl(&name.0) {
                value.0 = self.acl(path, &value.0)?;
            }
        }
        Ok(Owned { uid, gid, xattrs })
    }

    /// Puts this host's owners into an entry.
    ///
    /// # Errors
    /// As [`Owners::map`].
    pub(crate) fn apply(&mut self, path: &RelPath, entry: &mut Entry) -> Result<(), Failure> {
        let Owned { uid, gid, xattrs } = self.map(path, entry)?;
        (entry.uid, entry.gid, entry.xattrs) = (uid, gid, xattrs);
        Ok(())
    }

    /// Puts this host's owners into all entries of a listing.
    ///
    /// # Errors
    /// As [`Owners::map`].
    pub(crate) fn apply_all(&mut self, listing: &mut Listing) -> Result<(), Failure> {
        for entry in &mut listing.entries {
            let path =
                listing.path.join(&entry.name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
            self.apply(&path, entry)?;
        }
        Ok(())
    }

    fn acl(&mut self, path: &RelPath, value: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut refused = None;
        let mapped = acl::replace_owners(value, |owner| {
            let mapped = match owner {
                acl::Owner::User(uid) => self.user(path, uid),
                acl::Owner::Group(gid) => self.group(path, gid),
            };
            mapped.map_err(|failure| refused = Some(failure)).ok()
        });
        match (mapped, refused) {
            (Some(value), _) => Ok(value),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure::new(
                FailureKind::Unsupported,
                format!("the ACL of `{path}` has an unknown form"),
            )
            .hint("Remove the ACL at the source, or leave the entry out with --exclude.")),
        }
    }

    fn user(&mut self, path: &RelPath, uid: u32) -> Result<u32, Failure> {
        let name = self.user_names.get(&uid);
        if let Some(mapped) = mapped(&self.usermap, uid, name) {
            return Ok(mapped);
        }
        if self.is_numeric {
            return Ok(uid);
        }
        match name {
            Some(name) => self.accounts.user_id(name)?.ok_or_else(|| unknown(path, "user", name)),
            None => match self.accounts.user_name(uid)? {
                None => Ok(uid),
                Some(name) => Err(taken(path, "user", uid, &name)),
            },
        }
    }

    fn group(&mut self, path: &RelPath, gid: u32) -> Result<u32, Failure> {
        let name = self.group_names.get(&gid);
        if let Some(mapped) = mapped(&self.groupmap, gid, name) {
            return Ok(mapped);
        }
        if self.is_numeric {
            return Ok(gid);
        }
        match name {
            Some(name) => self.accounts.group_id(name)?.ok_or_else(|| unknown(path, "group", name)),
            None => match self.accounts.group_name(gid)? {
                None => Ok(gid),
                Some(name) => Err(taken(path, "group", gid, &name)),
            },
        }
    }
}

/// A rule of a map, its names looked up.
#[derive(Debug)]
struct Mapping {
    from: From,
    to: u32,
}

#[derive(Debug)]
enum From {
    All,
    Nameless,
    /// Names that the pattern matches.
    Named(Filter),
    Numbered(RangeInclusive<u32>),
}

/// Makes the rules of a map ready.
fn mappings(
    map: &OwnerMap,
    noun: &str,
    mut number_of: impl FnMut(&[u8]) -> Result<Option<u32>, Failure>,
) -> Result<Vec<Mapping>, Failure> {
    let ready = |rule: &OwnerRule| {
        let from = match &rule.from {
            Whom::All => From::All,
            Whom::Nameless => From::Nameless,
            Whom::Named(pattern) => From::Named(
                Filter::new(&[pattern], &[]).map_err(|error| Failure::of(FailureKind::Invalid, &error))?,
            ),
            Whom::Numbered(low, high) => From::Numbered(*low..=*high),
        };
        let to = match &rule.to {
            Account::Number(number) => *number,
            Account::Name(name) => number_of(name.as_bytes())?.ok_or_else(|| {
                let message =
                    format!("the {noun} `{name}`, whose files shall be, does not exist at the destination");
                let hint = format!("Create the {noun} there, or name another one in `{noun}map` or `chown`.");
                Failure::new(FailureKind::Invalid, message).hint(hint)
            })?,
        };
        Ok(Mapping { from, to })
    };
    map.rules().iter().map(ready).collect()
}

/// Returns who an owner becomes by the first rule that matches.
fn mapped(mappings: &[Mapping], number: u32, name: Option<&Vec<u8>>) -> Option<u32> {
    let matches = |mapping: &&Mapping| match (&mapping.from, name) {
        (From::All, _) | (From::Nameless, None) => true,
        (From::Named(pattern), Some(name)) => pattern.leaves_out(&RelPath::root(), name, false),
        (From::Numbered(range), _) => range.contains(&number),
        (From::Nameless, Some(_)) | (From::Named(_), None) => false,
    };
    mappings.iter().find(matches).map(|mapping| mapping.to)
}

fn unknown(path: &RelPath, noun: &str, name: &[u8]) -> Failure {
    let name = escape(name);
    Failure::new(
        FailureKind::Invalid,
        format!("the {noun} `{name}` of `{path}` does not exist at the destination"),
    )
    .context("path", path.to_string())
    .hint(format!(
        "Create the {noun} `{name}` at the destination, say who it becomes with --{noun}map, or move numbers as they are with --numeric-ids."
    ))
}

fn taken(path: &RelPath, noun: &str, id: u32, name: &[u8]) -> Failure {
    let name = escape(name);
    let message = format!(
        "the {noun} number {id} of `{path}` has no name at the source but is `{name}` at the destination"
    );
    Failure::new(FailureKind::Invalid, message).context("path", path.to_string()).hint(format!(
        "Give the {noun} {id} a name at the source, or move numbers as they are with --numeric-ids."
    ))
}

#[cfg(test)]
mod tests {
    use common::rules::Rules;
    use sync::entry::Kind;
    use sync::stamp::Time;

    use super::*;

    const NO_NAME: u32 = 3_999_999_999;

    fn entry(uid: u32, gid: u32, xattrs: Vec<(ByteString, ByteString)>) -> Entry {
        let time = Time { seconds: 0, nanos: 0 };
        let (kind, name) = (Kind::Fifo, b"f".to_vec());
        Entry {
            name,
            kind,
            mode: 0o644,
            uid,
            gid,
            mtime: time,
            ctime: time,
            dev: 1,
            ino: 1,
            nlink: 1,
            xattrs,
        }
    }

    fn mapping(usermap: &str, groupmap: &str, numeric_ids: bool) -> Result<Owners, Failure> {
        let (usermap, groupmap) = (usermap.parse().unwrap(), groupmap.parse().unwrap());
        let rules = Rules { usermap, groupmap, ..Rules::default() };
        Owners::new(&FileParams { numeric_ids, rules, ..FileParams::between("/a", "/b") })
    }

    fn owners(users: &[(u32, &str)]) -> Owners {
        learned(mapping("", "", false).unwrap(), users)
    }

    fn learned(mut owners: Owners, users: &[(u32, &str)]) -> Owners {
        let named = |(id, name): &(u32, &str)| (*id, ByteString(name.as_bytes().to_vec()));
        owners
            .learn(Names {
                users: users.iter().map(named).collect(),
                groups: vec![(77, ByteString(b"root".to_vec()))],
            })
            .unwrap();
        owners
    }

    #[test]
    fn names_count_not_numbers() {
        let path = RelPath::root();
        let mut owners = owners(&[(1234, "root"), (5, "no-such-user-here")]);
        let owned = owners.map(&path, &entry(1234, 77, Vec::new())).unwrap();
        assert_eq!((owned.uid, owned.gid), (0, 0));
        let unknown = owners.map(&path, &entry(5, 77, Vec::new())).unwrap_err();
        assert_eq!(unknown.kind, FailureKind::Invalid);
        assert!(
            unknown.message.contains("no-such-user-here") && unknown.hint.unwrap().contains("--numeric-ids")
        );
    }

    #[test]
    fn a_number_without_a_name_must_not_become_somebody() {
        let path = RelPath::root();
        let mut owners = owners(&[]);
        assert_eq!(owners.map(&path, &entry(NO_NAME, 77, Vec::new())).unwrap().uid, NO_NAME);
        let taken = owners.map(&path, &entry(0, 77, Vec::new())).unwrap_err();
        assert!(taken.message.contains("`root` at the destination"), "{taken}");
    }

    #[test]
    fn acls_follow_the_same_rule() {
        let acl = |id: u32| {
            let mut value = vec![2, 0, 0, 0, 2, 0, 6, 0];
            value.extend(id.to_le_bytes());
            vec![(ByteString(acl::ACCESS.to_vec()), ByteString(value))]
        };
        let path = RelPath::root();
        let mut owners = owners(&[(1234, "root"), (5, "no-such-user-here")]);
        let owned = owners.map(&path, &entry(1234, 77, acl(1234))).unwrap();
        assert_eq!(owned.xattrs, acl(0));
        assert!(owners.map(&path, &entry(1234, 77, acl(5))).is_err());
        assert_eq!(mapping("", "", true).unwrap().map(&path, &entry(5, 5, acl(5))).unwrap().xattrs, acl(5));
    }

    #[test]
    fn maps_come_before_names_and_numbers() {
        let path = RelPath::root();
        let users = [(1234, "web1"), (5, "no-such-user-here"), (6, "daemon")];
        let maps = "web?:root,no-such*:77,1500-1600:88,:99";
        let mut owners = learned(mapping(maps, "*:root", false).unwrap(), &users);
        let mut uid = |uid| owners.map(&path, &entry(uid, 4, Vec::new())).map(|owned| (owned.uid, owned.gid));
        assert_eq!(uid(1234).unwrap(), (0, 0));
        assert_eq!(uid(5).unwrap(), (77, 0));
        assert_eq!(uid(1550).unwrap(), (88, 0));
        assert_eq!(uid(NO_NAME).unwrap(), (99, 0));
        // Whom no rule names follows his name.
        assert_eq!(uid(6).unwrap().0, Accounts::default().user_id(b"daemon").unwrap().unwrap());

        // A map goes by names also where numbers stay as they are.
        let mut numeric = learned(mapping("web1:0,7:70", "", true).unwrap(), &users);
        let mut uid = |uid| numeric.map(&path, &entry(uid, 4, Vec::new())).unwrap().uid;
        assert_eq!((uid(1234), uid(7), uid(8)), (0, 70, 8));

        let refused = mapping("", "a:no-such-group-here", false).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Invalid);
        assert!(refused.message.contains("no-such-group-here") && refused.hint.unwrap().contains("groupmap"));
    }

    #[test]
    fn what_a_map_makes_equal_in_an_acl_becomes_one() {
        let acl = |entries: &[(u8, u32)]| {
            let mut value = vec![2, 0, 0, 0];
            for (permissions, id) in entries {
                value.extend([2, 0, *permissions, 0]);
                value.extend(id.to_le_bytes());
            }
            vec![(ByteString(acl::ACCESS.to_vec()), ByteString(value))]
        };
        let mut owners = mapping("*:9", "", true).unwrap();
        let owned = owners.map(&RelPath::root(), &entry(1, 1, acl(&[(4, 5), (2, 6), (4, 7)]))).unwrap();
        assert_eq!((owned.uid, owned.xattrs), (9, acl(&[(6, 9)])));
    }
}
