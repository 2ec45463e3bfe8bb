//! What one migration brought, the next one takes from there: proven, and never believed.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::step::file::FileOutput;
use sync::wire::content::{Fetch, Have, Layout, Reply, What};

use super::same_tests::{Lie, copy_from_liar, noise};
use super::tests::write;
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

const CORE: u64 = 20;

/// Makes a site of a core that all sites share, and one file of its own.
fn site(root: &Path, own: &str) {
    for number in 0..CORE {
        let content = noise(3_000, &format!("core {number}"));
        write(root, &format!("core/class-{number}.php"), &content, 0o644);
    }
    write(root, "own", &noise(3_000, own), 0o640);
}

/// Has the pair move another site, in a migration of its own.
fn next_site(pair: &mut Pair, name: &str) {
    let next = |root: &Path| root.with_file_name(format!("{name}-{}", root.file_name().unwrap().display()));
    pair.migration = format!("m-{name}").parse().unwrap();
    pair.source_root = next(&pair.source_root);
    pair.destination_root = next(&pair.destination_root);
    pair.params.source_root = pair.source_root.to_str().unwrap().to_owned();
    pair.params.destination_root = pair.destination_root.to_str().unwrap().to_owned();
    site(&pair.source_root, name);
}

/// Moves the site, and sees that all of it is right.
async fn moved(pair: &mut Pair) -> FileOutput {
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "copied");
    let output = output.unwrap();
    assert_eq!((output.bytes_sent + output.bytes_deduplicated, output.bytes_resent), ((CORE + 1) * 3_000, 0));
    output
}

fn run_files(pair: &Pair) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(pair.state_dir.join("index/default")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_an_earlier_migration_brought_is_not_sent_again() {
    let mut pair = Pair::new();
    site(&pair.source_root, "first");
    let first = pair.destination_root.clone();
    assert_eq!(moved(&mut pair).await.bytes_deduplicated, 0);
    // The way back of the first one may be open or not.
    for (name, is_settled) in [("second", false), ("third", true)] {
        if is_settled {
            pair.settle();
        }
        next_site(&mut pair, name);
        let output = moved(&mut pair).await;
        assert_eq!((output.bytes_sent, output.bytes_deduplicated), (3_000, CORE * 3_000), "{name}");
        let inode = |root: &Path| std::fs::metadata(root.join("core/class-3.php")).unwrap().ino();
        assert_ne!(inode(&first), inode(&pair.destination_root));
        let (verified, findings) = pair.verify().await;
        assert_eq!((verified.unwrap().is_verified, findings), (true, Vec::new()));
    }
    pair.close().await;
}

type Damage = fn(&Pair);

/// The index says what was so: what is there now counts, and damage is as if nothing were held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_lies_costs_that_more_is_sent() {
    let lies: [(&str, u64, Damage); 6] = [
        ("written-over", 0, |pair| {
            for number in 0..CORE {
                // The same inode, size and time.
                let path = pair.destination_root.join(format!("core/class-{number}.php"));
                let file = std::fs::File::options().write(true).open(path).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                file.write_all_at(b"somebody's", 77).unwrap();
                file.set_times(std::fs::FileTimes::new().set_modified(modified)).unwrap();
            }
        }),
        ("exchanged", CORE - 2, |pair| {
            let at = |name: &str| pair.destination_root.join("core").join(name);
            std::fs::rename(at("class-1.php"), at("aside")).unwrap();
            std::fs::rename(at("class-2.php"), at("class-1.php")).unwrap();
            std::fs::rename(at("aside"), at("class-2.php")).unwrap();
        }),
        ("gone", 0, |pair| std::fs::remove_dir_all(&pair.destination_root).unwrap()),
        ("links", 0, |pair| {
            // What it leads to is the same, but it is not below the root.
            let (core, aside) = (pair.destination_root.join("core"), pair.state_dir.join("aside"));
            std::fs::rename(&core, &aside).unwrap();
            std::os::unix::fs::symlink(&aside, &core).unwrap();
        }),
        ("torn", 0, |pair| {
            for run in run_files(pair) {
                let bytes = std::fs::read(&run).unwrap();
                std::fs::write(&run, &bytes[..60]).unwrap();
            }
        }),
        ("garbage", 0, |pair| {
            for run in run_files(pair) {
                let length = std::fs::metadata(&run).unwrap().len();
                std::fs::write(&run, noise(usize::try_from(length).unwrap(), "garbage")).unwrap();
            }
        }),
    ];
    for (name, of_use, lie) in lies {
        let mut pair = Pair::new();
        site(&pair.source_root, "first");
        moved(&mut pair).await;
        lie(&pair);
        next_site(&mut pair, name);
        assert_eq!(moved(&mut pair).await.bytes_deduplicated, of_use * 3_000, "{name}");
        // What came now is held.
        next_site(&mut pair, "after");
        assert_eq!(moved(&mut pair).await.bytes_deduplicated, CORE * 3_000, "after {name}");
        pair.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_from_what_another_tenant_brought() {
    let mut first = Pair::new();
    site(&first.source_root, "first");
    moved(&mut first).await;
    for (tenant, deduplicated) in [("acme", 0), ("default", CORE * 3_000)] {
        let mut pair = Pair::of(tenant.parse().unwrap());
        // As if both had been served by one agent.
        std::fs::create_dir_all(pair.state_dir.join("index/default")).unwrap();
        for run in run_files(&first) {
            let name = run.file_name().unwrap();
            std::fs::copy(&run, pair.state_dir.join("index/default").join(name)).unwrap();
        }
        site(&pair.source_root, tenant);
        assert_eq!(moved(&mut pair).await.bytes_deduplicated, deduplicated, "{tenant}");
        assert!(pair.state_dir.join("index").join(tenant).is_dir());
        pair.close().await;
    }
    first.close().await;
}

/// Whoever knows a digest, and even the prefix that is asked about, gets nothing by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_proof_nothing_is_taken_from_here() {
    let lies: [Lie; 3] = [
        |fetch, content, _known| have(fetch, *blake3::hash(content).as_bytes()),
        // A nonce of its own.
        |fetch, content, _known| have(fetch, *blake3::keyed_hash(&[7; 32], content).as_bytes()),
        |fetch, _content, _known| have(fetch, [0; 32]),
    ];
    for lie in lies {
        let mut pair = Pair::new();
        let content = noise(3_000, "secret");
        for name in ["a", "b", "c"] {
            write(&pair.source_root, name, &content, 0o644);
        }
        pair.copy().await.0.unwrap();
        pair.migration = "m2".parse().unwrap();
        let elsewhere = pair.destination_root.with_file_name("elsewhere");
        pair.params.destination_root = elsewhere.to_str().unwrap().to_owned();
        // It has the bytes, so that they can be asked for; what it said before was of no use.
        let output = copy_from_liar(&mut pair, &content, lie).await;
        assert_eq!((output.bytes_sent, output.bytes_deduplicated), (9_000, 0));
        pair.close().await;
    }
}

fn have(fetch: &Fetch, proof: [u8; 32]) -> Reply {
    let What::Held { prefixes: [Some(prefix), ..] } = fetch.what else {
        panic!("nothing was said to be held: {fetch:?}")
    };
    Reply::Have(vec![Have { id: fetch.id, stamp: fetch.stamp, layout: Layout::Dense, prefix, proof }])
}
