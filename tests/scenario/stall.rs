//! A destination whose disk stands still for a while.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::cluster::Cluster;
use tests::{judge, mount, skip, tree};

/// A file system on which every write waits, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// Freezes what is mounted there; says aloud when this machine cannot.
    fn new(point: &Path) -> Option<Self> {
        let is_frozen =
            Command::new("fsfreeze").arg("-f").arg(point).status().is_ok_and(|done| done.success());
        if !is_frozen {
            skip::aloud("file systems cannot be frozen here");
        }
        is_frozen.then(|| Self(point.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Command::new("fsfreeze").arg("-u").arg(&self.0).status().ok();
    }
}

#[test]
fn a_disk_that_stands_still_costs_no_attempt_and_nobody_else() {
    let cluster = Cluster::start(2, 1);
    let (source, point) = (cluster.path("shop"), cluster.path("disk"));
    tree::noise(&source, 3000, 20_000).unwrap();
    for number in 0..24 {
        std::fs::write(source.join(format!("image-{number}")), tree::bytes(number, 8 << 20)).unwrap();
    }
    std::fs::create_dir(&point).unwrap();
    let Some(_mounted) = mount::disk("ext4", &cluster.path("image"), &point, 700) else { return };
    let destination = point.join("moved");
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "16MiB"]);
    gate.let_pass(2);
    let Some(frozen) = Frozen::new(&point) else { return };
    drop(gate);
    // Long enough for every window to be full and for silence to be noticed, if it were one.
    std::thread::sleep(Duration::from_secs(8));
    // The agent goes on with everything else.
    let (small, elsewhere) = (cluster.path("small"), cluster.path("elsewhere"));
    tree::plain(&small, 50, 3000).unwrap();
    let (code, other) = cluster.migrate(&small, &elsewhere, &[]);
    assert_eq!(code, Some(0), "{other:#}");
    drop(frozen);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&"completed".into(), &true.into()),
        "{migration:#}"
    );
    assert_eq!(migration["steps"][0]["attempts"], 1, "{migration:#}");
    judge::assert_equal(&source, &destination);
}
