//! Every call of every service, as the wrong tenant and as the wrong role, over the real port.

use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::principal::Principal;
use common::role::Role;
use prost::Message;
use proto::channel::Coordinators;
use proto::v1;

use super::fixture::{Cluster, PATIENCE, connect};
use super::raw;
use crate::access::call::Call;
use crate::access::policy::{self, Caller, Decision, Object};

/// What is known of a method: which call it is, and a request that names things.
struct Method {
    call: Call,
    /// Makes a request about a host, a migration, a user or a key of this name.
    request: fn(&str) -> Vec<u8>,
    /// Whether the name is one of a thing that exists, so that a foreign one must look like an absent one.
    names: Names,
}

/// What a request names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Nothing that could be another tenant's.
    Nothing,
    Host,
    Migration,
    User,
    Key,
    Secret,
}

fn method(call: Call, names: Names, request: fn(&str) -> Vec<u8>) -> Vec<Method> {
    vec![Method { call, request, names }]
}

/// Makes a request for a migration from a host, which may name a secret.
fn migrate(host: &str, secret: Option<&str>, plan_only: bool) -> Vec<u8> {
    let rules = secret.map(|name| super::secrets::rules(&format!("${{secret:{name}}}")));
    let spec = Cluster::spec(&format!("{host}:/a"), "web2:/b", rules);
    let (request_id, spec) = ("r".to_owned(), serde_json::to_string(&spec).unwrap());
    v1::MigrateRequest { request_id, spec, plan_only, confirmed: false }.encode_to_vec()
}

fn act(migration: &str, verb: &str) -> Vec<u8> {
    let (migration, verb) = (migration.to_owned(), verb.to_owned());
    v1::ActRequest { migration, verb, ..v1::ActRequest::default() }.encode_to_vec()
}

fn host(name: &str) -> Vec<u8> {
    v1::HostRequest { host: name.to_owned() }.encode_to_vec()
}

fn migration(name: &str) -> Vec<u8> {
    v1::MigrationRequest { migration: name.to_owned() }.encode_to_vec()
}

fn nothing(_name: &str) -> Vec<u8> {
    Vec::new()
}

fn viewer() -> Option<v1::RoleGrant> {
    Some(v1::RoleGrant { role: "viewer".to_owned(), scope: Vec::new() })
}

/// Returns the calls that a method may be; a new one has no line here and fails the tests.
fn known(path: &str) -> Vec<Method> {
    let (service, name) = path.strip_prefix("/migration.v1.").unwrap().split_once('/').unwrap();
    match (service, name) {
        ("ControlService", name) => known_control(name),
        ("AccessService", name) => known_access(name),
        ("AuditService", "List" | "Export") => method(Call::ReadAudit, Names::Nothing, nothing),
        ("AuditService", "Verify") => method(Call::VerifyAudit, Names::Nothing, nothing),
        ("SecretService", "ListSecrets") => method(Call::ReadSecret, Names::Nothing, nothing),
        // A name that another tenant uses is free here.
        ("SecretService", "SetSecret") => method(Call::ChangeSecret, Names::Nothing, nothing),
        ("SecretService", "DeleteSecret") => method(Call::ChangeSecret, Names::Secret, |name| {
            v1::SecretRequest { name: name.to_owned() }.encode_to_vec()
        }),
        ("SecretService", "LabelSecret") => method(Call::LabelSecret, Names::Secret, |name| {
            v1::LabelSecretRequest { name: name.to_owned(), labels: Vec::new() }.encode_to_vec()
        }),
        ("SecretService", "RotateClusterKey") => method(Call::RotateClusterKey, Names::Nothing, nothing),
        _ => Vec::new(),
    }
}

