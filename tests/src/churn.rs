//! Somebody who goes on writing into a tree while it is moved.

use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;

use crate::random::Random;
use crate::tree;

/// Directories that come and go, of which any may be in any other.
const DIRECTORIES: u64 = 6;
/// Names of files in each.
const FILES: u64 = 12;

/// A thread that changes a tree in every way, until it is stopped.
#[derive(Debug)]
pub struct Churn {
    is_over: Arc<AtomicBool>,
    deeds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    /// Begins below `root`; `elsewhere` is beside it, on the same file system, for what comes from outside and goes.
    /// Where `has_links` is said, files get further names, also outside of the tree.
    ///
    /// # Panics
    /// When `elsewhere` cannot be made.
    #[must_use]
    pub fn start(root: &Path, elsewhere: &Path, seed: u64, has_links: bool) -> Self {
        fs::create_dir_all(elsewhere).expect("a directory beside the tree");
        let (is_over, deeds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writer = Writer {
            root: root.to_owned(),
            elsewhere: elsewhere.to_owned(),
            random: Random::new(seed),
            round: 0,
            has_links,
        };
        let (ended, counted) = (Arc::clone(&is_over), Arc::clone(&deeds));
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                // What is not there cannot be changed.
                counted.fetch_add(u64::from(writer.act().is_ok()), Relaxed);
                // Others need a processor, too.
                std::thread::sleep(Duration::from_micros(300));
            }
            // No copy has these names.
            fs::remove_dir_all(&writer.elsewhere).ok();
        });
        Self { is_over, deeds, thread: Some(thread) }
    }

    /// Returns how much was changed so far.
    #[must_use]
    pub fn deeds(&self) -> u64 {
        self.deeds.load(Relaxed)
    }

    /// Stops, and returns when nothing is written any more.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Writer {
    root: PathBuf,
    elsewhere: PathBuf,
    random: Random,
    round: u64,
    has_links: bool,
}

impl Writer {
    fn act(&mut self) -> io::Result<()> {
        self.round += 1;
        let path = self.file();
        match self.random.below(19) {
            0 => fs::write(&path, self.content()),
            1 => File::options().append(true).open(&path)?.write_all(&self.content()),
            2 => File::options().write(true).open(&path)?.set_len(self.random.below(9_000)),
            3 => {
                let fresh = path.with_extension("new");
                fs::write(&fresh, self.content())?;
                fs::rename(fresh, path)
            }
            4 => fs::rename(&path, self.file()),
            5 => fs::rename(self.directory(), self.directory()),
            6 => fs::remove_file(&path),
            7 if self.random.permille(200) => fs::remove_dir_all(self.directory()),
            7 | 8 => self.make(),
            9 if self.has_links => fs::hard_link(&path, self.file()),
            10 => {
                let mode = 0o600 + u32::try_from(self.random.below(64)).unwrap_or(0);
                fs::set_permissions(&path, PermissionsExt::from_mode(mode))
            }
            11 => Ok(rustix::fs::setxattr(&path, c"user.churn", &self.content()[..8], XattrFlags::empty())?),
            12 => {
                let old = SystemTime::UNIX_EPOCH + Duration::from_secs(self.random.below(1_000_000_000));
                File::options().write(true).open(&path)?.set_times(FileTimes::new().set_modified(old))
            }
            13 => self.change_quietly(&path),
            14 => symlink(format!("target-{}", self.round), path.with_extension("link")),
            15 => self.move_in(),
            16 => fs::rename(self.directory(), self.elsewhere.join(format!("gone-{}", self.round))),
            17 => {
                fs::remove_file(&path)?;
                fs::create_dir(&path)?;
                fs::write(path.join("inner"), self.content())
            }
            // By a name that no directory of the tree has.
            18 if self.has_links => {
                let alias = self.elsewhere.join("alias");
                fs::remove_file(&alias).ok();
                fs::hard_link(&path, &alias)?;
                fs::write(alias, self.content())
            }
            _ => fs::write(&path, self.content()),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        let len = self.random.below(if self.random.clone().permille(50) { 90_000 } else { 3_000 });
        tree::bytes(self.round, usize::try_from(len).unwrap_or(0).max(8))
    }

    /// One of the directories, at the top or in another one.
    fn directory(&mut self) -> PathBuf {
        let mut name = || format!("churn-{}", self.random.below(DIRECTORIES));
        let outer = self.root.join(name());
        if self.random.permille(500) { outer } else { outer.join(format!("churn-{}", self.random.below(3))) }
    }

    fn file(&mut self) -> PathBuf {
        self.directory().join(format!("f{}", self.random.below(FILES)))
    }

    fn make(&mut self) -> io::Result<()> {
        let directory = self.directory();
        fs::create_dir_all(&directory)?;
        (0..4).try_for_each(|number| fs::write(directory.join(format!("f{number}")), self.content()))
    }

    /// A directory comes with all that it holds.
    fn move_in(&mut self) -> io::Result<()> {
        let made = self.elsewhere.join(format!("comes-{}", self.round));
        fs::create_dir_all(made.join("churn-0/deep"))?;
        fs::write(made.join("churn-0/deep/f1"), self.content())?;
        fs::write(made.join("f2"), self.content())?;
        fs::rename(made, self.directory())
    }

    /// The same size, and the time put back.
    fn change_quietly(&mut self, path: &Path) -> io::Result<()> {
        let before = fs::metadata(path)?;
        let len = usize::try_from(before.len()).unwrap_or(0);
        let mut file = File::options().write(true).open(path)?;
        file.write_all(&tree::bytes(self.round, len))?;
        file.set_times(FileTimes::new().set_modified(before.modified()?))
    }
}
