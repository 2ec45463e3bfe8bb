//! The system and the machine under it.

use std::fs;

/// What the system says of itself.
#[derive(Clone, Debug)]
pub struct Os {
    /// The machine's own name.
    pub machine_name: String,
    /// The system, as its release file names it.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// Identifies this boot of this machine.
    pub boot_id: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether the agent runs as root.
    pub is_root: bool,
}

/// Asks the system.
pub fn look() -> Os {
    let uname = rustix::system::uname();
    let release = fs::read_to_string("/etc/os-release")
        .or_else(|_absent| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cpus = std::thread::available_parallelism();
    Os {
        machine_name: uname.nodename().to_string_lossy().into_owned(),
        os: pretty_name(&release).unwrap_or_else(|| uname.sysname().to_string_lossy().into_owned()),
        kernel: uname.release().to_string_lossy().into_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        cpus: cpus.map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        memory_bytes: memory_bytes(&meminfo).unwrap_or(0),
        is_root: rustix::process::geteuid().is_root(),
    }
}

fn pretty_name(release: &str) -> Option<String> {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim().trim_matches(['"', '\'']).to_owned())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(release).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("ID=x"), None);
        assert_eq!(memory_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert_eq!(memory_bytes(""), None);
    }
}
