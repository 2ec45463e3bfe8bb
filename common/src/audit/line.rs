//! One line of the audit, and its place in the chain.

use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::digest::Digest;
use crate::id::TenantId;

/// The version of what [`Line::digest`] covers; a new field means a new one.
const DIGEST_VERSION: u8 = 1;
/// What parts the digests of lines from all others.
const LINE_CONTEXT: &str = "drover audit line v1";
/// What parts the hashes of the chain from all others.
const CHAIN_CONTEXT: &str = "drover audit chain v1";

/// Who did what to what, from where, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Counts all lines of the cluster, from 1.
    pub number: u64,
    /// When the leader proposed it.
    pub at: WallMs,
    /// The index of its entry in the log.
    pub index: u64,
    /// Whose.
    pub tenant: TenantId,
    /// Who.
    pub principal: String,
    /// From where, as the address of the connection; none for what a coordinator did by itself.
    pub address: Option<String>,
    /// What, as `migration.cancel`.
    pub action: String,
    /// To what.
    pub object: String,
    /// Why it was refused; none when it was done.
    pub refused: Option<String>,
    /// How often, for refusals that came again within their minute.
    pub count: u32,
    /// Keeps the digest from being guessed back into the line.
    pub salt: Digest,
    /// The hash of the line before.
    pub previous: Digest,
    /// The hash of this line.
    pub hash: Digest,
}

/// A line of which only its place in the chain may be seen, as the first exports of one tenant have those of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redacted {
    /// Its number.
    pub number: u64,
    /// The digest of its fields.
    pub digest: Digest,
    /// The hash of the line before.
    pub previous: Digest,
    /// Its hash.
    pub hash: Digest,
}

/// A line as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Whole.
    Line(Box<Line>),
    /// Of another tenant.
    Redacted(Redacted),
}

impl Line {
    /// Returns the digest of what the line says; its place in the chain is not part of it, but its number is.
    pub fn digest(&self) -> Digest {
        self.digest_as(self.number)
    }

    /// Returns the digest that the line would have under another number.
    fn digest_as(&self, number: u64) -> Digest {
        // Named one by one, so that a new field cannot be forgotten.
        let Self {
            number: _,
            at,
            index,
            tenant,
            principal,
            address,
            action,
            object,
            refused,
            count,
            salt,
            previous: _,
            hash: _,
        } = self;
        let mut hasher = blake3::Hasher::new_derive_key(LINE_CONTEXT);
        hasher.update(&[DIGEST_VERSION]);
        for value in [number, at.0, *index, u64::from(*count)] {
            hasher.update(&value.to_le_bytes());
        }
        hasher.update(salt.as_bytes());
        // Lengths part the texts, so that no two lines have one encoding; an absent text is not an empty one.
        for text in [Some(tenant.as_str()), Some(principal), address.as_deref(), Some(action), Some(object)] {
            update(&mut hasher, text);
        }
        update(&mut hasher, refused.as_deref());
        hasher.finalize().into()
    }

    /// Returns the line without its place in the chain, which tells how much others do.
    pub fn placeless(&self) -> Self {
        let nothing = genesis();
        Self { number: 0, index: 0, salt: nothing, previous: nothing, hash: nothing, ..self.clone() }
    }
}

