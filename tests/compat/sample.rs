//! The values that fixtures hold. They say what the first version could say and are never changed; a field that was
//! added since has its default here.

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::phase::{Phase, Scope};
use common::plan::{PLAN_VERSION, Plan, PlannedStep};
use common::principal::Principal;
use common::spec::{MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec, TransferSpec};
use common::step::file::RootIdentity;
use common::step::{Reversibility, StepKind};
use common::ticket::{Direction, Ticket};
use coordinator::state::roots::{Root, Roots};

pub(crate) fn tenant() -> TenantId {
    TenantId::default_tenant()
}

pub(crate) fn migration() -> MigrationId {
    "b7k2m9x4qz".parse().unwrap()
}

pub(crate) fn step() -> StepId {
    "file.copy-1".parse().unwrap()
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn token() -> FencingToken {
    FencingToken { epoch: 1, index: 42 }
}

pub(crate) fn node() -> Principal {
    Principal::Node { name: "coordinator-1".parse().unwrap() }
}

pub(crate) fn failure() -> Failure {
    Failure::new(FailureKind::Exhausted, "no space is left").hint("make room").context("host", "web2")
}

pub(crate) fn spec() -> MigrationSpec {
    let side = |location: &str, exclude: &[&str]| SideSpec {
        location: location.parse().unwrap(),
        exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
        include: Vec::new(),
    };
    MigrationSpec {
        version: SPEC_VERSION,
        name: "shop".to_owned(),
        source: side("web1:/var/www/shop", &["cache/**"]),
        destination: side("web2:/var/www/shop", &[]),
        transfer: TransferSpec {
            delete: true,
            bandwidth_limit: Some(common::bandwidth::Bandwidth::always(1024)),
            ..TransferSpec::default()
        },
        options: OptionsSpec { rollback_window_ms: Some(60_000), ..OptionsSpec::default() },
        origin: Origin::Flags,
        labels: Default::default(),
        sanitize: None,
    }
}

pub(crate) fn plan() -> Plan {
    let step = |id: &str, kind, after: &[&str], reversibility| PlannedStep {
        id: id.parse().unwrap(),
        kind,
        version: 1,
        phase: Phase::Copy,
        scope: Scope::Whole,
        host: host("web2"),
        peer: Some(host("web1")),
        after: after.iter().map(|id| id.parse().unwrap()).collect(),
        is_continuous: false,
        reversibility,
        weight: 80,
        params: "{}".to_owned(),
    };
    Plan {
        version: PLAN_VERSION,
        migration: migration(),
        generation: 1,
        parent: None,
        steps: vec![
            step("file.copy-1", StepKind::FileCopy, &[], Reversibility::Reversible),
            step("file.verify-1", StepKind::FileVerify, &["file.copy-1"], Reversibility::ReadOnly),
        ],
        settles: vec!["earlier".parse().unwrap()],
    }
}

pub(crate) fn roots() -> Roots {
    let root = |name: &str, inode| Root {
        host: host(name),
        path: "/var/www/shop".to_owned(),
        chain: vec![RootIdentity { boot_id: name.to_owned(), device: 2_049, inode }],
        missing: vec!["shop".to_owned()],
    };
    Roots { source: root("web1", 5), destination: root("web2", 6) }
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        cluster: "c1".to_owned(),
        tenant: tenant(),
        migration: migration(),
        step: step(),
        source: host("web1"),
        destination: host("web2"),
        source_root: "/a".to_owned(),
        destination_root: "/b".to_owned(),
        direction: Direction::Pull,
        token: token(),
        expires: WallMs(1_700_000_000_000),
        sanitize: None,
    }
}

pub(crate) fn digest() -> Digest {
    Digest::of(b"fixture")
}
