//! POSIX ACLs as the kernel stores them in extended attributes: the numbers of owners inside them.

/// The attribute that holds a file's ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds the ACL which files made in a directory inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = [2, 0, 0, 0];
const ENTRY_BYTES: usize = 8;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;

/// Whose number stands in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A user.
    User(u32),
    /// A group.
    Group(u32),
}

/// Whether an attribute of this name holds an ACL.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Returns the owners that an ACL names; nothing when the bytes are no ACL of the known version.
pub fn owners(value: &[u8]) -> Option<Vec<Owner>> {
    let entries = entries(value)?;
    Some(entries.chunks_exact(ENTRY_BYTES).filter_map(owner).collect())
}

/// Returns the ACL with each owner's number replaced; nothing when the bytes are no ACL of the known version, or when
/// `replace` has nothing for an owner.
///
/// The kernel wants entries of one tag in the order of their numbers, so they are sorted again. Owners that become one
/// may what any of them might.
pub fn replace_owners(value: &[u8], mut replace: impl FnMut(Owner) -> Option<u32>) -> Option<Vec<u8>> {
    let entries = entries(value)?;
    let mut replaced: Vec<[u8; ENTRY_BYTES]> = Vec::with_capacity(entries.len() / ENTRY_BYTES);
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let mut new = [0; ENTRY_BYTES];
        new.copy_from_slice(entry);
        if let Some(owner) = owner(entry) {
            new[4..].copy_from_slice(&replace(owner)?.to_le_bytes());
        }
        replaced.push(new);
    }
    let tag = |entry: &[u8; ENTRY_BYTES]| u16::from_le_bytes([entry[0], entry[1]]);
    let id = |entry: &[u8; ENTRY_BYTES]| u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
    replaced.sort_by_key(|entry| (tag(entry), id(entry)));
    replaced.dedup_by(|next, first| {
        let is_one = owner(next.as_slice()).is_some() && owner(next.as_slice()) == owner(first.as_slice());
        if is_one {
            first[2] |= next[2];
        }
        is_one
    });
    let mut acl = VERSION.to_vec();
    acl.extend(replaced.into_iter().flatten());
    Some(acl)
}

fn entries(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(&VERSION).filter(|entries| entries.len() % ENTRY_BYTES == 0)
}

fn owner(entry: &[u8]) -> Option<Owner> {
    let [tag0, tag1, _, _, a, b, c, d] = *entry else { return None };
    let id = u32::from_le_bytes([a, b, c, d]);
    match u16::from_le_bytes([tag0, tag1]) {
        TAG_USER => Some(Owner::User(id)),
        TAG_GROUP => Some(Owner::Group(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, owners, replace_owners};

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn named_owners_are_found_replaced_and_sorted() {
        let all = u32::MAX;
        let value = acl(&[
            (1, 6, all),
            (2, 4, 10),
            (2, 4, 20),
            (4, 4, all),
            (8, 4, 30),
            (0x10, 4, all),
            (0x20, 0, all),
        ]);
        assert_eq!(owners(&value).unwrap(), [Owner::User(10), Owner::User(20), Owner::Group(30)]);
        let swap = |owner| match owner {
            Owner::User(10) => Some(99),
            Owner::User(id) | Owner::Group(id) => Some(id),
        };
        let expected = acl(&[
            (1, 6, all),
            (2, 4, 20),
            (2, 4, 99),
            (4, 4, all),
            (8, 4, 30),
            (0x10, 4, all),
            (0x20, 0, all),
        ]);
        assert_eq!(replace_owners(&value, swap).unwrap(), expected);
        assert_eq!(replace_owners(&value, |_| None), None);
        assert_eq!(owners(&[1, 0, 0, 0]), None);
        assert_eq!(owners(&[2, 0, 0, 0, 1]), None);
        assert_eq!(owners(&[2, 0, 0, 0]).unwrap(), []);
    }
}
