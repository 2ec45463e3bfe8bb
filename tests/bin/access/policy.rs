//! What the policy and the line of the audit cost by themselves, on a state with many users and keys.

use common::clock::{self, WallMs};
use common::grant::{Grant, Scope};
use common::id::{HostName, KeyId, NodeName, OperatorName, TenantId};
use common::principal::Principal;
use common::role::Role;
use coordinator::access::call::Call;
use coordinator::access::policy::{Caller, Decision, Object, check};
use coordinator::pki::api_key::ApiKey;
use coordinator::pki::authority::Authority;
use coordinator::state::access::command::Command as Change;
use coordinator::state::stamp::Stamp;
use coordinator::state::{Command, State, cluster, secret};

use crate::times::Times;

/// Users and keys of the tenant; as many keys as one may have.
const USERS: usize = 5_000;
const KEYS: usize = 1_000;
/// Requests of each kind.
const REQUESTS: usize = 10_000;

/// Measures it.
pub(crate) fn run() {
    let (authority, mut state, keys) = state();
    let tenant = TenantId::default_tenant();
    let host: HostName = "web1".parse().unwrap();
    let decide = |caller: &Caller| {
        let labels = state.access().labels_of(&tenant, &host);
        let whole = check(caller, Call::DrainHost, &tenant, Object::Whole);
        assert_eq!(whole, Decision::Allowed);
        check(caller, Call::DrainHost, &tenant, Object::Host { name: &host, labels: &labels })
    };
    let mut times = Times::default();
    for number in 0..REQUESTS {
        times.of(|| {
            let name = format!("user{}", number % USERS);
            assert!(state.access().accepts_certificate(&tenant, &name, clock::wall()));
            let principal = Principal::Person { tenant: tenant.clone(), name };
            let grants = state.access().grants(&principal, clock::wall()).unwrap();
            assert_eq!(decide(&Caller::Granted { principal, grants }), Decision::Allowed);
        });
    }
    times.print("policy by certificate, in memory");
    let mut times = Times::default();
    for number in 0..REQUESTS {
        times.of(|| {
            let key = ApiKey::parse(&keys[number % KEYS]).unwrap();
            let digest = key.digest(&authority);
            assert!(state.access().keys().get(&key.tenant, &key.id).unwrap().digest == digest);
            let principal = Principal::Key { tenant: key.tenant, id: key.id };
            let grants = state.access().grants(&principal, clock::wall()).unwrap();
            assert_eq!(decide(&Caller::Granted { principal, grants }), Decision::Allowed);
        });
    }
    times.print("policy by API key, in memory");
    // A whole change with its line, and the same change without one: a coordinator's own writes no line.
    let mut times = [Times::default(), Times::default()];
    for number in 0..REQUESTS / 10 {
        for (place, audited) in [true, false].into_iter().enumerate() {
            times[place].of(|| state.apply(stamp(number), change(audited)).unwrap());
        }
    }
    times[0].print("applying a change with its line of the audit");
    times[1].print("applying one without");
}

fn stamp(number: usize) -> Stamp {
    let principal = Principal::Node { name: "coordinator-1".parse().unwrap() };
    let index = 1_000_000 + u64::try_from(number).unwrap();
    Stamp { index, epoch: 1, wall: clock::wall(), principal, address: Some("192.0.2.1".to_owned()) }
}

/// A change of one record; that of an invitation is audited, that of a coordinator's next key is not.
fn change(audited: bool) -> Command {
    if audited {
        let change = Change::LimitTenant { name: TenantId::default_tenant(), migrations_max: Some(7) };
        return Command::Access(change);
    }
    Command::Secret(secret::Command::Rewrap(Vec::new()))
}

/// Makes a cluster with users and keys.
fn state() -> (Authority, State, Vec<String>) {
    let (certificate, key) = Authority::create("bench", clock::wall()).unwrap();
    let authority = Authority::open("bench", &certificate, &key).unwrap();
    let node: NodeName = "coordinator-1".parse().unwrap();
    let (mut state, mut index) = (State::default(), 0);
    let mut apply = |command: Command| {
        index += 1;
        let principal = Principal::Node { name: node.clone() };
        let stamp = Stamp { index, epoch: 1, wall: WallMs(clock::wall().0), principal, address: None };
        state.apply(stamp, command).unwrap();
    };
    apply(Command::Cluster(cluster::Command::Init {
        id: "bench".to_owned(),
        ca_certificate: Vec::new(),
        ca_key: Vec::new(),
        node: node.clone(),
        node_id: 1,
        api_address: String::new(),
        raft_address: String::new(),
        public_key: Vec::new(),
    }));
    let tenant = TenantId::default_tenant();
    let grant = || Grant { tenant: tenant.clone(), role: Role::Operator, scope: Scope::default() };
    for number in 0..USERS {
        let name: OperatorName = format!("user{number}").parse().unwrap();
        apply(Command::Access(Change::CreateUser {
            tenant: tenant.clone(),
            name,
            grant: grant(),
            password: None,
        }));
    }
    let mut keys = Vec::new();
    for number in 0..KEYS {
        let id: KeyId = format!("key{number}").parse().unwrap();
        let key = ApiKey::new(tenant.clone(), id.clone(), *blake3_of(number).as_bytes());
        let (digest, name) = (key.digest(&authority), String::new());
        keys.push(key.reveal());
        let (tenant, grant) = (tenant.clone(), grant());
        apply(Command::Access(Change::CreateKey { tenant, id, name, digest, grant, expires: None }));
    }
    (authority, state, keys)
}

fn blake3_of(number: usize) -> common::digest::Digest {
    common::digest::Digest::of(&number.to_le_bytes())
}
