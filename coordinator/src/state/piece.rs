//! Commands that are larger than a log entry may be, put together from pieces.

use common::failure::FailureKind;
use common::id::TenantId;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::stamp::Stamp;

/// The bytes of one piece; with its frame it stays below the largest log entry.
pub const PIECE_BYTES: usize = 56 * 1024;
/// Pieces of one command: what one gRPC message can hold.
pub const PIECES_MAX: u32 = 80;
/// Pieces that a leader has under way at once; large commands beyond wait for their turn.
pub const PIECES_IN_FLIGHT_MAX: u32 = 256;
/// Pieces that the commands may have together which are incomplete. A leader that died leaves its own behind, and the
/// oldest go first: those of the leader that proposes now are newer, and at most half of these.
const PIECES_KEPT_MAX: u32 = 2 * PIECES_IN_FLIGHT_MAX;

/// One piece of an encoded command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Whose command it is.
    pub tenant: TenantId,
    /// Drawn by the proposer; the same for all pieces of a command.
    pub command: [u8; 16],
    /// Which piece, from 0.
    pub number: u32,
    /// How many there are.
    pub count: u32,
    /// The bytes.
    #[serde(with = "serde_bytes_vec")]
    pub bytes: Vec<u8>,
}

/// Commands that are not complete yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pieces {
    assemblies: RedBlackTreeMapSync<(u64, [u8; 16]), Assembly>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Assembly {
    next: u32,
    count: u32,
    bytes: Vec<u8>,
}

impl Pieces {
    /// Takes the next piece of a command; returns the command's bytes with the last one.
    pub(super) fn take(&mut self, stamp: &Stamp, piece: Piece) -> Result<Option<Vec<u8>>, Refusal> {
        let Piece { tenant: _, command, number, count, bytes } = piece;
        let fits = number < count && count <= PIECES_MAX && bytes.len() <= PIECE_BYTES;
        let key = self.assemblies.keys().find(|(_, id)| *id == command).copied();
        let known = key.and_then(|key| self.assemblies.get(&key)).cloned();
        let mut assembly = match known {
            None if number == 0 => Assembly { next: 0, count, bytes: Vec::new() },
            Some(assembly) => assembly,
            None => return Err(lost()),
        };
        if !fits || assembly.next != number || assembly.count != count {
            return Err(lost());
        }
        assembly.bytes.extend_from_slice(&bytes);
        assembly.next += 1;
        if assembly.next == count {
            if let Some(key) = key {
                self.assemblies.remove_mut(&key);
            }
            return Ok(Some(assembly.bytes));
        }
        self.assemblies.insert_mut(key.unwrap_or((stamp.index, command)), assembly);
        // By what each will have, so that what has begun has its place.
        while self.assemblies.values().map(|assembly| assembly.count).sum::<u32>() > PIECES_KEPT_MAX
            && let Some(oldest) = self.assemblies.first().map(|(key, _)| *key)
        {
            self.assemblies.remove_mut(&oldest);
        }
        Ok(None)
    }
}

fn lost() -> Refusal {
    Refusal::new(FailureKind::Conflict, "a piece of a large command is missing", "ask again")
}

mod serde_bytes_vec {
    //! Bytes as one run instead of one element each.

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    #[expect(clippy::ptr_arg, reason = "serde hands the field's own type")]
    pub(super) fn serialize<S: Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Run;
        impl Visitor<'_> for Run {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Run)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::WallMs;
    use common::principal::Principal;

    use super::*;

    fn stamp(index: u64) -> Stamp {
        let principal = Principal::Node { name: "coordinator-1".parse().unwrap() };
        Stamp { index, epoch: 1, wall: WallMs(0), principal, address: None }
    }

    fn piece(command: u8, number: u32, count: u32) -> Piece {
        let byte = u8::try_from(number).unwrap();
        Piece {
            tenant: TenantId::default_tenant(),
            command: [command; 16],
            number,
            count,
            bytes: vec![byte; 2],
        }
    }

    #[test]
    fn a_command_is_whole_with_its_last_piece() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.take(&stamp(1), piece(1, 0, 3)), Ok(None));
        assert_eq!(pieces.take(&stamp(2), piece(2, 0, 2)), Ok(None));
        assert_eq!(pieces.take(&stamp(3), piece(1, 1, 3)), Ok(None));
        assert!(pieces.take(&stamp(4), piece(1, 1, 3)).is_err());
        assert_eq!(pieces.take(&stamp(5), piece(1, 2, 3)), Ok(Some(vec![0, 0, 1, 1, 2, 2])));
        assert!(pieces.take(&stamp(6), piece(3, 1, 2)).is_err());
    }

    #[test]
    fn what_is_never_completed_makes_room() {
        let mut pieces = Pieces::default();
        for index in 0..200_u8 {
            assert_eq!(pieces.take(&stamp(u64::from(index)), piece(index, 0, PIECES_MAX)), Ok(None));
        }
        assert_eq!(pieces.assemblies.size(), usize::try_from(PIECES_KEPT_MAX / PIECES_MAX).unwrap());
        assert!(pieces.take(&stamp(300), piece(0, 1, PIECES_MAX)).is_err());
        assert!(pieces.take(&stamp(301), piece(199, 1, PIECES_MAX)).is_ok());
    }

    #[test]
    fn what_a_leader_may_have_under_way_is_never_lost() {
        let mut pieces = Pieces::default();
        // Left behind by another.
        for index in 0..250_u8 {
            pieces.take(&stamp(u64::from(index)), piece(index, 0, 2)).unwrap();
        }
        let under_way = u8::try_from(PIECES_IN_FLIGHT_MAX / 2).unwrap();
        let command = |index: u8, number| {
            let ours = [index, 255].repeat(8).try_into().unwrap();
            Piece { command: ours, ..piece(index, number, 2) }
        };
        for index in 0..under_way {
            pieces.take(&stamp(1_000 + u64::from(index)), command(index, 0)).unwrap();
        }
        for index in 0..under_way {
            let whole = pieces.take(&stamp(2_000 + u64::from(index)), command(index, 1)).unwrap();
            assert!(whole.is_some(), "{index}");
        }
    }
}