fn known_control(name: &str) -> Vec<Method> {
    let both = |one: Vec<Method>, other| one.into_iter().chain(other).collect();
    match name {
        "Migrate" => [
            method(Call::Migrate, Names::Host, |host| migrate(host, None, false)),
            method(Call::Plan, Names::Host, |host| migrate(host, None, true)),
            method(Call::Migrate, Names::Secret, |secret| migrate("web1", Some(secret), false)),
            method(Call::Plan, Names::Secret, |secret| migrate("web1", Some(secret), true)),
        ]
        .into_iter()
        .fold(Vec::new(), both),
        "Act" => [
            method(Call::Cancel, Names::Migration, |id| act(id, "cancel")),
            method(Call::Retry, Names::Migration, |id| act(id, "retry")),
            method(Call::Cutover, Names::Migration, |id| act(id, "cutover")),
            method(Call::Rollback, Names::Migration, |id| act(id, "rollback")),
            method(Call::Settle, Names::Migration, |id| act(id, "settle")),
            method(Call::Verify, Names::Migration, |id| act(id, "verify")),
            method(Call::Pause, Names::Migration, |id| act(id, "pause")),
            method(Call::Resume, Names::Migration, |id| act(id, "resume")),
        ]
        .into_iter()
        .fold(Vec::new(), both),
        "GetMigration" | "WatchMigration" | "GetReport" | "StreamList" => {
            method(Call::ReadMigration, Names::Migration, migration)
        }
        "SetMigration" => method(Call::SetMigration, Names::Migration, |id| {
            let change = "{\"bandwidth_limit\":1024}".to_owned();
            v1::SetMigrationRequest { migration: id.to_owned(), change }.encode_to_vec()
        }),
        "ListMigrations" => method(Call::ReadMigration, Names::Nothing, nothing),
        "ListHosts" => method(Call::ReadHost, Names::Nothing, nothing),
        "GetHost" => method(Call::ReadHost, Names::Host, host),
        // A name that another tenant uses is free here.
        "EnrollHost" => method(Call::EnrollHost, Names::Nothing, nothing),
        "DrainHost" => method(Call::DrainHost, Names::Host, |host| {
            v1::DrainRequest { host: host.to_owned(), drain: true }.encode_to_vec()
        }),
        "LimitHost" => method(Call::LimitHost, Names::Host, |host| {
            let change = "{\"migrations\":9}".to_owned();
            v1::LimitHostRequest { host: host.to_owned(), change }.encode_to_vec()
        }),
        "RevokeHost" => method(Call::RevokeHost, Names::Host, host),
        "GetCluster" => method(Call::ReadCluster, Names::Nothing, nothing),
        "EnrollNode" => method(Call::ChangeCluster, Names::Nothing, nothing),
        _ => Vec::new(),
    }
}

fn known_access(name: &str) -> Vec<Method> {
    match name {
        "Login" => method(Call::Login, Names::Nothing, nothing),
        "WhoAmI" => method(Call::WhoAmI, Names::Nothing, nothing),
        "SetOwnPassword" => method(Call::SetOwnPassword, Names::Nothing, nothing),
        "ListUsers" => method(Call::ReadUser, Names::Nothing, nothing),
        "CreateUser" => method(Call::ChangeUser, Names::Nothing, nothing),
        "GrantUser" => method(Call::ChangeUser, Names::User, |name| {
            let name = name.to_owned();
            v1::GrantUserRequest { name, within: String::new(), grant: viewer() }.encode_to_vec()
        }),
        "DisableUser" => method(Call::ChangeUser, Names::User, |name| {
            v1::DisableUserRequest { name: name.to_owned(), disable: true }.encode_to_vec()
        }),
        "SetPassword" => method(Call::ChangeUser, Names::User, |name| {
            let password = "correct horse battery".to_owned();
            v1::SetPasswordRequest { name: name.to_owned(), password }.encode_to_vec()
        }),
        "ListKeys" => method(Call::ReadKey, Names::Nothing, nothing),
        "CreateKey" => method(Call::ChangeKey, Names::Nothing, nothing),
        "RevokeKey" => {
            method(Call::ChangeKey, Names::Key, |id| v1::KeyRequest { id: id.to_owned() }.encode_to_vec())
        }
        "ListTenants" => method(Call::ReadTenant, Names::Nothing, nothing),
        "CreateTenant" | "LimitTenant" => method(Call::ChangeTenant, Names::Nothing, nothing),
        "LabelHost" => method(Call::LabelHost, Names::Host, |host| {
            v1::LabelHostRequest { host: host.to_owned(), labels: Vec::new() }.encode_to_vec()
        }),
        _ => Vec::new(),
    }
}

