//! An environment with nothing of this machine in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A home directory, and the programs under their own names.
#[derive(Debug)]
pub(crate) struct Environment {
    home: TempDir,
}

/// How a run ended.
#[must_use]
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Environment {
    pub(crate) fn new() -> Self {
        let home = tempfile::Builder::new().prefix("drover-cli-").tempdir().unwrap();
        let environment = Self { home };
        std::fs::create_dir(environment.programs()).unwrap();
        let built = std::env::current_exe().unwrap();
        let built = built.parent().and_then(Path::parent).unwrap();
        for (name, wrapper) in [
            ("ctl", "ctl-under-test"),
            ("drover-agent", "agent-under-test"),
            ("drover-coordinator", "coordinator-under-test"),
        ] {
            std::os::unix::fs::symlink(built.join(wrapper), environment.programs().join(name)).unwrap();
        }
        environment
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    fn programs(&self) -> PathBuf {
        self.home().join("bin")
    }

    /// Returns a program with nothing but a path, a home and a width.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/bin:/bin", self.programs().display());
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home())
            .env("COLUMNS", "100")
            .env("TERM", "xterm");
        command.current_dir(self.home()).stdin(Stdio::null());
        command
    }

    /// Runs a command line, whose words are parted by spaces.
    pub(crate) fn run(&self, line: &str) -> Run {
        let mut words = line.split(' ');
        let output = self.command(words.next().unwrap()).args(words).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a line of bash.
    pub(crate) fn bash(&self, line: &str) -> Run {
        let output = self.command("bash").args(["-c", line]).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Compares with a file of `golden/`, or writes it if `DROVER_WRITE_GOLDEN` asks for it.
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cli/golden").join(name);
    if std::env::var_os("DROVER_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (number, (found, expected)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "{}:{}", path.display(), number + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{}", path.display());
}