fn update(hasher: &mut blake3::Hasher, text: Option<&str>) {
    let Some(text) = text else {
        hasher.update(&u64::MAX.to_le_bytes());
        return;
    };
    hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// Returns what the first line of a cluster follows.
pub fn genesis() -> Digest {
    Digest::of(b"")
}

/// Returns the hash of a line: it covers every line before.
pub fn link(previous: Digest, number: u64, digest: Digest) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(CHAIN_CONTEXT);
    hasher.update(previous.as_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(digest.as_bytes());
    hasher.finalize().into()
}

impl Entry {
    /// Returns the line's number.
    pub fn number(&self) -> u64 {
        match self {
            Self::Line(line) => line.number,
            Self::Redacted(line) => line.number,
        }
    }

    /// Returns the hash that the line claims to follow.
    pub fn previous(&self) -> Digest {
        match self {
            Self::Line(line) => line.previous,
            Self::Redacted(line) => line.previous,
        }
    }

    /// Returns the hash that the line claims to have.
    pub fn hash(&self) -> Digest {
        match self {
            Self::Line(line) => line.hash,
            Self::Redacted(line) => line.hash,
        }
    }

    /// Returns the hash that the line has, if its number is `number`.
    pub fn computed(&self, number: u64) -> Digest {
        let digest = match self {
            Self::Line(line) => line.digest_as(number),
            Self::Redacted(line) => line.digest,
        };
        link(self.previous(), number, digest)
    }

    /// Returns the line as it stands in a file, without the end of line.
    ///
    /// # Errors
    /// When it has no JSON form, which none of ours has.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Line(line) => serde_json::to_string(line),
            Self::Redacted(line) => serde_json::to_string(line),
        }
    }

    /// Reads a line of a file; none when it is none, or is written in another way than ours.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = serde_json::from_str::<Line>(text).map(|line| Self::Line(Box::new(line)));
        let entry = whole.or_else(|_| serde_json::from_str::<Redacted>(text).map(Self::Redacted)).ok()?;
        // One line has one text: a second key or another spelling would be read by others as something else.
        (entry.to_text().ok()? == text).then_some(entry)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a chain of so many lines.
    pub(crate) fn chain(count: u64) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for number in 1..=count {
            let previous = lines.last().map_or_else(genesis, |line| line.hash);
            let mut line = Line {
                number,
                at: WallMs(1_000 * number),
                index: 10 + number,
                tenant: TenantId::default_tenant(),
                principal: "user:default/root".to_owned(),
                address: Some("192.0.2.7".to_owned()),
                action: "host.drain".to_owned(),
                object: format!("web{number}"),
                refused: None,
                count: 1,
                salt: Digest::of(&number.to_le_bytes()),
                previous,
                hash: previous,
            };
            line.hash = link(previous, number, line.digest());
            lines.push(line);
        }
        lines
    }

    /// Returns a line as the first exports of one tenant have those of others.
    pub(crate) fn redacted(line: &Line) -> Entry {
        let Line { number, previous, hash, .. } = *line;
        Entry::Redacted(Redacted { number, digest: line.digest(), previous, hash })
    }

    #[test]
    fn every_field_is_covered() {
        let line = chain(1).remove(0);
        type Alter = fn(&mut Line);
        let altered: [(&str, Alter); 11] = [
            ("number", |line| line.number += 1),
            ("at", |line| line.at.0 += 1),
            ("index", |line| line.index += 1),
            ("tenant", |line| line.tenant = "other".parse().unwrap()),
            ("principal", |line| line.principal.push('x')),
            ("address", |line| line.address = None),
            ("action", |line| line.action.push('x')),
            ("object", |line| line.object.push('x')),
            ("refused", |line| line.refused = Some(String::new())),
            ("count", |line| line.count += 1),
            ("salt", |line| line.salt = Digest::of(b"x")),
        ];
        for (field, alter) in altered {
            let mut other = line.clone();
            alter(&mut other);
            assert_ne!(other.digest(), line.digest(), "{field} is not covered");
        }
    }

    #[test]
    fn one_line_has_one_text() {
        let line = Entry::Line(Box::new(chain(1).remove(0)));
        let text = line.to_text().unwrap();
        assert_eq!(Entry::parse(&text), Some(line.clone()));
        assert_eq!(Entry::parse(&text.replace(':', ": ")), None);
        assert_eq!(Entry::parse(&text.replace("\"count\":1", "\"count\":1,\"more\":2")), None);
        let Entry::Line(whole) = line else { panic!("a whole line") };
        let redacted = redacted(&whole);
        assert_eq!(Entry::parse(&redacted.to_text().unwrap()), Some(redacted.clone()));
        assert_eq!(redacted.computed(1), whole.hash);
    }
}