/// Returns every method that people and keys may call, with what is known of it.
fn methods() -> Vec<(&'static str, Method)> {
    let of_people = proto::METHODS.iter().filter(|path| {
        // Agents and nodes have doors and tests of their own.
        !path.contains(".AgentService/") && !path.contains(".RaftService/")
    });
    let methods: Vec<_> = of_people
        .flat_map(|path| {
            let known = known(path);
            assert!(!known.is_empty(), "{path} has no line in this test");
            known.into_iter().map(|method| (*path, method))
        })
        .collect();
    assert!(methods.len() > 25, "the services were not found");
    methods
}

#[test]
fn no_call_is_for_nothing() {
    let mut asked: Vec<Call> = methods().into_iter().map(|(_, method)| method.call).collect();
    // What a spec names, and the calls of agents and nodes.
    asked.push(Call::UseSecret);
    asked.extend([Call::Enroll, Call::Renew, Call::Session, Call::Raft]);
    let unasked: Vec<Call> = Call::ALL.into_iter().filter(|call| !asked.contains(call)).collect();
    assert_eq!(unasked, [], "the table decides about what nobody can ask");
}

async fn ask(way: &Coordinators, path: &'static str, request: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let answered = way.call(PATIENCE, |way| {
        let request = request.clone();
        async move {
            let answer = raw::call(way, path, request).await;
            answer.map(tonic::Response::new).map_err(|failure| proto::status::to_status(&failure))
        }
    });
    answered.await
}

/// Returns a refusal as text, with the name that was asked for blotted out.
fn told(answer: Result<Vec<u8>, Failure>, name: &str) -> String {
    match answer {
        Ok(bytes) => format!("answered: {}", String::from_utf8_lossy(&bytes)),
        Err(failure) => {
            let text = serde_json::to_string(&failure).unwrap();
            // Also at the end of a command that a hint names.
            text.replace(&format!("{name}`"), "NAME`")
        }
    }
}

