//! Every choice of a run, drawn from one number.

/// A generator (splitmix64): the same number gives the same run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a number.
    pub fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from zero to `end`, without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, part: u64) -> bool {
        self.below(1_000) < part
    }

    /// One of a list that is not empty.
    ///
    /// # Panics
    /// When the list is empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let place = usize::try_from(self.below(of.len() as u64)).expect("it is below a length");
        &of[place]
    }
}
