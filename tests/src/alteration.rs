//! What happens to bytes on their way or on a disk, drawn by chance, and how often it is tried.

use proptest::prelude::*;
use proptest::test_runner::Config;

/// Returns how often a target is tried: so many times in CI, times what `DROVER_FUZZ` says.
///
/// # Panics
/// When that is no number.
pub fn cases(in_ci: u32) -> Config {
    let factor =
        std::env::var("DROVER_FUZZ").map_or(1, |factor| factor.parse().expect("DROVER_FUZZ is a number"));
    // Regressions belong into tests with names, and not into files beside the sources.
    Config { cases: in_ci.saturating_mul(factor), failure_persistence: None, ..Config::default() }
}

/// One change, at a part of the length in 65 536ths.
#[derive(Clone, Debug)]
pub struct Alteration {
    at: u16,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Flip(u8),
    Set(u8),
    Cut,
    Insert(Vec<u8>),
    Remove(u8),
    /// So many bytes come so many times more.
    Repeat(u8, u8),
    /// A number of the encoding becomes the largest there is.
    Swell,
}

/// Draws alterations, of which there is at least one.
pub fn alterations() -> impl Strategy<Value = Vec<Alteration>> {
    let change = prop_oneof![
        3 => (0_u8..8).prop_map(Change::Flip),
        3 => any::<u8>().prop_map(Change::Set),
        1 => Just(Change::Cut),
        1 => proptest::collection::vec(any::<u8>(), 1..12).prop_map(Change::Insert),
        1 => (1_u8..9).prop_map(Change::Remove),
        1 => (1_u8..40, 1_u8..9).prop_map(|(count, times)| Change::Repeat(count, times)),
        1 => Just(Change::Swell),
    ];
    let one = (any::<u16>(), change).prop_map(|(at, change)| Alteration { at, change });
    proptest::collection::vec(one, 1..4)
}

/// Carries alterations out.
pub fn altered(bytes: &[u8], alterations: &[Alteration]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for alteration in alterations {
        alteration.apply(&mut bytes);
    }
    bytes
}

impl Alteration {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = usize::from(self.at) * bytes.len() / 65_536;
        let length = bytes.len();
        let end = |count: u8| (at + usize::from(count)).min(length);
        match &self.change {
            Change::Flip(bit) => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << bit),
            Change::Set(new) => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = *new),
            Change::Cut => bytes.truncate(at),
            Change::Insert(new) => drop(bytes.splice(at..at, new.iter().copied())),
            Change::Remove(count) => drop(bytes.drain(at..end(*count))),
            Change::Repeat(count, times) => {
                let piece = bytes[at..end(*count)].repeat(usize::from(*times));
                drop(bytes.splice(at..at, piece));
            }
            Change::Swell => {
                let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                drop(bytes.splice(at..end(1), largest));
            }
        }
    }
}
