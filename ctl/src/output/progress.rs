//! How far a migration is: one line that is drawn again on a terminal, plain lines every few seconds elsewhere.
//!
//! Nothing is shown in the first 250 ms, so that what is done at once says only its result; and the percentage never
//! falls, whatever is reported.

use std::time::Duration;

use common::clock::{self, BootTime};
use common::human;
use common::view::{MigrationStatus, MigrationView};

use super::pace::{Pace, Seen};
use super::table::cut;
use super::{line, write_note};

/// What is over within this time shows no progress.
const SILENCE: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a bar is drawn: thirty times a second at the most.
const DRAW_INTERVAL: Duration = Duration::from_millis(33);
/// Characters of a bar.
const BAR_WIDTH: usize = 20;

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Silent,
    Lines,
    /// A terminal of so many columns.
    Bar(usize),
}

/// Shows how far one migration is.
#[derive(Debug)]
pub(crate) struct Progress {
    surface: Surface,
    started: BootTime,
    shown: Option<BootTime>,
    shown_line: String,
    percent: f64,
    seen: Seen,
    is_drawn: bool,
}

impl Progress {
    /// Shows nothing.
    pub(crate) fn silent() -> Self {
        Self::on(Surface::Silent)
    }

    /// Writes lines.
    pub(crate) fn lines() -> Self {
        Self::on(Surface::Lines)
    }

    /// Draws on a terminal of so many columns.
    pub(crate) fn bar(width: usize) -> Self {
        Self::on(Surface::Bar(width))
    }

    fn on(surface: Surface) -> Self {
        let started = clock::boot();
        Self {
            surface,
            started,
            shown: None,
            shown_line: String::new(),
            percent: 0.0,
            seen: Seen::default(),
            is_drawn: false,
        }
    }

    /// Shows where the migration stands, if it is time to.
    pub(crate) fn show(&mut self, view: &MigrationView) {
        if let Some(text) = self.next(view, clock::boot()) {
            write_note(&text);
        }
    }

    /// Takes the line off the terminal, so that something else can be written.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            write_note("\r\x1b[2K");
        }
    }

    /// Returns what to write now.
    fn next(&mut self, view: &MigrationView, now: BootTime) -> Option<String> {
        self.percent = self.percent.max(view.progress.clamp(0.0, 100.0));
        let pace = self.seen.pace(view, now);
        if now.since(self.started) < SILENCE {
            return None;
        }
        let interval = match self.surface {
            Surface::Silent => return None,
            Surface::Lines => LINE_INTERVAL,
            Surface::Bar(_) => DRAW_INTERVAL,
        };
        if self.shown.is_some_and(|shown| now.since(shown) < interval) {
            return None;
        }
        let line = match self.surface {
            Surface::Bar(width) => bar_line(view, self.percent, pace, width),
            Surface::Silent | Surface::Lines => line::line(view, self.percent, pace),
        };
        self.shown = Some(now);
        let is_same = line == self.shown_line;
        self.shown_line.clone_from(&line);
        match self.surface {
            Surface::Bar(_) if is_same => None,
            Surface::Bar(_) => {
                self.is_drawn = true;
                Some(format!("\r\x1b[2K{line}"))
            }
            Surface::Silent | Surface::Lines => Some(format!("{line}\n")),
        }
    }
}

/// Returns the bar's line for a terminal of this width; what matters least is left out first.
fn bar_line(view: &MigrationView, percent: f64, pace: Pace, width: usize) -> String {
    let word = match &view.current_step {
        Some(step) => human::printable(step.as_str()),
        None => view.status.as_str().replace('_', " "),
    };
    if view.status == MigrationStatus::Unwinding {
        // The figures are of what was done; how much of it is undone nobody counts.
        return cut(&format!("unwinding {word}"), width.saturating_sub(1));
    }
    // Until the scan has ended nobody knows what the part is a part of.
    let part =
        if view.is_estimate { "scanning".to_owned() } else { format!("{percent:>3.0} % {}", bar(percent)) };
    let mut parts = vec![format!("{part} {word}")];
    if view.files_total > 0 || view.bytes_total > 0 {
        parts.push(line::files(view));
        parts.push(line::bytes(view));
    }
    if pace.bytes_per_s > 0 {
        parts.push(human::rate(pace.bytes_per_s));
    }
    parts.extend(line::eta(view, pace));
    // The last column stays free: a full line would wrap on some terminals and could not be drawn again.
    let room = width.saturating_sub(1);
    // Least first: files, rate, bytes, time left. The bar itself is cut at the very end only.
    for least in [1, 2, 1, 1] {
        if parts.join("  ").chars().count() <= room {
            break;
        }
        if least < parts.len() {
            parts.remove(least);
        }
    }
    cut(&parts.join("  "), room)
}

