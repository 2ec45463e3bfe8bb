//! Power cuts in effect: the disk as it was at some instant of a pass, mounted again.
//!
//! The destination is a file system in an image file, and the image stands on a file system that shares blocks. A copy
//! that shares blocks is made at one instant, so it is what the disk would hold if the power went then: all that the
//! kernel has written to it, and nothing of what it only held in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::kill_point::{KillPoint, Sync};
use crate::mounted_test::{Mounted, run, skipped};
use crate::pair::{Pair, assert_same};
use crate::snapshot::{Snapshot, snapshot};

/// Effects of a pass, at least.
const EFFECTS: u64 = 1000;

fn copy_at_once(from: &Path, to: &Path) {
    assert!(run("cp", &["--reflink=always"], &[from, to]), "{} is not copied", from.display());
}

/// The disk, and the file system that its image stands on. Fields are dropped in this order.
struct Disk {
    mounted: Mounted,
    outer: Mounted,
    fs: &'static str,
    _folder: tempfile::TempDir,
}

impl Disk {
    /// Makes it, or says aloud that this machine cannot.
    fn new(fs: &'static str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let sparse = |path: &Path, mib: u64| std::fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
        sparse(&at("outer.img"), 4096);
        let outer = run("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"], &[&at("outer.img")])
            .then(|| Mounted::new(&at("outer.img"), &at("outer"), "loop"))
            .flatten();
        let Some(outer) = outer else {
            skipped("power cuts need root, loop devices and xfs with shared blocks");
            return None;
        };
        let image = outer.0.join("disk.img");
        let (make, words): (_, &[&str]) = match fs {
            "xfs" => ("mkfs.xfs", &["-q", "-f"]),
            _ => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]),
        };
        sparse(&image, 320);
        assert!(run(make, words, &[&image]), "{make} fails");
        let mounted = Mounted::new(&image, &at("disk"), "loop").unwrap();
        Some(Self { mounted, outer, fs, _folder: folder })
    }

    fn cut(&self, number: u64) -> PathBuf {
        self.outer.0.join(format!("cut-{number}.img"))
    }

    /// Mounts a copy of a cut, which replays its journal, for `look`; then has the file system checked.
    async fn after(&self, number: u64, look: impl AsyncFnOnce(&Path)) {
        let (copy, point) = (self.outer.0.join("copy.img"), self.outer.0.join("mounted"));
        std::fs::remove_file(&copy).ok();
        copy_at_once(&self.cut(number), &copy);
        // The disk and its copies have the same identity, which only xfs minds.
        let options = if self.fs == "xfs" { "loop,nouuid" } else { "loop" };
        let mounted = Mounted::new(&copy, &point, options).expect("the disk is mounted after the cut");
        look(&point).await;
        drop(mounted);
        let check: (&str, &[&str]) =
            if self.fs == "xfs" { ("xfs_repair", &["-n"]) } else { ("e2fsck", &["-fn"]) };
        assert!(run(check.0, check.1, &[&copy]), "the file system of cut {number} is damaged");
    }
}

fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn write(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
}

/// What is to come: small files in several directories and files that come in ranges.
fn make_source(root: &Path) {
    for number in 0..900 {
        write(root, &format!("d{}/f{number}", number % 7), &noise(number, 3000 + number * 13));
    }
    for number in 0..3 {
        write(root, &format!("large/{number}"), &noise(5000 + number, (3 << 20) + number * 1_500_000));
    }
    write(root, "metadata", b"the same");
    std::os::unix::fs::symlink("f0", root.join("d0/link")).unwrap();
}

/// What stands there before: older files, others in their way, and some that are to go.
fn make_old(root: &Path) {
    for number in (0..900).step_by(3) {
        write(root, &format!("d{}/f{number}", number % 7), &noise(9000 + number, 2000 + number * 7));
    }
    for number in 0..80 {
        write(root, &format!("gone/f{number}"), &noise(7000 + number, 500));
    }
    write(root, "large/1", &noise(6000, 2 << 20));
    write(root, "d0/link", b"a file where a link shall be");
    write(root, "metadata", b"the same");
}

/// Says which entries of a live tree are neither old nor new in whole.
fn torn(found: &Snapshot, old: &Snapshot, new: &Snapshot) -> Vec<PathBuf> {
    let is_directory = |line: &String| line.starts_with('4');
    let body = |line: &String| line.split("} ").nth(1).map(str::to_owned);
    let mut torn = Vec::new();
    for (path, line) in found {
        let is_whole = match (old.get(path), new.get(path)) {
            (None, None) => false,
            _ if is_directory(line) => true,
            // What is old in content may have been given the new metadata, in place.
            (Some(old), _) if body(old) == body(line) => true,
            (_, Some(new)) => new == line,
            (Some(_), None) => false,
        };
        if !is_whole {
            torn.push(path.clone());
        }
    }
    let stays = |path: &&PathBuf| new.contains_key(*path) && !found.contains_key(*path);
    torn.extend(old.keys().filter(stays).cloned());
    torn
}

/// What a pass under cuts is made of.
struct Cuts {
    disk: Disk,
    source: tempfile::TempDir,
    /// What the agent remembers, copied at each cut; nothing where it is on the disk itself.
    states: Option<tempfile::TempDir>,
    old: Snapshot,
    new: Snapshot,
    count: u64,
}

