//! What `--delete` leaves alone.

use std::path::Path;

use common::finding::Rule;
use common::spec::MaxDelete;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::tests::{rules, write};
use crate::pair::Pair;

/// A name that nobody can look at: a file system whose server is gone.
struct Dead<'a>(&'a Path);

impl<'a> Dead<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let mounted = server.and_then(|server| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&server);
            let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
            let data = std::ffi::CString::new(data).unwrap();
            mount("none", at, "fuse", MountFlags::empty(), data.as_c_str()).map_err(Into::into)
        });
        match mounted {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: cannot mount a file system of FUSE: {error}");
                None
            }
        }
    }
}

impl Drop for Dead<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_could_not_look_at_is_neither_removed_nor_proven() {
    let mut pair = Pair::new();
    write(&pair.source_root, "a/file", b"of the source", 0o600);
    write(&pair.source_root, "z", b"of the source", 0o600);
    let unseen = pair.source_root.join("unseen");
    let Some(_dead) = Dead::mount(&unseen) else { return pair.close().await };
    let precious = pair.destination_root.join("unseen/below/precious");
    write(&pair.destination_root, "unseen/below/precious", b"the only copy", 0o600);
    write(&pair.destination_root, "extra/file", b"goes", 0o600);
    (pair.params.delete, pair.params.max_delete) = (true, MaxDelete::Percent(100));

    pair.params.dry_run = true;
    let output = pair.copy().await.0.unwrap();
    assert_eq!((output.deleted, output.is_partial), (2, true));
    pair.params.dry_run = false;
    let (output, findings) = pair.copy().await;
    let output = output.unwrap();
    assert_eq!(rules(&findings), [(Rule::Unreadable, "unseen")]);
    assert_eq!((output.deleted, output.is_partial), (2, true));
    assert_eq!(std::fs::read(&precious).unwrap(), b"the only copy");

    // The copy has told it; nobody has when the tree is compared by itself.
    let (verified, findings) = pair.verify().await;
    let verified = verified.unwrap();
    assert_eq!((verified.is_verified, verified.is_partial, rules(&findings)), (false, true, Vec::new()));
    pair.settle();
    let (verified, findings) = pair.verify().await;
    assert!(!verified.unwrap().is_verified);
    assert_eq!(rules(&findings), [(Rule::Unreadable, "unseen")]);
    pair.close().await;
}
