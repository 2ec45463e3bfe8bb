//! Names and numbers of users and groups on this host.
//!
//! Asked through the C library, so that every source of accounts that the host uses is heard, and remembered, since a
//! tree names few owners many times. A host that cannot answer gives an error, never "no such name": an owner that is
//! guessed is worse than a move that waits.

use std::collections::HashMap;
use std::hash::Hash;

use common::failure::{Failure, FailureKind};
use nix::unistd::{Gid, Group, Uid, User};

/// Answers remembered of each sort; a tree with more owners than this asks again.
const REMEMBERED_MAX: usize = 65_536;

/// The accounts of this host, as far as they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    user_names: HashMap<u32, Option<Vec<u8>>>,
    group_names: HashMap<u32, Option<Vec<u8>>>,
    user_ids: HashMap<Vec<u8>, Option<u32>>,
    group_ids: HashMap<Vec<u8>, Option<u32>>,
}

impl Accounts {
    /// Returns the name of a user, if the number has one.
    pub(crate) fn user_name(&mut self, uid: u32) -> Result<Option<Vec<u8>>, Failure> {
        remembered(&mut self.user_names, uid, |uid| {
            User::from_uid(Uid::from_raw(*uid)).map(|user| user.map(|user| user.name.into_bytes()))
        })
    }

    /// Returns the name of a group, if the number has one.
    pub(crate) fn group_name(&mut self, gid: u32) -> Result<Option<Vec<u8>>, Failure> {
        remembered(&mut self.group_names, gid, |gid| {
            Group::from_gid(Gid::from_raw(*gid)).map(|group| group.map(|group| group.name.into_bytes()))
        })
    }

    /// Returns the number of a user, if the name has one.
    pub(crate) fn user_id(&mut self, name: &[u8]) -> Result<Option<u32>, Failure> {
        remembered(&mut self.user_ids, name.to_vec(), |name| match std::str::from_utf8(name) {
            Ok(name) => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
            Err(_not_text) => Ok(None),
        })
    }

    /// Returns the number of a group, if the name has one.
    pub(crate) fn group_id(&mut self, name: &[u8]) -> Result<Option<u32>, Failure> {
        remembered(&mut self.group_ids, name.to_vec(), |name| match std::str::from_utf8(name) {
            Ok(name) => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
            Err(_not_text) => Ok(None),
        })
    }
}

fn remembered<K: Eq + Hash, V: Clone>(
    known: &mut HashMap<K, Option<V>>,
    key: K,
    ask: impl FnOnce(&K) -> nix::Result<Option<V>>,
) -> Result<Option<V>, Failure> {
    if let Some(answer) = known.get(&key) {
        return Ok(answer.clone());
    }
    let answer = ask(&key).map_err(|errno| {
        Failure::new(FailureKind::Unreachable, format!("failed to ask this host for its accounts: {errno}"))
            .hint("Check that `getent passwd` and `getent group` answer on the host, or use --numeric-ids.")
    })?;
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(key, answer.clone());
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_root_and_nobody_has_an_odd_number() {
        let mut accounts = Accounts::default();
        assert_eq!(accounts.user_name(0).unwrap().as_deref(), Some(&b"root"[..]));
        assert_eq!(accounts.user_id(b"root").unwrap(), Some(0));
        assert_eq!(accounts.group_id(b"root").unwrap(), Some(0));
        assert_eq!(accounts.user_name(3_999_999_999).unwrap(), None);
        assert_eq!(accounts.group_name(3_999_999_999).unwrap(), None);
        assert_eq!(accounts.user_id(b"no-such-user-\xff").unwrap(), None);
        assert_eq!(accounts.user_id(b"no such user").unwrap(), None);
    }
}