impl Cuts {
    fn pair(&self, point: &Path, state_dir: PathBuf) -> Pair {
        let mut pair = Pair::new();
        pair.source_root = self.source.path().to_owned();
        pair.destination_root = point.join("site");
        pair.params.source_root = pair.source_root.to_str().unwrap().to_owned();
        pair.params.destination_root = pair.destination_root.to_str().unwrap().to_owned();
        pair.params.delete = true;
        pair.params.max_delete = common::spec::MaxDelete::Percent(100);
        pair.state_dir = state_dir;
        pair
    }

    /// Runs a pass and cuts the power before many of its effects, while other threads go on.
    async fn take(fs: &'static str, sync: Sync, has_state_on_disk: bool, cuts_wanted: u64) -> Option<Self> {
        let disk = Disk::new(fs)?;
        let point = disk.mounted.0.clone();
        let source = tempfile::tempdir().unwrap();
        make_source(source.path());
        std::fs::create_dir(point.join("site")).unwrap();
        std::fs::create_dir(point.join("state")).unwrap();
        make_old(&point.join("site"));
        assert!(run("sync", &["-f"], &[&point]));
        let states = (!has_state_on_disk).then(|| tempfile::tempdir().unwrap());
        let (old, new) = (snapshot(&point.join("site")), snapshot(source.path()));
        let mut cuts = Self { disk, source, states, old, new, count: 0 };
        let state_dir = match &cuts.states {
            Some(states) => states.path().join("live"),
            None => point.join("state"),
        };
        std::fs::create_dir_all(&state_dir).unwrap();
        let mut pair = cuts.pair(&point, state_dir.clone());
        let taken = Arc::new(Mutex::new(0));
        let (counter, outer) = (Arc::clone(&taken), cuts.disk.outer.0.clone());
        let states = cuts.states.as_ref().map(|states| states.path().to_owned());
        let cut = move |effect: u64| {
            let mut count = counter.lock().unwrap();
            if effect % (EFFECTS / cuts_wanted) == 3 && *count < cuts_wanted {
                copy_at_once(&outer.join("disk.img"), &outer.join(format!("cut-{count}.img")));
                if let Some(states) = &states {
                    let copy = states.join(format!("cut-{count}"));
                    assert!(run("cp", &["-a"], &[&state_dir, &copy]));
                }
                *count += 1;
            }
        };
        let (mut context, _findings) = pair.context();
        context.lease = context.lease.with_kill_point(KillPoint::watched(cut).with_sync(sync));
        let output = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await.unwrap();
        assert!(!output.is_partial);
        pair.close().await;
        cuts.count = *taken.lock().unwrap();
        assert_eq!(cuts.count, cuts_wanted);
        Some(cuts)
    }

    /// Returns the agent after a cut, on the disk that is mounted at `point`.
    fn agent_after(&self, number: u64, point: &Path) -> Pair {
        let state_dir = match &self.states {
            Some(states) => {
                let again = states.path().join("again");
                std::fs::remove_dir_all(&again).ok();
                assert!(run("cp", &["-a"], &[&states.path().join(format!("cut-{number}")), &again]));
                again
            }
            None => point.join("state"),
        };
        let mut pair = self.pair(point, state_dir);
        pair.token = 1000;
        pair
    }

    /// Looks at every cut: whole files, a way forward and a way back.
    async fn prove(&self) {
        for number in 0..self.count {
            let what = format!("cut {number} of {}", self.count);
            let resume = async |point: &Path| {
                let found = snapshot(&point.join("site"));
                assert_eq!(torn(&found, &self.old, &self.new), Vec::<PathBuf>::new(), "{what}");
                let mut pair = self.agent_after(number, point);
                let (mut context, mut findings) = pair.context();
                context.lease = context.lease.with_kill_point(KillPoint::after_reboot());
                let output = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await;
                assert!(!output.unwrap().is_partial, "{what}: {:?}", findings.try_recv());
                assert_same(&snapshot(&pair.destination_root), &self.new, &format!("{what}, resumed"));
                assert!(pair.verify().await.0.unwrap().is_verified, "{what}");
                assert_eq!(pair.undo().await.0, Ok(0), "{what}");
                assert_same(
                    &snapshot(&pair.destination_root),
                    &self.old,
                    &format!("{what}, resumed and undone"),
                );
                pair.close().await;
            };
            self.disk.after(number, resume).await;
            let undo = async |point: &Path| {
                let mut pair = self.agent_after(number, point);
                assert_eq!(pair.undo().await.0, Ok(0), "{what}");
                assert_same(&snapshot(&pair.destination_root), &self.old, &format!("{what}, undone"));
                pair.close().await;
            };
            self.disk.after(number, undo).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_power_goes_every_file_is_whole_and_both_ways_are_open() {
    if let Some(cuts) = Cuts::take("ext4", Sync::AsEver, true, 12).await {
        cuts.prove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_where_everything_is_synced_by_itself_and_the_agent_remembers() {
    if let Some(cuts) = Cuts::take("ext4", Sync::ByFile, false, 6).await {
        cuts.prove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_on_xfs() {
    if let Some(cuts) = Cuts::take("xfs", Sync::AsEver, false, 6).await {
        cuts.prove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_is_left_out_is_noticed() {
    let Some(cuts) = Cuts::take("ext4", Sync::LeftOut, true, 6).await else { return };
    let mut found = Vec::new();
    for number in 0..cuts.count {
        let look = async |point: &Path| {
            found.extend(torn(&snapshot(&point.join("site")), &cuts.old, &cuts.new));
        };
        cuts.disk.after(number, look).await;
    }
    assert!(!found.is_empty(), "no file was torn, so this test would not notice a missing sync");
}
