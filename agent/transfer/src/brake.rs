//! When a source holds back by itself: while its host's load is too high.

/// It lets go only below nine tenths of the limit, so that it does not go on and off with every look.
const RELEASE_TENTHS: u64 = 9;

/// Holds from a load on, and lets go well below it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Brake {
    /// In hundredths; none holds never.
    pub(crate) max_load: Option<u32>,
    is_on: bool,
}

impl Brake {
    /// Looks at the load, and returns whether to hold.
    pub(crate) fn look(&mut self, load_hundredths: u32) -> bool {
        let load = u64::from(load_hundredths) * 10;
        let limit = self.max_load.map(u64::from);
        let tenths = if self.is_on { RELEASE_TENTHS } else { 10 };
        self.is_on = limit.is_some_and(|limit| load >= limit * tenths);
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_from_the_limit_on_and_lets_go_well_below_it() {
        let mut brake = Brake { max_load: Some(400), ..Brake::default() };
        let loads = [399, 400, 390, 360, 359, 390, 720];
        let held: Vec<bool> = loads.into_iter().map(|load| brake.look(load)).collect();
        assert_eq!(held, [false, true, true, true, false, false, true]);
        brake.max_load = Some(1_000);
        assert!(!brake.look(720), "a higher limit lets go at once");
        brake.max_load = Some(0);
        assert!(brake.look(0), "a limit of nothing holds always");
        brake.max_load = None;
        assert!(!brake.look(u32::MAX));
    }
}
