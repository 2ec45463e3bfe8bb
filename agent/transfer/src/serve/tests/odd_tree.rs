//! A tree with some of everything, and a plain look at it.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use common::rel_path::RelPath;
use sync::range::RANGE_BYTES;

pub(super) fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

pub(crate) fn noise(bytes: u64, seed: u8) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(bytes).unwrap()];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut content);
    content
}

pub(super) fn odd_tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    write(path, "index.php", b"<?php echo 1;");
    write(path, "empty", b"");
    write(path, "a/b/c/deep", b"deep");
    write(path, "a.b/x", b"sorted after a/");
    write(path, "new\nline \u{202e}", b"odd");
    write(path, "large", &noise(3 * RANGE_BYTES + 17, 1));
    write(path, "exactly", &noise(RANGE_BYTES, 2));
    write(path, "text", &b"all work and no play ".repeat(9_000));
    std::fs::create_dir(path.join("void")).unwrap();
    std::os::unix::fs::symlink("../../etc/passwd", path.join("link")).unwrap();
    std::fs::hard_link(path.join("index.php"), path.join("a/again")).unwrap();
    std::fs::set_permissions(path.join("index.php"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let sparse = std::fs::File::create(path.join("sparse")).unwrap();
    sparse.set_len(5 * RANGE_BYTES).unwrap();
    sparse.write_all_at(b"island", 2 * RANGE_BYTES + 4096).unwrap();
    let hole = std::fs::File::create(path.join("hole")).unwrap();
    hole.set_len(100_000).unwrap();
    for number in 0..1_100 {
        write(path, &format!("many/{number}"), format!("{number}").as_bytes());
    }
    for number in 0..40 {
        write(path, &format!("dirs/{number}/f"), b"f");
    }
    root
}

/// Everything below a root by a plain recursive walk.
pub(super) fn walk(root: &Path) -> BTreeMap<RelPath, std::fs::Metadata> {
    fn descend(root: &Path, below: &RelPath, found: &mut BTreeMap<RelPath, std::fs::Metadata>) {
        use std::os::unix::ffi::OsStrExt;
        for entry in std::fs::read_dir(root).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name().as_bytes()).unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                descend(&entry.path(), &path, found);
            }
            found.insert(path, metadata);
        }
    }
    let mut found = BTreeMap::new();
    descend(root, &RelPath::root(), &mut found);
    found
}
