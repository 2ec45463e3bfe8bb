//! What earlier versions wrote, read with today's code; `tests/compat` lists the files.

use std::path::PathBuf;

use common::progress::Progress;
use common::rel_path::RelPath;
use common::spec::Compression;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sync::byte_string::ByteString;
use sync::codec::{self, Message};
use sync::entry::{Entry, Kind};
use sync::limits::Limits;
use sync::stamp::Time;
use sync::wire::control::{Opened, ToDestination, ToSource};
use sync::wire::hello::{Hello, Open, ScanRequest, Watch};
use tree::{Name, Root};

use crate::begun::Begun;
use crate::frame_file::{FrameReader, encode};
use crate::ledger::{Change, Intent};
use crate::memory::StageRecord;
use crate::passes::Passes;
use crate::saved_counters::Totals;
use crate::stage::Marker;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/compat/fixtures/1"))
}

/// Returns a fixture; one that is missing is written, if `DROVER_WRITE_FIXTURES` asks for it.
fn fixture(name: &str, today: &[u8]) -> Vec<u8> {
    let path = folder().join(name);
    if std::env::var_os("DROVER_WRITE_FIXTURES").is_some() && !path.exists() {
        std::fs::write(&path, today).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks a file of frames.
pub(crate) fn frames<T: Serialize + DeserializeOwned + std::fmt::Debug>(name: &str, expected: &[T]) {
    let mut today = Vec::new();
    for frame in expected {
        encode(frame, &mut today).unwrap();
    }
    fixture(name, &today);
    let dir = Root::open(&folder()).unwrap().dir();
    let mut reader = FrameReader::<T>::forwards(dir.open_append(&Name::new(name).unwrap()).unwrap(), 0);
    let mut found = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        found.push(frame);
    }
    assert_eq!(format!("{found:#?}"), format!("{expected:#?}"), "{name}");
}

/// Checks a JSON document: what is read of it and written again is the same, but for fields that were added.
fn document<T: Serialize + DeserializeOwned>(name: &str, first: &str) {
    let bytes = fixture(name, first.as_bytes());
    let old: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let today = serde_json::to_value(serde_json::from_slice::<T>(&bytes).unwrap()).unwrap();
    for (field, value) in old.as_object().unwrap() {
        assert_eq!(today.get(field), Some(value), "{name}: {field}");
    }
}

pub(crate) fn entry(name: &str, kind: Kind) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind,
        mode: 0o2750,
        uid: 33,
        gid: 34,
        mtime: Time { seconds: -1, nanos: 999_999_999 },
        ctime: Time { seconds: 1_700_000_000, nanos: 1 },
        dev: 2_049,
        ino: 77,
        nlink: 2,
        xattrs: vec![(ByteString(b"user.a".to_vec()), ByteString(vec![0, 255]))],
    }
}

fn path() -> RelPath {
    RelPath::root().join(b"a").unwrap().join(b"\xff\n").unwrap()
}

#[test]
fn fixtures_of_ledgers_are_read() {
    use crate::ledger::Record;
    let file = entry("\u{fc}", Kind::File { size: 10, allocated_bytes: 4_096 });
    let link = entry("l", Kind::Symlink { target: b"../x".to_vec() });
    let digest = common::digest::Digest::of(b"content");
    let intent = |seq, change| Record::Intent(Box::new(Intent { seq, pass: 1, path: path(), change }));
    let records = [
        intent(1, Change::Create { new: file.clone(), digest: Some(digest) }),
        intent(2, Change::Replace { old: file.clone(), is_kept: true, new: link.clone(), digest: None }),
        intent(3, Change::Remove { old: entry("d", Kind::Directory), is_kept: false }),
        intent(4, Change::Metadata { old: file, new: link }),
        Record::Done { seq: 1, ctime: Some(Time { seconds: 5, nanos: 6 }) },
        Record::Abandoned { seq: 2 },
    ];
    frames("ledger.frames", &records);
}

#[test]
fn fixtures_of_counters_are_read() {
    let progress = Progress { files_done: 1, files_total: 2, is_scan_complete: true, ..Progress::default() };
    let totals = Totals {
        first_pass: 3,
        wire_bytes: 4,
        content_bytes: 5,
        files_sent: 6,
        duration_ms: 7,
        progress: progress.into(),
        deduplicated_bytes: 0,
    };
    frames("counters.frames", &[totals]);
    frames("counters-deduplicated.frames", &[Totals { deduplicated_bytes: 8, ..totals }]);
}

