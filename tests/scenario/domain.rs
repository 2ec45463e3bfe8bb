//! Destinations with several rename domains: mounts, a bind mount, a subvolume, a project; and with other file systems.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::cluster::Cluster;
use tests::mount::{self, Mounted};
use tests::{judge, skip, tree};

/// Below the root: where a rename domain of its own begins, or could. The last is an ordinary directory.
const PLACES: [&str; 7] = ["ext4", "xfs/project", "btrfs", "btrfs/sub", "deep/bound", "ram", "ordinary"];

/// Makes a destination's root with all kinds of domains below it; nothing where this machine cannot.
fn mount_all(cluster: &Cluster, root: &Path) -> Option<Vec<Mounted>> {
    for directory in ["ext4", "xfs", "btrfs", "deep/bound", "ram", "ordinary"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let elsewhere = cluster.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mounts = vec![
        mount::disk("ext4", &cluster.path("image-1"), &root.join("ext4"), 96)?,
        mount::disk("xfs", &cluster.path("image-2"), &root.join("xfs"), 320)?,
        mount::disk("btrfs", &cluster.path("image-3"), &root.join("btrfs"), 256)?,
        mount::bind(&elsewhere, &root.join("deep/bound"))?,
        mount::tmpfs(&root.join("ram"))?,
    ];
    assert!(mount::subvolume(&root.join("btrfs/sub")));
    fs::create_dir(root.join("xfs/project")).unwrap();
    mount::project(&root.join("xfs/project"), 42).then_some(mounts)
}

/// Makes something in every domain that a move finds there.
fn make_old(root: &Path) {
    for place in PLACES {
        let place = root.join(place);
        tree::plain(&place, 40, 3000).unwrap();
        fs::write(place.join("d000/e00/f000003.php"), "an older state").unwrap();
        fs::create_dir_all(place.join("only-here/below")).unwrap();
        fs::write(place.join("only-here/below/file"), "only here").unwrap();
        fs::write(place.join("becomes-a-directory"), "a file").unwrap();
        fs::create_dir_all(place.join("becomes-a-file/inner")).unwrap();
        fs::write(place.join("becomes-a-file/inner/file"), "below").unwrap();
        fs::hard_link(place.join("d000/e00/f000005.php"), place.join("linked-here")).unwrap();
    }
}

/// Makes the source: in every place small files, large ones, links and a directory in the place of a file.
fn make_new(source: &Path, files: usize) {
    for (number, place) in PLACES.into_iter().enumerate() {
        let place = source.join(place);
        tree::noise(&place, files, 6000).unwrap();
        fs::write(place.join("large"), tree::bytes(number as u64 + 1, (5 << 20) + number)).unwrap();
        fs::write(place.join("becomes-a-file"), "a file").unwrap();
        fs::create_dir_all(place.join("becomes-a-directory/below")).unwrap();
        fs::write(place.join("becomes-a-directory/below/file"), "in a new directory").unwrap();
        fs::hard_link(place.join("d000/e00/f000007.php"), place.join("becomes-a-directory/linked")).unwrap();
        symlink("large", place.join("link")).unwrap();
    }
}

/// Copies a tree with everything, to compare with later.
fn keep(tree: &Path, copy: &Path) {
    let status = Command::new("cp").arg("-a").args([tree, copy]).status().unwrap();
    assert!(status.success());
}

/// Returns all stages in a tree.
fn stages(root: &Path) -> Vec<PathBuf> {
    let output = Command::new("find").arg(root).args(["-name", ".drover-*", "-prune"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// A cluster with a source, and a destination on several file systems with a copy of what stands there.
struct Ground {
    // They go before the directory that they stand in.
    _mounts: Vec<Mounted>,
    cluster: Cluster,
    source: PathBuf,
    destination: PathBuf,
    before: PathBuf,
}

impl Ground {
    /// Makes all of it, with so many files in each place of the source; nothing where this machine cannot.
    fn new(files: usize) -> Option<Self> {
        if !skip::unless_root("mounting") {
            return None;
        }
        let cluster = Cluster::start(2, 1);
        let (source, destination, before) =
            (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
        fs::create_dir(&destination).unwrap();
        let mounts = mount_all(&cluster, &destination)?;
        make_old(&destination);
        make_new(&source, files);
        keep(&destination, &before);
        Some(Self { _mounts: mounts, cluster, source, destination, before })
    }
}

const DELETE: [&str; 3] = ["--delete", "--max-delete", "100%"];

#[test]
fn a_move_onto_several_file_systems_and_back() {
    let Some(Ground { cluster, source, destination, before, .. }) = &Ground::new(300) else { return };

    let flags = [&DELETE[..], &["--rollback-window", "1h"]].concat();
    let (code, migration) = cluster.migrate(source, destination, &flags);
    assert_eq!((code, &migration["verified"]), (Some(0), &true.into()), "{migration:#}");
    judge::assert_equal(source, destination);
    let tops: Vec<PathBuf> = stages(destination).iter().map(|stage| stage.parent().unwrap().into()).collect();
    // The root, and every domain but the project's file system, in whose own part nothing was changed.
    assert!(tops.contains(destination) && tops.contains(&destination.join("xfs/project")), "{tops:?}");
    assert!(tops.contains(&destination.join("btrfs/sub")) && tops.len() >= 7, "{tops:?}");

    let id = migration["id"].as_str().unwrap();
    let (code, migration) = cluster.json(&["rollback", id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"rolled_back".into()), "{migration:#}");
    judge::assert_equal(before, destination);
    assert_eq!(stages(destination), Vec::<PathBuf>::new());

    // And once more, settled at once: no stage stays, and every mount's directory has the source's times.
    let (code, migration) = cluster.migrate(source, destination, &DELETE);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(source, destination);
    assert_eq!(stages(destination), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_agent_goes_on_in_every_file_system() {
    let Some(Ground { cluster, source, destination, before, .. }) = &Ground::new(900) else { return };
    let gate = cluster.close_gate();
    let flags = [&DELETE[..], &["--rollback-window", "1h"]].concat();
    let id = cluster.migrate_detached(source, destination, &flags);
    for _ in 0..5 {
        gate.let_pass(3);
        cluster.kill("agent-2");
        cluster.up();
    }
    drop(gate);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(migration["status"], "completed", "{migration:#}");
    assert_eq!(migration["verified"], true, "{migration:#}");
    judge::assert_equal(source, destination);
    let (code, migration) = cluster.json(&["rollback", &id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"rolled_back".into()), "{migration:#}");
    judge::assert_equal(before, destination);
    assert_eq!(stages(destination), Vec::<PathBuf>::new());
}

#[test]
fn a_mount_point_stays_and_a_link_does_not_reach_into_another_file_system() {
    if !skip::unless_root("mounting") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    for directory in [source.join("ram"), destination.join("ram"), destination.join("extra")] {
        fs::create_dir_all(directory).unwrap();
    }
    let Some(_ram) = mount::tmpfs(&destination.join("ram")) else { return };
    let Some(_extra) = mount::tmpfs(&destination.join("extra")) else { return };
    fs::write(destination.join("extra/file"), "goes").unwrap();
    fs::write(source.join("one"), "the same").unwrap();
    fs::hard_link(source.join("one"), source.join("ram/two")).unwrap();
    fs::hard_link(source.join("one"), source.join("ram/three")).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &DELETE);
    assert_eq!((code, &migration["verified"]), (Some(7), &false.into()), "{migration:#}");
    assert_eq!(migration["status"], "completed", "{migration:#}");
    let findings = migration["findings"].as_array().unwrap();
    let mut told: Vec<_> = findings
        .iter()
        .map(|finding| (finding["rule"].as_str().unwrap(), finding["object"].as_str().unwrap()))
        .collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(
        told,
        [("hard_link", "ram/three"), ("hard_link", "ram/two"), ("not_deleted", "extra")],
        "{findings:?}"
    );
    assert_eq!(fs::read_dir(destination.join("extra")).unwrap().count(), 0);
    let [one, two, three] =
        ["one", "ram/two", "ram/three"].map(|name| fs::metadata(destination.join(name)).unwrap());
    assert_eq!((two.ino(), two.nlink(), one.nlink()), (three.ino(), 2, 1));
    assert_eq!(fs::read_to_string(destination.join("ram/two")).unwrap(), "the same");
}

#[test]
fn what_is_mounted_in_the_way_is_left_alone() {
    if !skip::unless_root("mounting") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(destination.join("deep/ram")).unwrap();
    fs::create_dir_all(destination.join("read-only")).unwrap();
    let Some(_ram) = mount::tmpfs(&destination.join("deep/ram")) else { return };
    let Some(_still) = mount::read_only(&destination.join("read-only")) else { return };
    fs::write(destination.join("deep/ram/precious"), "stays").unwrap();
    fs::write(source.join("deep"), "a file in the place of a directory with a mount in it").unwrap();
    fs::create_dir(source.join("read-only")).unwrap();
    fs::write(source.join("read-only/file"), "nowhere to go").unwrap();
    fs::write(source.join("brought"), "the rest").unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &DELETE);
    assert_eq!(code, Some(7), "{migration:#}");
    let findings = migration["findings"].to_string();
    assert!(findings.contains("in_the_way") && findings.contains("read-only/file"), "{migration:#}");
    assert_eq!(fs::read_to_string(destination.join("deep/ram/precious")).unwrap(), "stays");
    assert_eq!(fs::read_to_string(destination.join("brought")).unwrap(), "the rest");
    assert_eq!(stages(&destination), Vec::<PathBuf>::new());
}

#[test]
fn a_whole_move_onto_xfs_and_onto_btrfs() {
    if !skip::unless_root("mounting") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("shop");
    tree::odd(&source).unwrap();
    tree::plain(&source.join("plain"), 1500, 9000).unwrap();
    // XFS holds at most 1 024 bytes of a link's text.
    fs::remove_file(source.join("links/long")).unwrap();
    for (kind, size_mib) in [("xfs", 400), ("btrfs", 400)] {
        let (image, root, before) =
            (cluster.path("image"), cluster.path(kind), cluster.path(&format!("{kind}-before")));
        fs::create_dir(&root).unwrap();
        let Some(_mounted) = mount::disk(kind, &image, &root, size_mib) else { continue };
        make_old_site(&root);
        keep(&root, &before);
        let flags = [&DELETE[..], &["--numeric-ids", "--rollback-window", "1h"]].concat();
        let (code, migration) = cluster.migrate(&source, &root, &flags);
        assert_eq!((code, &migration["verified"]), (Some(0), &true.into()), "{kind}: {migration:#}");
        judge::assert_equal(&source, &root);
        let (code, migration) = cluster.json(&["rollback", migration["id"].as_str().unwrap(), "--yes"]);
        assert_eq!(code, Some(0), "{kind}: {migration:#}");
        judge::assert_equal(&before, &root);
    }
}

#[test]
fn a_disk_that_keeps_whole_seconds_gets_all_but_their_fractions() {
    if !skip::unless_root("mounting") {
        return;
    }
    let cluster = Cluster::start(2, 1);
    let (source, root, before) = (cluster.path("shop"), cluster.path("disk"), cluster.path("before"));
    tree::plain(&source, 300, 5000).unwrap();
    fs::create_dir(&root).unwrap();
    let Some(_mounted) = mount::whole_seconds(&cluster.path("image"), &root, 200) else { return };
    make_old_site(&root);
    keep(&root, &before);
    let flags = [&DELETE[..], &["--rollback-window", "1h"]].concat();
    let (code, first) = cluster.migrate(&source, &root, &flags);
    assert_eq!((code, &first["verified"]), (Some(7), &false.into()), "{first:#}");
    let findings: Vec<_> = first["findings"].as_array().unwrap().iter().collect();
    assert!(findings.len() == 1 && findings[0].to_string().contains("whole seconds"), "{first:#}");
    let content = Command::new("diff").arg("-r").arg("--exclude=.drover-*").args([&source, &root]).status();
    assert!(content.unwrap().success());
    // It is not all sent again, and a way back takes nothing of ours for somebody else's.
    let (code, again) = cluster.migrate(&source, &root, &["--dry-run"]);
    assert_eq!((code, &again["files_sent"]), (Some(0), &0.into()), "{again:#}");
    let (code, undone) = cluster.json(&["rollback", first["id"].as_str().unwrap(), "--yes"]);
    assert_eq!(code, Some(0), "{undone:#}");
    judge::assert_equal(&before, &root);
}

/// Makes what stands on a disk before a site comes.
fn make_old_site(root: &Path) {
    tree::plain(&root.join("plain"), 120, 4000).unwrap();
    fs::write(root.join("plain/d000/e00/f000003.php"), "an older state").unwrap();
    fs::create_dir_all(root.join("files/edge")).unwrap();
    fs::write(root.join("files/edge/below"), "in the way").unwrap();
}
