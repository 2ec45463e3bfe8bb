//! How far a migration is, as a plain line: for logs and pipes.

use std::time::Duration;

use common::human;
use common::view::{MigrationStatus, MigrationView};

use super::pace::Pace;
use crate::summary::throttled;

/// Returns one line without its end: `running 47 %, file.copy-1, 12 of at least 20 files, …`.
pub(crate) fn line(view: &MigrationView, percent: f64, pace: Pace) -> String {
    let mut line = view.status.as_str().replace('_', " ");
    if view.status == MigrationStatus::Unwinding {
        // The figures are of what was done; how much of it is undone nobody counts.
        return view.current_step.as_ref().map_or(line.clone(), |step| format!("{line}, {step}"));
    }
    // Until the scan has ended nobody knows what the part is a part of.
    if !view.is_estimate {
        line.push_str(&format!(" {percent:.0} %"));
    }
    if let Some(step) = &view.current_step {
        line.push_str(&format!(", {step}"));
    }
    if view.files_total > 0 || view.bytes_total > 0 {
        line.push_str(&format!(", {}, {}", files(view), bytes(view)));
    }
    if pace.bytes_per_s > 0 {
        line.push_str(&format!(", {}", human::rate(pace.bytes_per_s)));
    }
    if let Some(throttled) = throttled(view) {
        line.push_str(&format!(", throttled {throttled}"));
    }
    if let Some(eta) = eta(view, pace) {
        line.push_str(&format!(", {eta}"));
    }
    line
}

/// Returns `3 of at least 12 files`.
pub(crate) fn files(view: &MigrationView) -> String {
    format!(
        "{} of {}{}",
        human::count(view.files_done),
        at_least(view),
        human::plural(view.files_total, "file")
    )
}

/// Returns `1.00 MiB of at least 2.00 GiB`.
pub(crate) fn bytes(view: &MigrationView) -> String {
    format!("{} of {}{}", human::bytes(view.bytes_done), at_least(view), human::bytes(view.bytes_total))
}

/// Until the scan has ended, what is known is a least.
fn at_least(view: &MigrationView) -> &'static str {
    if view.is_estimate { "at least " } else { "" }
}

/// Returns `12.0 s left`; nothing until the scan has ended.
pub(crate) fn eta(view: &MigrationView, pace: Pace) -> Option<String> {
    let left = human::duration(Duration::from_millis(pace.eta_ms?));
    (!view.is_estimate).then(|| format!("{left} left"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::progress::tests::view;

    #[test]
    fn says_at_least_until_the_scan_has_ended() {
        let mut running = view();
        let pace = Pace { bytes_per_s: 10 << 10, eta_ms: Some(12_000) };
        assert_eq!(
            line(&running, 47.0, pace),
            "running, file.copy-1, 1 200 of at least 4 000 files, 1.00 MiB of at least 2.00 MiB, 10.0 KiB/s"
        );
        running.is_estimate = false;
        assert_eq!(
            line(&running, 47.0, pace),
            "running 47 %, file.copy-1, 1 200 of 4 000 files, 1.00 MiB of 2.00 MiB, 10.0 KiB/s, 12.0 s left"
        );
    }
}
