//! What this host has to bear: what the agent computes, how long something waits for disks, and the load.
//!
//! The figures are the machine's and the process's, so all connections share one look a second. What a kernel does not
//! tell is zero.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};

/// A look that is younger than this does for everybody.
const FRESH: Duration = Duration::from_millis(900);

/// The unit of times in `/proc`: Linux shows hundredths of a second on every machine.
const TICKS_PER_S: u64 = 100;

/// What this host has to bear now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostLoad {
    /// Time that this process computed, in thousandths of one processor.
    pub(crate) cpu_permille: u32,
    /// Time in which something waited for a disk, in thousandths.
    pub(crate) io_permille: u32,
    /// The load average of the last minute, in hundredths.
    pub(crate) load_hundredths: u32,
}

/// What was read at one moment, and what it says against the one before.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: BootTime,
    cpu_ticks: u64,
    waited: Waited,
    load: HostLoad,
}

/// How long something waited for disks since the start, and out of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// By the kernel's pressure figures: microseconds.
    Pressure(u64),
    /// By the time of the processors that lay idle for it: ticks, and ticks in all.
    Idle(u64, u64),
    Untold,
}

static LAST: Mutex<Option<Look>> = Mutex::new(None);

/// Looks at this host.
pub(crate) fn look() -> HostLoad {
    // A look is one value, so a panic elsewhere leaves it whole.
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let now = clock::boot();
    if let Some(last) = last.as_ref().filter(|last| now.since(last.at) < FRESH) {
        return last.load;
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let load_hundredths = load_average(&read("/proc/loadavg"));
    let cpu_ticks = process_ticks(&read("/proc/self/stat"));
    let pressure = pressure_us(&read("/proc/pressure/io")).map(Waited::Pressure);
    let waited = pressure.or_else(|| idle_ticks(&read("/proc/stat"))).unwrap_or(Waited::Untold);
    let load = match last.as_ref() {
        None => HostLoad { load_hundredths, ..HostLoad::default() },
        Some(last) => HostLoad {
            cpu_permille: cpu_permille(cpu_ticks.saturating_sub(last.cpu_ticks), now.since(last.at)),
            io_permille: io_permille(last.waited, waited, now.since(last.at)),
            load_hundredths,
        },
    };
    *last = Some(Look { at: now, cpu_ticks, waited, load });
    load
}

fn cpu_permille(ticks: u64, elapsed: Duration) -> u32 {
    part(u128::from(ticks) * 1_000, u128::from(TICKS_PER_S) * elapsed.as_millis())
}

fn io_permille(before: Waited, now: Waited, elapsed: Duration) -> u32 {
    match (before, now) {
        (Waited::Pressure(before), Waited::Pressure(now)) => {
            part(u128::from(now.saturating_sub(before)), elapsed.as_micros()).min(1_000)
        }
        (Waited::Idle(before, all_before), Waited::Idle(now, all)) => {
            let all = all.saturating_sub(all_before);
            part(u128::from(now.saturating_sub(before)), u128::from(all)).min(1_000)
        }
        _ => 0,
    }
}

/// Thousandths; of nothing it is nothing.
fn part(amount: u128, of: u128) -> u32 {
    (amount * 1_000).checked_div(of).map_or(0, |part| u32::try_from(part).unwrap_or(u32::MAX))
}

/// Reads the first figure of `/proc/loadavg`: `0.52 0.58 0.59 1/257 4711`.
fn load_average(text: &str) -> u32 {
    let first = text.split_whitespace().next().unwrap_or_default();
    let load = first.parse::<common::control::MaxLoad>().ok();
    load.and_then(|load| load.hundredths).unwrap_or(0)
}

/// Reads user and system time of `/proc/self/stat`, whose second field is a name in brackets that may hold anything.
fn process_ticks(text: &str) -> u64 {
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    // State is the third field of all, user time the fourteenth.
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Reads how long at least one task waited: `some avg10=0.00 avg60=0.00 avg300=0.00 total=4711`.
fn pressure_us(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("total=")?.parse().ok())
}

/// Reads the line of all processors of `/proc/stat`: user, nice, system, idle, iowait and more.
fn idle_ticks(text: &str) -> Option<Waited> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some(Waited::Idle(*ticks.get(4)?, ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!(load_average("7.25 0.58 0.59 1/257 4711\n"), 725);
        let stat = "4711 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 300 45 0 0 20 0 9 0 12345";
        assert_eq!(process_ticks(stat), 345);
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=150000\nfull avg10=0.00 total=7\n";
        assert_eq!(pressure_us(pressure), Some(150_000));
        assert_eq!(idle_ticks("cpu  10 20 30 400 50 0 0 0\ncpu0 1 2 3\n"), Some(Waited::Idle(50, 510)));
        for nothing in ["", "cpu", "some"] {
            assert_eq!((load_average(nothing), process_ticks(nothing)), (0, 0));
            assert_eq!((pressure_us(nothing), idle_ticks(nothing)), (None, None));
        }
    }

    #[test]
    fn figures_are_parts_of_the_time_between_two_looks() {
        let second = Duration::from_secs(1);
        assert_eq!(cpu_permille(TICKS_PER_S / 2, second), 500);
        assert_eq!(io_permille(Waited::Pressure(1_000), Waited::Pressure(251_000), second), 250);
        assert_eq!(io_permille(Waited::Idle(5, 100), Waited::Idle(30, 200), second), 250);
        assert_eq!(io_permille(Waited::Untold, Waited::Pressure(9), second), 0);
        assert_eq!(io_permille(Waited::Pressure(1), Waited::Pressure(9), Duration::ZERO), 0);
    }

    #[test]
    fn this_host_is_seen() {
        let seen = look();
        assert_eq!(look(), seen, "one look does for everybody");
    }
}
