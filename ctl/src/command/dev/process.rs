//! Processes that outlive the `ctl` that started them: started, recognised, ended.
//!
//! A process id alone says nothing: it may be a zombie, or another process by now. So a process is known by its id,
//! the moment of its start and the boot of the machine, and only what is known so is ever sent a signal.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::clock;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// How often a process is looked at while its end is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Which process this is, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Birth {
    /// The process id.
    pub(super) pid: i32,
    /// When it was started, in ticks since boot.
    start_ticks: u64,
    /// The boot of the machine.
    boot_id: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It did not run.
    NotRunning,
    /// It ended when asked to.
    Terminated,
    /// It did not end in time and was killed.
    Killed,
}

impl Birth {
    /// Starts a program in a session of its own, with nothing to read and a log to write.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        log: File,
        folder: &Path,
    ) -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["dev", "launch"])
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // A child of ours stays at least as a zombie until we end, so the start time is its own.
        Self::of(pid)
    }

    /// Returns the birth of a process that exists.
    fn of(pid: i32) -> io::Result<Self> {
        let (_state, start_ticks) = stat(pid)?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Whether this very process runs; a zombie does not.
    pub(super) fn is_running(&self) -> bool {
        let is_same_boot = boot_id().is_ok_and(|boot_id| boot_id == self.boot_id);
        let is_alive = |(state, start_ticks)| start_ticks == self.start_ticks && !matches!(state, 'Z' | 'X');
        is_same_boot && stat(self.pid).is_ok_and(is_alive)
    }

    /// Sends a signal to this very process. Nothing happens if it does not run.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        // The descriptor is held before the process is recognised, so that its id cannot become another's in between.
        let held = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        if !self.is_running() {
            return Ok(());
        }
        let sent = match held {
            Ok(held) => rustix::process::pidfd_send_signal(&held, signal),
            // Kernels before 5.3 know no such descriptors.
            Err(rustix::io::Errno::NOSYS) => rustix::process::kill_process(pid, signal),
            Err(error) => Err(error),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the process to end, without waiting.
    pub(super) fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits until the process has ended, and kills it once `grace` is over.
    pub(super) async fn end(&self, grace: Duration) -> io::Result<End> {
        if self.wait(grace).await {
            return Ok(End::Terminated);
        }
        self.signal(Signal::KILL)?;
        // Nothing survives this signal; what takes long is a kernel that writes pages back.
        if self.wait(grace).await {
            Ok(End::Killed)
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it is not gone although it was killed"))
        }
    }

    /// Waits until the process has ended; false when it has not within `limit`.
    async fn wait(&self, limit: Duration) -> bool {
        let started = clock::boot();
        while self.is_running() {
            if clock::boot().since(started) >= limit {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        true
    }
}

/// Returns the state of a process and when it was started, in ticks since boot.
fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown form of /proc/PID/stat"))
}

/// Parses `/proc/PID/stat`. The name in it may hold anything, so the fields are counted behind its last bracket.
fn parse_stat(text: &[u8]) -> Option<(char, u64)> {
    let behind_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&text[behind_name..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// Returns what tells this boot of the machine from others.
fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Child;

    use super::*;

    fn sleeper() -> (Child, Birth) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let birth = Birth::of(i32::try_from(child.id()).unwrap()).unwrap();
        (child, birth)
    }

    #[test]
    fn the_name_of_a_program_does_not_confuse() {
        let stat = b"4711 (a) Z (b) S 1 4711 4711 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        assert_eq!(parse_stat(stat), Some(('S', 98_765)));
        assert_eq!(parse_stat(b"4711 (a) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[tokio::test]
    async fn a_process_is_ended_and_a_zombie_does_not_run() {
        let (mut child, birth) = sleeper();
        assert!(birth.is_running());
        birth.terminate().unwrap();
        // Nobody has waited for the child yet, so what is left of it is a zombie.
        assert_eq!(birth.end(Duration::from_secs(20)).await.unwrap(), End::Terminated);
        assert!(!birth.is_running());
        assert!(!child.wait().unwrap().success());
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_is_killed() {
        let (mut child, birth) = sleeper();
        assert_eq!(birth.end(Duration::from_millis(1)).await.unwrap(), End::Killed);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn another_process_of_the_same_number_is_left_alone() {
        let (mut child, birth) = sleeper();
        for other in [
            Birth { start_ticks: birth.start_ticks + 1, ..birth.clone() },
            Birth { boot_id: "another".to_owned(), ..birth.clone() },
        ] {
            assert!(!other.is_running());
            other.terminate().unwrap();
            other.signal(Signal::KILL).unwrap();
        }
        assert!(birth.is_running());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
