//! Documents that people, scripts and agents read: what stood there stays, under its name.

use common::clock::WallMs;
use common::context::Contexts;
use common::host::HostFacts;
use common::progress::Progress;
use common::rules::Rules;
use common::spec::{Compression, MaxDelete, ValidationLevel};
use common::step::file::{FileOutput, FileParams, VERSION};
use common::transport::TransportChoice;
use common::view::{ErrorView, ReportView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::sample::{digest, failure, plan, spec};
use crate::{fixture, folder, state};

/// Checks a document: it is read, and what is written again holds all that stood there.
fn document<T: Serialize + DeserializeOwned>(path: &str, first: &T) -> T {
    let bytes = fixture(path, || serde_json::to_vec_pretty(first).unwrap());
    let found: T = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
    let old: Value = serde_json::from_slice(&bytes).unwrap();
    assert_holds(path, &serde_json::to_value(&found).unwrap(), &old);
    found
}

/// Fields may be added; none is renamed, removed or given another value.
fn assert_holds(place: &str, today: &Value, old: &Value) {
    match (today, old) {
        (Value::Object(today), Value::Object(old)) => {
            for (field, value) in old {
                let found = today.get(field).unwrap_or_else(|| panic!("{place}.{field} is gone"));
                assert_holds(&format!("{place}.{field}"), found, value);
            }
        }
        (Value::Array(today), Value::Array(old)) => {
            assert_eq!(today.len(), old.len(), "{place}");
            for (number, (today, old)) in today.iter().zip(old).enumerate() {
                assert_holds(&format!("{place}[{number}]"), today, old);
            }
        }
        (today, old) => assert_eq!(today, old, "{place}"),
    }
}

#[test]
fn fixtures_of_documents_between_parts_are_read() {
    assert_eq!(document("1/spec.json", &spec()), spec());
    assert_eq!(document("1/plan.json", &plan()), plan());
    assert_eq!(document("1/failure.json", &failure()), failure());
    let facts = HostFacts {
        agent_version: "0.1.0".to_owned(),
        boot_id: "boot".to_owned(),
        cpus: 2,
        data_addresses: vec!["10.0.0.1:7443".parse().unwrap()],
        ..HostFacts::default()
    };
    assert_eq!(document("1/host-facts.json", &facts), facts);
    let progress = Progress { files_done: 3, files_total: 5, bytes_per_s: 7, ..Progress::default() };
    assert_eq!(document("1/progress.json", &progress), progress);
    let output = FileOutput {
        version: VERSION,
        files_total: 9,
        source_digest: Some(digest()),
        list_file: Some("findings.jsonl".to_owned()),
        ..FileOutput::default()
    };
    assert_eq!(document("1/file-output.json", &output), output);
    let params = FileParams {
        version: VERSION,
        source_root: "/a".to_owned(),
        destination_root: "/b".to_owned(),
        exclude: vec!["*.log".to_owned()],
        include: Vec::new(),
        delete: true,
        max_delete: MaxDelete::Count(7),
        checksum: true,
        numeric_ids: true,
        bandwidth_limit: Some(1024),
        compression: Compression::Auto,
        transport: TransportChoice::Auto,
        dry_run: false,
        validation_level: ValidationLevel::Strict,
        keep_way_back: true,
        scope: common::phase::Scope::Finish,
        compares_now: false,
        sanitize: None,
        catch_up: None,
        rules: Rules::default(),
    };
    assert_eq!(document("1/file-params.json", &params), params);
}

#[test]
fn fixtures_of_documents_for_scripts_are_kept() {
    let now = WallMs(1_700_000_100_000);
    let migration = state::migration().view(now, &|_| None, true);
    let report = ReportView {
        version: 1,
        migration,
        spec: spec(),
        plan: plan(),
        made: now,
        support_contact: Some("ops@example.com".to_owned()),
    };
    document("1/report.json", &report);
    let error = ErrorView { error: failure(), exit_code: 9, support_contact: None };
    document("1/error-view.json", &error);
}

#[test]
fn fixtures_of_settings_are_read() {
    let contexts = "current = \"local\"\n\n[contexts.local]\ncoordinators = [\"127.0.0.1:7400\"]\nca_certificate = \"CA\"\ncertificate = \"C\"\nkey = \"K\"\n";
    let bytes = fixture("1/contexts.toml", || contexts.as_bytes().to_vec());
    // It holds a key, so that a copy which others may read, as in a repository, is refused.
    let private = tempfile::tempdir().unwrap();
    let path = private.path().join("contexts.toml");
    common::atomic_file::write(&path, &bytes, 0o600).unwrap();
    let found = Contexts::open(&path).unwrap();
    let context = found.find(&path, None).unwrap();
    assert_eq!(
        (found.current.as_str(), context.coordinators.as_slice()),
        ("local", &["127.0.0.1:7400".to_owned()][..])
    );

    let coordinator = "name = \"coordinator-1\"\nstate_dir = \"/srv/coordinator\"\nlisten_api = \"127.0.0.1:7400\"\nlisten_raft = \"127.0.0.1:7401\"\nadvertise_api = \"a.example:7400\"\nadvertise_raft = \"a.example:7401\"\ncluster_key_file = \"/srv/key\"\nsupport_contact = \"ops@example.com\"\nlog = \"info\"\n";
    fixture("1/coordinator.toml", || coordinator.as_bytes().to_vec());
    let found = coordinator::config::Settings::open(Some(&folder().join("1/coordinator.toml"))).unwrap();
    assert_eq!(found.name.as_str(), "coordinator-1");
    assert_eq!(found.support_contact.as_deref(), Some("ops@example.com"));
    assert_eq!(found.cluster_key_file(), std::path::Path::new("/srv/key"));

    let agent = "state_dir = \"/srv/agent\"\nlisten_data = \"127.0.0.1:7443\"\nadvertise_data = [\"10.0.0.1:7443\"]\nlog = \"info\"\nlog_form = \"json\"\n";
    fixture("1/agent.toml", || agent.as_bytes().to_vec());
    let found = agent::config::Settings::load(Some(&folder().join("1/agent.toml"))).unwrap();
    assert_eq!(found.state_dir, std::path::Path::new("/srv/agent"));
    assert_eq!(found.advertise_data, ["10.0.0.1:7443".parse().unwrap()]);
}