/// Returns a bar of [`BAR_WIDTH`] characters.
fn bar(percent: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    // Between 0 and 160 by the clamp.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 160")]
    let eighths = (percent.clamp(0.0, 100.0) / 100.0 * (BAR_WIDTH * 8) as f64) as usize;
    let mut bar = String::from("[");
    bar.extend(std::iter::repeat_n('█', eighths / 8));
    if eighths < BAR_WIDTH * 8 {
        bar.push(EIGHTHS[eighths % 8]);
        bar.extend(std::iter::repeat_n(' ', BAR_WIDTH - eighths / 8 - 1));
    }
    bar.push(']');
    bar
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A migration at work, as a coordinator tells of it.
    pub(crate) fn view() -> MigrationView {
        MigrationView {
            id: "b7k2m9x4qz".parse().unwrap(),
            tenant: "default".parse().unwrap(),
            name: "shop".to_owned(),
            status: MigrationStatus::Running,
            progress: 47.0,
            is_estimate: true,
            current_step: Some("file.copy-1".parse().unwrap()),
            steps_completed: 0,
            steps_total: 2,
            eta_ms: Some(12_000),
            downtime_predicted_ms: 0,
            downtime_ms: 0,
            passes: Vec::new(),
            passes_total: 0,
            rollback_available: false,
            rollback_until: None,
            settling: false,
            paused_since: None,
            bandwidth_limit: None,
            bandwidth_now: None,
            waits_for: None,
            priority: Default::default(),
            max_load: None,
            source_load: Default::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            verified: false,
            partial: false,
            files_total: 4_000,
            files_sent: 1_200,
            files_done: 1_200,
            bytes_total: 2 << 20,
            bytes_done: 1 << 20,
            bytes_on_wire: 500_000,
            bytes_resent: 0,
            bytes_deduplicated: 0,
            bytes_compressed: 0,
            bytes_compressed_to: 0,
            reach: None,
            transport: None,
            bytes_per_s: 10 << 10,
            deleted: 0,
            duration_ms: 5_000,
            principal: "operator/admin".to_owned(),
            created: clock::WallMs(1_763_700_000_000),
            ended: None,
            source: "web1:/var/www/shop".to_owned(),
            destination: "web2:/var/www/shop".to_owned(),
            steps: Vec::new(),
            findings: Vec::new(),
            findings_total: 0,
            dry_run: false,
            sanitized: Vec::new(),
            proof: common::step::file::Proof::default(),
            source_digest: None,
            destination_digest: None,
            exit_code: None,
        }
    }

    #[test]
    fn nothing_at_first_and_never_backwards() {
        let mut progress = Progress::bar(200);
        let view = || MigrationView { is_estimate: false, ..view() };
        let at = |ms| progress_time(&progress, ms);
        let (early, late, later) = (at(249), at(250), at(400));
        assert_eq!(progress.next(&view(), early), None);
        assert!(progress.next(&view(), late).is_some_and(|text| text.contains("47 %")));
        let fallen = MigrationView { progress: 12.0, files_done: 1_300, ..view() };
        assert!(progress.next(&fallen, later).is_some_and(|text| text.contains("47 %")));
    }

    fn progress_time(progress: &Progress, ms: u64) -> BootTime {
        progress.started.after(Duration::from_millis(ms))
    }

    #[test]
    fn lines_come_every_few_seconds_only() {
        let mut progress = Progress::lines();
        let times = [300, 1_000, 5_200, 5_300].map(|ms| progress_time(&progress, ms));
        let written = times.map(|now| progress.next(&view(), now).is_some());
        assert_eq!(written, [true, false, false, true]);
    }

    #[test]
    fn a_bar_fits_the_terminal_and_keeps_what_matters() {
        let pace = Pace { bytes_per_s: 10 << 10, eta_ms: Some(12_000) };
        let view = || MigrationView { is_estimate: false, ..view() };
        for width in [20, 40, 60, 80, 100, 200] {
            let line = bar_line(&view(), 47.0, pace, width);
            assert!(line.chars().count() < width, "{width}: {line}");
            assert!(width < 40 || line.contains("47 %"), "{width}: {line}");
        }
        let (narrow, wide) = (bar_line(&view(), 47.0, pace, 80), bar_line(&view(), 47.0, pace, 100));
        assert!(narrow.contains("left"), "{narrow}");
        assert!(wide.contains("left") && wide.contains("KiB/s"), "{wide}");
    }

    #[test]
    fn no_part_and_no_end_is_told_while_the_scan_goes_on() {
        let line = bar_line(&view(), 47.0, Pace { bytes_per_s: 10 << 10, eta_ms: None }, 200);
        assert_eq!(
            line,
            "scanning file.copy-1  1 200 of at least 4 000 files  1.00 MiB of at least 2.00 MiB  10.0 KiB/s"
        );
    }

    #[test]
    fn a_bar_has_one_width() {
        for percent in [0.0, 0.4, 33.3, 99.9, 100.0, 250.0] {
            assert_eq!(bar(percent).chars().count(), BAR_WIDTH + 2, "{percent}");
        }
        assert_eq!(bar(50.0), "[██████████          ]");
    }
}
