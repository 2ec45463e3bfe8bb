//! What a process takes.

use rustix::process::Pid;

/// Begins to measure a process's peak anew.
///
/// # Panics
/// When the process is gone.
pub fn forget_peak(pid: Pid) {
    let path = format!("/proc/{}/clear_refs", pid.as_raw_nonzero());
    std::fs::write(path, "5").expect("the process lives and is ours");
}

/// Returns the most memory that a process held since it began, or since its peak was forgotten.
///
/// # Panics
/// When the process is gone.
pub fn peak_bytes(pid: Pid) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// Returns how many files, sockets among them, a process holds open.
///
/// # Panics
/// When the process is gone.
pub fn open_files(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("the process lives").count()
}
