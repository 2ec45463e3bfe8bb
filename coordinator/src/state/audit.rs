//! Who changed what, and what was refused to whom, chained by hash.
//!
//! A change writes its line with the same command; refusals arrive as commands of their own, already coalesced by who
//! proposes them. Transitions of steps are no audit. The last lines stay here, and the head covers every line ever
//! written, so that a removed or altered one shows.

use std::sync::Arc;

use common::clock::WallMs;
use common::digest::Digest;
use common::id::TenantId;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::stamp::Stamp;

/// Lines that the state holds; older ones are covered by the head only.
pub const LINES_MAX: usize = 10_000;
/// Longest text of a line; a refusal may quote what a peer sent.
const TEXT_BYTES_MAX: usize = 512;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts all lines of the cluster, from 1.
    pub number: u64,
    /// The log index of the command.
    pub index: u64,
    /// When the leader proposed it.
    pub wall: WallMs,
    /// Whose.
    pub tenant: TenantId,
    /// Who.
    pub principal: String,
    /// What, as `migration.cancel`.
    pub action: String,
    /// To what.
    pub object: String,
    /// Why it was refused; none when it was done.
    pub refused: Option<String>,
    /// How often within the minute, for coalesced refusals.
    pub count: u32,
}

/// What a line says, without its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Whose.
    pub tenant: TenantId,
    /// Who, as the refusing side knew them; a principal or an address.
    pub principal: String,
    /// What was asked for.
    pub action: String,
    /// Of what.
    pub object: String,
    /// Why it was refused; none when it was done.
    pub refused: Option<String>,
    /// How often within the minute.
    pub count: u32,
}

/// The end of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    head: Digest,
    count: u64,
    lines: RedBlackTreeMapSync<u64, Arc<Line>>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { head: Digest::of(b""), count: 0, lines: RedBlackTreeMapSync::new_sync() }
    }
}

impl Audit {
    /// Returns the digest that covers every line.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// Returns how many lines were ever written.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the lines of a tenant that are here, oldest first.
    pub fn lines(&self, tenant: &TenantId) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.values().map(Arc::as_ref).filter(move |line| line.tenant == *tenant)
    }

    /// Writes a line.
    pub(super) fn write(&mut self, stamp: &Stamp, note: Note) {
        let Note { tenant, principal, action, object, refused, count } = note;
        self.count += 1;
        let line = Line {
            number: self.count,
            index: stamp.index,
            wall: stamp.wall,
            tenant,
            principal: cut(principal),
            action: cut(action),
            object: cut(object),
            refused: refused.map(cut),
            count,
        };
        self.head = link(self.head, &line);
        self.lines.insert_mut(line.number, Arc::new(line));
        if self.lines.size() > LINES_MAX
            && let Some(oldest) = self.lines.first().map(|(number, _)| *number)
        {
            self.lines.remove_mut(&oldest);
        }
    }
}

/// Returns the head after a line.
fn link(head: Digest, line: &Line) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head.as_bytes());
    // Lengths part the fields, so that no two lines have one text.
    for field in [line.tenant.as_str(), &line.principal, &line.action, &line.object] {
        hasher.update(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    let refused = line.refused.as_deref();
    hasher.update(&[u8::from(refused.is_some())]);
    hasher.update(refused.unwrap_or_default().as_bytes());
    for number in [line.number, line.index, line.wall.0, u64::from(line.count)] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize().into()
}

fn cut(mut text: String) -> String {
    super::step::cut(&mut text, TEXT_BYTES_MAX);
    text
}

#[cfg(test)]
mod tests {
    use common::principal::Principal;

    use super::*;

    #[test]
    fn the_head_covers_every_line_and_the_list_is_bounded() {
        let stamp = Stamp {
            index: 7,
            epoch: 1,
            wall: WallMs(1),
            principal: Principal::Node { name: "coordinator-1".parse().unwrap() },
        };
        let note = |object: String| Note {
            tenant: TenantId::default_tenant(),
            principal: "user:default/root".to_owned(),
            action: "migration.cancel".to_owned(),
            object,
            refused: None,
            count: 1,
        };
        let (mut one, mut other) = (Audit::default(), Audit::default());
        for number in 0..LINES_MAX + 5 {
            one.write(&stamp, note(number.to_string()));
            other.write(&stamp, note(if number == 3 { "altered".to_owned() } else { number.to_string() }));
        }
        assert_ne!(one.head(), other.head());
        assert_eq!(one.lines(&TenantId::default_tenant()).count(), LINES_MAX);
        assert_eq!(one.count(), 10_005);
        assert_eq!(cut("ä".repeat(400)).len(), 512);
    }
}
