//! Whether asking for differences pays, by what it gave of late.

/// What is looked at before it is decided: sixteen mebibytes.
const LOOKED_AT_BYTES: u64 = 16 * 1024 * 1024;
/// The least part of it that must have been there.
const ALIKE_PERCENT: u64 = 5;
/// Bytes that are asked for plainly before it is tried again; twice as many each time that it does not pay.
const PAUSE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// The most of that, so that a file whose end is as it was is found to be so.
const PAUSE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Counts of one file.
#[derive(Debug)]
pub(crate) struct Gauge {
    came: u64,
    alike: u64,
    /// Bytes that are still to be asked for plainly.
    paused: u64,
    pause: u64,
}

impl Default for Gauge {
    fn default() -> Self {
        Self { came: 0, alike: 0, paused: 0, pause: PAUSE_BYTES_MIN }
    }
}

impl Gauge {
    /// Whether a range of this length is worth asking for its differences.
    pub(crate) fn is_worth_it(&mut self, length: u64) -> bool {
        let is_paused = self.paused > 0;
        self.paused = self.paused.saturating_sub(length);
        !is_paused
    }

    /// Notes a range that was asked for so, and how much of it was there.
    pub(crate) fn came(&mut self, length: u64, alike: u64) {
        self.came += length;
        self.alike += alike;
        if self.came < LOOKED_AT_BYTES {
            return;
        }
        if self.alike * 100 < self.came * ALIKE_PERCENT {
            self.paused = self.pause;
            self.pause = (self.pause * 2).min(PAUSE_BYTES_MAX);
        } else {
            self.pause = PAUSE_BYTES_MIN;
        }
        (self.came, self.alike) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: u64 = 1024 * 1024;

    fn asked(gauge: &mut Gauge, ranges: u64, alike: u64) -> u64 {
        let mut worth = 0;
        for _range in 0..ranges {
            if gauge.is_worth_it(RANGE) {
                gauge.came(RANGE, alike);
                worth += 1;
            }
        }
        worth
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less() {
        let mut gauge = Gauge::default();
        assert_eq!(asked(&mut gauge, 16 + 64 + 16 + 128, 0), 32);
        assert_eq!(asked(&mut gauge, 16, RANGE), 16);
        assert_eq!(asked(&mut gauge, 16 + 64, 0), 16, "it has paid since");
        let mut gauge = Gauge::default();
        assert_eq!(asked(&mut gauge, 1000, RANGE / 20 + 1), 1000);
    }
}
