//! The two network namespaces at the ends of a link.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Packets that the kernel holds until the router takes them: several of its steps at a gigabit per second.
const QUEUED_PACKETS: &str = "10000";

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where `ctl`, the coordinator and the source are.
    A,
    /// Where the destination is.
    B,
}

/// Both namespaces; dropping them removes them.
#[derive(Debug)]
pub(super) struct Namespaces {
    name: String,
}

impl End {
    fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The number of this end, and of the other.
    fn numbers(self) -> (u8, u8) {
        match self {
            Self::A => (1, 2),
            Self::B => (2, 1),
        }
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let shown = || format!("ip {}", words.join(" "));
    let output = Command::new("ip").args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    let output = output.map_err(|error| format!("{}: {error}", shown()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr).trim()))
}

impl Namespaces {
    /// Makes both, with nothing in them but their loopback.
    pub(super) fn make(name: &str) -> Result<Self, String> {
        let made = Self { name: name.to_owned() };
        for end in [End::A, End::B] {
            ip(&["netns", "add", &made.namespace(end)])?;
            ip(&["-n", &made.namespace(end), "link", "set", "lo", "up"])?;
        }
        Ok(made)
    }

    fn namespace(&self, end: End) -> String {
        format!("{}-{}", self.name, end.letter())
    }

    /// Returns the name of an end's device.
    pub(super) fn device(&self, end: End) -> String {
        self.namespace(end)
    }

    /// Takes the device of an end in, and makes the other end reachable over it.
    pub(super) fn adopt(&self, end: End) -> Result<(), String> {
        let (namespace, device) = (self.namespace(end), self.device(end));
        let (own, other) = end.numbers();
        ip(&["link", "set", &device, "netns", &namespace])?;
        let within = |words: &[&str]| ip(&[&["-n", namespace.as_str()], words, &["dev", &device]].concat());
        within(&["addr", "add", &format!("10.77.{own}.1/24")])?;
        within(&["-6", "addr", "add", &format!("fd77:{own}::1/64"), "nodad"])?;
        ip(&["-n", &namespace, "link", "set", &device, "txqueuelen", QUEUED_PACKETS, "up"])?;
        within(&["route", "add", &format!("10.77.{other}.0/24")])?;
        within(&["-6", "route", "add", &format!("fd77:{other}::/64")])
    }

    /// Puts a script in the place of each of the three programs in a directory, which runs it at its end of the link.
    pub(super) fn enclose(&self, programs: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", programs.display());
        let real = programs.join("real");
        fs::create_dir(&real).map_err(failed)?;
        fs::write(real.join("link"), &self.name).map_err(failed)?;
        for name in ["ctl", "drover-agent", "drover-coordinator"] {
            let script = programs.join(name);
            fs::rename(&script, real.join(name)).map_err(failed)?;
            fs::write(&script, include_str!("at_end.sh")).map_err(failed)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for end in [End::A, End::B] {
            // It may never have been made.
            ip(&["netns", "delete", &self.namespace(end)]).ok();
        }
    }
}