#[tokio::test]
async fn a_foreign_tenant_is_an_absent_one_to_every_call() {
    let cluster = Cluster::start().await;
    cluster.create_tenant("acme").await;
    for role in Role::ALL {
        let key = cluster.create_key("acme", role, &[]).await;
        for (path, known) in methods() {
            // These ask nothing of a tenant.
            if matches!(known.call, Call::Login | Call::WhoAmI | Call::SetOwnPassword) {
                continue;
            }
            let request = || (known.request)("web1");
            let foreign = ask(&cluster.keyed(&key, Some("default")), path, request()).await;
            let absent = ask(&cluster.keyed(&key, Some("nowhere")), path, request()).await;
            assert_eq!(foreign.as_ref().unwrap_err().kind, FailureKind::NotFound, "{path} as {role}");
            assert_eq!(told(foreign, "default"), told(absent, "nowhere"), "{path} as {role}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_foreign_thing_is_an_absent_one_to_every_call() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (made, _) = super::sessions::begin(&cluster, &mut source, &mut destination).await;
    cluster.create_user("default", "eve", Role::Viewer, "correct horse battery").await;
    let ours = cluster.create_key("default", Role::Viewer, &[]).await;
    let our_key = ours.split('.').nth(2).unwrap();
    let (name, request_id) = ("mask".to_owned(), "r1".to_owned());
    let secret = v1::SetSecretRequest { name, value: vec![7], must_exist: false, request_id };
    ask(&cluster.operator, "/migration.v1.SecretService/SetSecret", secret.encode_to_vec()).await.unwrap();
    cluster.create_tenant("acme").await;
    let way = cluster.keyed(&cluster.create_key("acme", Role::Admin, &[]).await, None);
    let mut asked = 0;
    for (path, known) in methods() {
        let (foreign, absent) = match known.names {
            Names::Nothing => continue,
            Names::Host => ("web1", "web9"),
            Names::Migration => (made.id.as_str(), "bbbbbbbbbb"),
            Names::User => ("eve", "adam"),
            Names::Key => (our_key, "bbbbbbbbbb"),
            Names::Secret => ("mask", "absent"),
        };
        asked += 1;
        let one = ask(&way, path, (known.request)(foreign)).await;
        let other = ask(&way, path, (known.request)(absent)).await;
        assert_eq!(one.as_ref().unwrap_err().kind, FailureKind::NotFound, "{path}");
        assert_eq!(told(one, foreign), told(other, absent), "{path}");
    }
    assert!(asked > 10, "only {asked} methods name a thing");
    for path in [
        "/migration.v1.ControlService/ListMigrations",
        "/migration.v1.ControlService/ListHosts",
        "/migration.v1.AccessService/ListUsers",
        "/migration.v1.SecretService/ListSecrets",
    ] {
        let page = v1::Page::decode(ask(&way, path, Vec::new()).await.unwrap().as_slice()).unwrap();
        assert_eq!((page.document.as_str(), page.next.as_str()), ("[]", ""), "{path}");
    }
    // What lists hold, and how names are counted, tells nothing of others either.
    for path in ["/migration.v1.AccessService/ListKeys", "/migration.v1.AuditService/List"] {
        let page = v1::Page::decode(ask(&way, path, Vec::new()).await.unwrap().as_slice()).unwrap();
        assert!(page.document.contains("acme"), "{path} lists nothing of the own tenant");
        for name in [our_key, "eve", "web1", "web2", "\"mask\"", made.id.as_str()] {
            // A refusal quotes what its caller has asked for.
            let lines = page.document.split("},{").filter(|line| !line.contains("\"refused\":\""));
            assert!(!lines.collect::<String>().contains(name), "{path} tells of {name}");
        }
    }
    let own = ask(&way, "/migration.v1.SecretService/SetSecret", secret.encode_to_vec()).await.unwrap();
    let own = v1::Document::decode(own.as_slice()).unwrap();
    assert_eq!(super::fixture::document::<common::view::SecretView>(&own).version, 1);
    ask(&way, "/migration.v1.ControlService/EnrollHost", host("web1")).await.unwrap();
    // Nothing of it reached the others.
    assert_eq!(cluster.host("web1").await.status, common::host::HostStatus::Enrolled);
    cluster.stop().await;
}

#[tokio::test]
async fn every_call_is_for_its_roles_only() {
    let cluster = Cluster::start().await;
    let (agent, _session) = connect(&cluster, "web1").await;
    let default = TenantId::default_tenant();
    let agent_caller = Principal::Agent { tenant: default.clone(), host: "web1".parse().unwrap() };
    let mut callers = vec![
        ("nobody".to_owned(), cluster.anonymous(), Caller::Unknown),
        ("an agent".to_owned(), agent, Caller::Machine(agent_caller)),
    ];
    for role in Role::ALL {
        let text = cluster.create_key("default", role, &[]).await;
        let id = text.split('.').nth(2).unwrap().parse().unwrap();
        let principal = Principal::Key { tenant: default.clone(), id };
        let grants = cluster.node.hub().state().access().grants(&principal, common::clock::wall()).unwrap();
        callers.push((role.to_string(), cluster.keyed(&text, None), Caller::Granted { principal, grants }));
    }
    for (path, known) in methods() {
        for (name, way, caller) in &callers {
            let answer = ask(way, path, (known.request)("nothing-of-this-name")).await;
            let refused = answer.as_ref().err().map(|failure| failure.kind);
            let is_refused = matches!(refused, Some(FailureKind::Denied | FailureKind::Unauthenticated));
            let expected = match policy::check(caller, known.call, &default, Object::Whole) {
                // What follows then is about the request, which names nothing that exists.
                Decision::Allowed => None,
                Decision::Unauthenticated => Some(FailureKind::Unauthenticated),
                Decision::Denied | Decision::Absent => Some(FailureKind::Denied),
            };
            let actual = refused.filter(|_| is_refused);
            assert_eq!(actual, expected, "{path} ({:?}) as {name}: {answer:?}", known.call);
        }
    }
    cluster.stop().await;
}