#[test]
fn fixtures_of_documents_of_the_stage_are_read() {
    let root = serde_json::to_string(&entry("", Kind::Directory)).unwrap();
    let marker = format!(
        r#"{{"version":1,"migration":"b7k2m9x4qz","created":[{{"path":"/srv/new","dev":2049,"ino":5}}],"root":{root}}}"#
    );
    document::<Marker>("marker.json", &marker);
    document::<Passes>(
        "passes.json",
        r#"{"version":1,"passes":[{"number":1,"started":{"seconds":1700000000,"nanos":9},"is_whole":true}],"root":{"boot_id":"boot","dev":2049,"ino":7}}"#,
    );
    document::<StageRecord>(
        "stage.json",
        r#"{"version":1,"name":".drover-b7k2m9x4qz-ab12","dev":2049,"ino":9}"#,
    );
    let begun = format!(
        r#"{{"version":1,"name":".drover-b7k2m9x4qz-ab12","at":1700000000000,"root":{root},"missing":["new"],"removed":[]}}"#
    );
    document::<Begun>("begun.json", &begun);
}

/// Checks messages of the data port, byte by byte: both ends may be of different builds of one protocol version.
fn messages<M: Message + PartialEq + std::fmt::Debug>(name: &str, expected: &[M]) {
    let mut today = Vec::new();
    for message in expected {
        codec::encode(message, &mut today).unwrap();
    }
    let bytes = fixture(name, &today);
    assert_eq!(bytes, today, "{name}: the bytes of this protocol version have changed");
    let mut rest = bytes.as_slice();
    for message in expected {
        assert_eq!(codec::take::<M>(&mut rest).unwrap().as_ref(), Some(message), "{name}");
    }
}

#[test]
fn fixtures_of_the_data_port_are_spoken() {
    let open = Open {
        version: 2,
        ticket: b"ticket".to_vec(),
        bandwidth_limit: Some(9),
        compression: Compression::Level(9),
    };
    let limits =
        Limits { max_size: Some(9), before: Some(Time { seconds: 5, nanos: 6 }), ..Limits::default() };
    let scan = ScanRequest {
        exclude: vec![ByteString(b"*.log".to_vec())],
        include: Vec::new(),
        limits,
        one_file_system: true,
        copy_links: true,
        without: Some(path()),
        watch: Watch::No,
    };
    messages(
        "hello.messages",
        &[Hello::Control(open), Hello::Manifest(scan), Hello::Content, Hello::ContentThroughLinks],
    );
    messages(
        "to-source.messages",
        &[ToSource::Limit { bytes_per_s: None }, ToSource::Renew { ticket: vec![1, 2] }],
    );
    let opened = Opened {
        version: 2,
        now: Time { seconds: 1_700_000_000, nanos: 2 },
        boot_id: "boot".to_owned(),
        root_dev: 1,
        root_ino: 2,
        fs_type: "ext4".to_owned(),
        is_network_fs: false,
    };
    let counters =
        sync::wire::control::Counters { wire_bytes: 1, content_bytes: 2, content_units: 3, digest_bytes: 4 };
    messages("to-destination.messages", &[ToDestination::Opened(opened), ToDestination::Counters(counters)]);
}

#[test]
fn a_later_version_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let migration = "b7k2m9x4qz".parse().unwrap();
    let memory = crate::memory::Memory::open(folder.path(), &migration).unwrap();
    let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
    write(memory.folder().join("stage.json"), r#"{"version":2,"more":true}"#);
    write(memory.folder().join("begun.json"), r#"{"version":2,"more":true}"#);
    write(folder.path().join("passes"), r#"{"version":2,"more":true}"#);
    let stage = folder.path().join(".drover-b7k2m9x4qz-ab12");
    std::fs::create_dir(&stage).unwrap();
    std::fs::set_permissions(&stage, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    write(stage.join("marker"), r#"{"version":2,"more":true}"#);
    write(stage.join("ledger"), "DRVLED99");
    let dir = Root::open(folder.path()).unwrap().dir();
    let name = Name::new(".drover-b7k2m9x4qz-ab12").unwrap();
    let failures = [
        memory.stage().unwrap_err(),
        memory.begun().unwrap_err(),
        Passes::read(&dir).unwrap_err(),
        crate::stage::open_valid(&dir, &name).unwrap_err(),
        crate::ledger::Ledger::open(&dir.open_dir(&name).unwrap(), 0).unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.kind, common::failure::FailureKind::Unsupported, "{failure}");
        assert!(failure.message.contains("newer version"), "{failure}");
    }
}
