//! The home of one process of a cluster that stands still: damaged, started, and put back.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, Outcome};
use crate::wait;

/// How long a process may take to say that it cannot start, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is done to a file, or to the whole home.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    /// Its second half is gone.
    Half,
    /// It is empty.
    Empty,
    /// It, or the directory, is gone.
    Gone,
    /// Its content is something else.
    Noise,
    /// One bit is another, at this part of its length in percent.
    Flip(u64),
    /// Others may read it.
    Open,
    /// One text in it is another.
    Edit(&'static str, &'static str),
}

/// Does it.
///
/// # Panics
/// When the file is not there, or the text is not in it: a damage that is none proves nothing.
pub fn damage(path: &Path, damage: Damage) {
    let content = || fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let done = match damage {
        Damage::Half => fs::write(path, &content()[..content().len() / 2]),
        Damage::Empty => fs::write(path, b""),
        Damage::Gone if path.is_dir() => fs::remove_dir_all(path),
        Damage::Gone => fs::remove_file(path),
        Damage::Noise => fs::write(path, crate::tree::bytes(7, 300)),
        Damage::Flip(percent) => {
            let content = content();
            let at = content.len() as u64 * percent / 100;
            let byte = content.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or(0);
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.write_all_at(&[byte ^ 0x10], at))
        }
        Damage::Open => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        Damage::Edit(from, to) => {
            let text = String::from_utf8(content()).expect("only texts are edited");
            assert!(text.contains(from), "`{from}` is not in {}", path.display());
            fs::write(path, text.replace(from, to))
        }
    };
    done.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A cluster that stands still, and a copy of its homes.
#[derive(Debug)]
pub struct Still {
    /// The cluster.
    pub cluster: Cluster,
    copy: PathBuf,
}

impl Still {
    /// Stops a cluster and copies what its processes keep.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn of(cluster: Cluster) -> Self {
        let copy = cluster.path("copy");
        let still = Self { cluster, copy };
        still.stop();
        copy_tree(&still.cluster.cluster_directory(), &still.copy);
        still
    }

    /// Stops what runs.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn stop(&self) {
        self.cluster.down();
    }

    /// Puts everything back as it was when the cluster was stopped first.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn put_back(&self) {
        let directory = self.cluster.cluster_directory();
        fs::remove_dir_all(&directory).expect("the homes can be removed");
        copy_tree(&self.copy, &directory);
    }

    /// Returns the home of a process.
    pub fn home(&self, name: &str) -> PathBuf {
        self.cluster.cluster_directory().join(name)
    }

    /// Starts one process, as a user, and returns how it ended by itself; one that serves on is killed and has no code.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, name: &str, user: Option<u32>) -> Outcome {
        let program = if name.starts_with("coordinator") { "drover-coordinator" } else { "drover-agent" };
        let log = self.cluster.path("start.log");
        let file = fs::File::create(&log).expect("a file can be made");
        let mut command = Command::new(self.cluster.path("bin").join(program));
        command.arg("serve").arg("--config").arg(self.home(name).join("settings.toml")).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().expect("the program starts");
        let read = || fs::read_to_string(&log).unwrap_or_default();
        let code = wait::until("a process to end or to serve", DEADLINE, || {
            let ended = child.try_wait().expect("it is our child");
            match ended {
                Some(status) => Some(status.code()),
                None => read().contains("serving").then_some(None),
            }
        });
        // It may have ended by itself.
        child.kill().ok();
        child.wait().expect("it is our child");
        Outcome { code, stdout: String::new(), stderr: read() }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}
