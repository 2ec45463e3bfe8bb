//! Whose a file becomes at the destination.
//!
//! Owners travel by name: web servers and customers have other numbers on another host. A number without a name at
//! the source stays only if nobody has that number here, for else a file would silently become somebody's. ACL entries
//! follow the same rule. With `numeric_ids` every number stays as it is.

use common::failure::{Failure, FailureKind};
use common::rel_path::{RelPath, escape};
use sync::acl;
use sync::byte_string::ByteString;
use sync::entry::Entry;
use sync::listing::Listing;
use sync::wire::manifest::Names;

use std::collections::HashMap;

use crate::account::Accounts;

/// What the names of the source's owners may take: two hundred thousand of usual length.
const NAMES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a name takes beside its letters.
const NAME_BYTES: usize = 64;

/// Maps the source's owners to this host's.
#[derive(Debug)]
pub(crate) struct Owners {
    is_numeric: bool,
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
    pub(crate) fn new(is_numeric: bool) -> Self {
        Self {
            is_numeric,
            accounts: Accounts::default(),
            user_names: HashMap::new(),
            group_names: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes the source's names of the owners of the entries that follow.
    ///
    /// # Errors
    /// When there are more names than memory is spent on.
    pub(crate) fn learn(&mut self, names: Names) -> Result<(), Failure> {
        if self.is_numeric {
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
        if self.is_numeric {
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
        match self.user_names.get(&uid) {
            Some(name) => self.accounts.user_id(name)?.ok_or_else(|| unknown(path, "user", name)),
            None => match self.accounts.user_name(uid)? {
                None => Ok(uid),
                Some(name) => Err(taken(path, "user", uid, &name)),
            },
        }
    }

    fn group(&mut self, path: &RelPath, gid: u32) -> Result<u32, Failure> {
        match self.group_names.get(&gid) {
            Some(name) => self.accounts.group_id(name)?.ok_or_else(|| unknown(path, "group", name)),
            None => match self.accounts.group_name(gid)? {
                None => Ok(gid),
                Some(name) => Err(taken(path, "group", gid, &name)),
            },
        }
    }
}

fn unknown(path: &RelPath, noun: &str, name: &[u8]) -> Failure {
    let name = escape(name);
    Failure::new(
        FailureKind::Invalid,
        format!("the {noun} `{name}` of `{path}` does not exist at the destination"),
    )
    .context("path", path.to_string())
    .hint(format!(
        "Create the {noun} `{name}` at the destination, or move numbers as they are with --numeric-ids."
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

    fn owners(users: &[(u32, &str)]) -> Owners {
        let mut owners = Owners::new(false);
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
        assert_eq!(Owners::new(true).map(&path, &entry(5, 5, acl(5))).unwrap().xattrs, acl(5));
    }
}
