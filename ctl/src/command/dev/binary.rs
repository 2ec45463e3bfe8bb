//! Where the daemons' programs are.

use std::path::{Path, PathBuf};

use common::failure::{Failure, FailureKind};
use rustix::fs::Access;

use crate::failure::CommandError;
use crate::settings;

/// The programs of a local cluster.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    /// `drover-coordinator`.
    pub(super) coordinator: PathBuf,
    /// `drover-agent`.
    pub(super) agent: PathBuf,
}

impl Binaries {
    /// Finds the programs: in the folder that the environment names and nowhere else; without one beside `ctl` itself,
    /// then where the environment looks for programs.
    ///
    /// # Errors
    /// When one is nowhere.
    pub(super) fn find() -> Result<Self, CommandError> {
        let folders = match settings::binary_folder() {
            Some(folder) => vec![folder],
            None => {
                let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
                own.into_iter().chain(settings::search_path()).collect()
            }
        };
        Ok(Self {
            coordinator: find(&folders, "drover-coordinator")?,
            agent: find(&folders, "drover-agent")?,
        })
    }
}

/// Finds a program in the first folder that has it.
fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf, CommandError> {
    let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    let found =
        folders.iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(is_program);
    found.ok_or_else(|| {
        let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Failure::new(FailureKind::NotFound, format!("the program {name} is in none of {}", shown.join(", ")))
            .hint("name its folder, from the root, with DROVER_BIN_DIR")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn the_first_folder_that_has_a_program_wins() {
        let directory = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = ["a", "b", "c"].map(|name| directory.path().join(name)).to_vec();
        for (folder, mode) in folders.iter().zip([0o644, 0o755, 0o755]) {
            std::fs::create_dir(folder).unwrap();
            let program = folder.join("drover-agent");
            std::fs::OpenOptions::new().create(true).write(true).mode(mode).open(program).unwrap();
        }
        assert_eq!(find(&folders, "drover-agent").unwrap(), folders[1].join("drover-agent"));
        let CommandError::Failure(failure) = find(&folders[..1], "drover-agent").unwrap_err() else {
            panic!("it is a failure")
        };
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}
