//! Directories that nobody may touch, and how to see that nobody did.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What only the canary holds; wherever else it turns up, something was read that must not be.
pub const SECRET: &str = "canary-7f3a91: this must never leave its directory";

/// A directory that is watched by inode, change time, content and everything else that a touch would change.
#[derive(Debug)]
pub struct Canary {
    root: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes a directory like `/etc` and a home, and remembers it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(root: &Path) -> Self {
        let make = || -> std::io::Result<()> {
            for folder in ["etc", "home/keys"] {
                fs::create_dir_all(root.join(folder))?;
            }
            for file in ["etc/passwd", "etc/shadow", "home/keys/id", "secret"] {
                fs::write(root.join(file), SECRET)?;
            }
            fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o600))?;
            fs::hard_link(root.join("secret"), root.join("home/secret-again"))?;
            symlink("etc/passwd", root.join("link"))
        };
        make().expect("a canary can be made");
        Self { root: root.to_owned(), before: look(root) }
    }

    /// Returns a path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Asserts that nobody touched it.
    ///
    /// # Panics
    /// When somebody did.
    pub fn assert_untouched(&self, after: &str) {
        let now = look(&self.root);
        assert_eq!(now, self.before, "the canary was touched: {after}");
    }
}

/// Returns what a touch would change, by path; without the access time, which looking changes.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).expect("the canary is there");
        let content =
            if stat.is_file() { fs::read(&path).expect("the canary can be read") } else { Vec::new() };
        if stat.is_dir() {
            let entries = fs::read_dir(&path).expect("the canary can be read");
            pending.extend(entries.map(|entry| entry.expect("the canary can be read").path()));
        }
        let line = format!(
            "{} {:o} {}:{} nlink {} size {} ctime {}.{} mtime {}.{} {}",
            stat.ino(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.size(),
            stat.ctime(),
            stat.ctime_nsec(),
            stat.mtime(),
            stat.mtime_nsec(),
            String::from_utf8_lossy(&content),
        );
        seen.insert(path, line);
    }
    seen
}
