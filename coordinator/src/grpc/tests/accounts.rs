//! Users, API keys, tenants and scopes, as those meet them who have them.

use common::account::{KeyView, TenantView, UserView, WhoView};
use common::clock;
use common::failure::FailureKind;
use common::id::TenantId;
use common::role::Role;
use common::tls;
use common::view::{HostView, MigrationStatus};
use proto::channel::{Way, access_client, control_client};
use proto::v1;
use proto::v1::access_service_client::AccessServiceClient;

use super::fixture::{Cluster, PATIENCE, connect, document, kind};
use crate::access::policy::Caller;
use crate::grpc::connection::ConnectionInfo;
use crate::state::Command;
use crate::state::access::command::Command as Change;
use crate::state::access::user::PasswordHash;

const PASSWORD: &str = "correct horse battery";

async fn who(way: &proto::channel::Coordinators) -> Result<WhoView, common::failure::Failure> {
    let answer =
        way.call(PATIENCE, |way| async move { access_client(way).who_am_i(v1::WhoRequest {}).await });
    answer.await.map(|answer| document(&answer))
}

async fn hosts(way: &proto::channel::Coordinators) -> Vec<HostView> {
    let page = way.call(PATIENCE, |way| async move {
        control_client(way).list_hosts(v1::PageRequest { from: String::new(), limit: 0 }).await
    });
    serde_json::from_str(&page.await.unwrap().document).unwrap()
}

#[tokio::test]
async fn a_key_counts_until_it_is_revoked_or_ends() {
    let cluster = Cluster::start().await;
    let text = cluster.create_key("default", Role::Viewer, &[]).await;
    let way = cluster.keyed(&text, None);
    let id = text.split('.').nth(2).unwrap().to_owned();
    assert_eq!(who(&way).await.unwrap().principal, format!("key:default/{id}"));
    assert_eq!(hosts(&way).await, []);
    let listed = cluster.operator.call(PATIENCE, |way| async move {
        access_client(way).list_keys(v1::PageRequest { from: String::new(), limit: 0 }).await
    });
    let listed = listed.await.unwrap().document;
    assert!(!listed.contains(text.rsplit('.').next().unwrap()), "a list shows the key");
    let secret = text.rsplit('.').next().unwrap();
    let mut snapshot = Vec::new();
    crate::state::snapshot::write(&cluster.node.hub().state(), &mut snapshot).unwrap();
    let raw = blake3::Hash::from_hex(secret).unwrap();
    assert!(!snapshot.windows(32).any(|window| window == raw.as_bytes()), "the state holds the key");

    let request = v1::KeyRequest { id };
    let revoked = cluster.operator.call(PATIENCE, |way| {
        let request = request.clone();
        async move { access_client(way).revoke_key(request).await }
    });
    assert!(document::<KeyView>(&revoked.await.unwrap()).revoked.is_some());
    assert_eq!(kind(who(&way).await), Some(FailureKind::Unauthenticated));
    cluster.stop().await;
}

#[tokio::test]
async fn a_password_gets_a_certificate_until_the_user_is_disabled() {
    let cluster = Cluster::start().await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let wrong = Some(FailureKind::Unauthenticated);
    assert_eq!(kind(cluster.login("default", "eve", "wrong password").await), wrong);
    assert_eq!(kind(cluster.login("default", "adam", PASSWORD).await), wrong);
    assert_eq!(kind(cluster.login("elsewhere", "eve", PASSWORD).await), wrong);
    let (certificate, key) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    let peer = tls::peer_of(std::slice::from_ref(&certificate), clock::wall()).unwrap();
    assert_eq!(peer.principal.to_string(), "user:default/eve");
    let way = cluster.way_of(certificate.clone(), &key);
    assert_eq!(who(&way).await.unwrap().grants[0].role, Role::Viewer);
    let drain = |way| async move {
        control_client(way).drain_host(v1::DrainRequest { host: "web1".to_owned(), drain: true }).await
    };
    assert_eq!(kind(way.call(PATIENCE, drain).await), Some(FailureKind::Denied));

    assert!(cluster.disable("eve", true).await.disabled);
    assert_eq!(kind(who(&way).await), wrong, "over the open connection");
    way.reconnect();
    assert_eq!(kind(who(&way).await), wrong, "over a new one");
    assert_eq!(kind(cluster.login("default", "eve", PASSWORD).await), wrong);
    // Enabled again, the old certificate stays void: it may be why the user was disabled.
    assert!(!cluster.disable("eve", false).await.disabled);
    let again = cluster.way_of(certificate, &key);
    assert_eq!(kind(who(&again).await), wrong);
    cluster.stop().await;
}

#[tokio::test]
async fn a_password_that_an_admin_sets_voids_what_the_one_before_got() {
    let cluster = Cluster::start().await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let (certificate, key) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    let way = cluster.way_of(certificate, &key);
    let own = |way| async move {
        let (current, password) = (PASSWORD.to_owned(), "another horse battery".to_owned());
        access_client(way).set_own_password(v1::OwnPasswordRequest { current, password }).await
    };
    assert_eq!(kind(way.call(PATIENCE, own).await), None);
    assert_eq!(kind(who(&way).await), None, "the own change voids nothing");
    let hub = cluster.node.hub();
    let reset = |way| async move {
        let (name, password) = ("eve".to_owned(), PASSWORD.to_owned());
        access_client(way).set_password(v1::SetPasswordRequest { name, password }).await
    };
    assert_eq!(kind(cluster.operator.call(PATIENCE, reset).await), None);
    let void = Some(FailureKind::Unauthenticated);
    assert_eq!(kind(who(&way).await), void, "over the open connection");
    // At once, in the second of the change too.
    let (certificate, key) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    assert_eq!(kind(who(&cluster.way_of(certificate.clone(), &key)).await), None);

    // A connection that outlives its certificate bears no call any more.
    let peer = tls::peer_of(std::slice::from_ref(&certificate), clock::wall()).unwrap();
    let info = |peer: &tls::Peer| ConnectionInfo {
        peer: Some(std::sync::Arc::new(peer.clone())),
        address: ([127, 0, 0, 1], 1).into(),
        cut: tokio_util::sync::CancellationToken::new(),
        refusals: hub.audit.refusals.clone(),
        standing: std::sync::Arc::default(),
    };
    let last = peer.not_after;
    assert!(matches!(info(&peer).caller(last), Caller::Granted { .. }));
    assert!(matches!(info(&peer).caller(common::clock::WallMs(last.0 + 1)), Caller::Expired(_)));
    cluster.stop().await;
}

#[tokio::test]
async fn a_scope_shows_and_opens_what_it_names_and_nothing_else() {
    let cluster = Cluster::start().await;
    for name in ["web1", "web2", "web3"] {
        cluster.join(name).await;
    }
    let label = v1::LabelHostRequest { host: "web2".to_owned(), labels: vec!["team=shop".to_owned()] };
    let labelled = cluster.operator.call(PATIENCE, |way| {
        let label = label.clone();
        async move { access_client(way).label_host(label).await }
    });
    labelled.await.unwrap();
    let drain = |host: &'static str| {
        move |way| async move {
            control_client(way).drain_host(v1::DrainRequest { host: host.to_owned(), drain: true }).await
        }
    };
    let cases = [
        (&["host:web1"][..], Role::Operator, vec!["web1"], "web1", "web2"),
        (&["label:team=shop"][..], Role::Operator, vec!["web2"], "web2", "web3"),
    ];
    for (scope, role, seen, open, closed) in cases {
        let way = cluster.keyed(&cluster.create_key("default", role, scope).await, None);
        let names: Vec<String> = hosts(&way).await.iter().map(|host| host.name.to_string()).collect();
        assert_eq!(names, seen, "{scope:?}");
        assert!(way.call(PATIENCE, drain(open)).await.is_ok(), "{scope:?} does not open {open}");
        let refused = way.call(PATIENCE, drain(closed)).await.err().unwrap();
        let absent = way.call(PATIENCE, drain("web9")).await.err().unwrap();
        assert_eq!(refused.kind, FailureKind::NotFound, "{scope:?} opens {closed}");
        assert_eq!(refused.message.replace(closed, "X"), absent.message.replace("web9", "X"));
        assert_eq!(refused.hint, absent.hint);
    }
    let auditor = cluster.keyed(&cluster.create_key("default", Role::Auditor, &["host:web1"]).await, None);
    assert_eq!(kind(auditor.call(PATIENCE, drain("web1")).await), Some(FailureKind::Denied));
    cluster.stop().await;
}

#[tokio::test]
async fn a_grant_elsewhere_lets_act_there_and_ends_with_it() {
    let cluster = Cluster::start().await;
    cluster.create_tenant("acme").await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let (certificate, key) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    let there = cluster.way_of(certificate, &key).showing(cluster.shown(None, Some("acme")));
    assert_eq!(kind(who(&there).await), None, "who one is may be asked anywhere");
    let list = |way| async move {
        control_client(way).list_hosts(v1::PageRequest { from: String::new(), limit: 0 }).await
    };
    let enroll = |way| async move {
        control_client(way).enroll_host(v1::HostRequest { host: "web1".to_owned() }).await
    };
    assert_eq!(kind(there.call(PATIENCE, list).await), Some(FailureKind::NotFound));
    let grant = |role: Option<&str>| v1::GrantUserRequest {
        name: "eve".to_owned(),
        within: "acme".to_owned(),
        grant: role.map(|role| v1::RoleGrant { role: role.to_owned(), scope: Vec::new() }),
    };
    for (role, expected) in [(Some("admin"), None), (None, Some(FailureKind::NotFound))] {
        let request = grant(role);
        let granted = cluster.operator.call(PATIENCE, |way| {
            let request = request.clone();
            async move { access_client(way).grant_user(request).await }
        });
        assert_eq!(document::<UserView>(&granted.await.unwrap()).name.as_str(), "eve");
        assert_eq!(kind(there.call(PATIENCE, enroll).await), expected, "{role:?}");
    }
    // It is acme's host, which the others do not see.
    let acme: TenantId = "acme".parse().unwrap();
    assert!(cluster.node.hub().state().hosts().get(&acme, &"web1".parse().unwrap()).is_some());
    assert_eq!(hosts(&cluster.operator).await, []);
    cluster.stop().await;
}

#[tokio::test]
async fn who_is_trusted_elsewhere_is_not_the_own_tenants_to_give_away() {
    let cluster = Cluster::start().await;
    cluster.create_tenant("acme").await;
    for name in ["bob", "carl"] {
        cluster.create_user("acme", name, Role::Viewer, PASSWORD).await;
    }
    let admin = cluster.keyed(&cluster.create_key("acme", Role::Admin, &[]).await, None);
    let reset = |name: &'static str| {
        move |way| async move {
            let (name, password) = (name.to_owned(), "another horse battery".to_owned());
            access_client(way).set_password(v1::SetPasswordRequest { name, password }).await
        }
    };
    let disable = |disable: bool| {
        move |way| async move {
            let name = "bob".to_owned();
            access_client(way).disable_user(v1::DisableUserRequest { name, disable }).await
        }
    };
    assert_eq!(kind(admin.call(PATIENCE, reset("bob")).await), None, "one of its own");
    let granted: UserView = document(
        &cluster
            .operate_in("acme", |mut client| async move {
                let role = Some(v1::RoleGrant { role: "admin".to_owned(), scope: Vec::new() });
                let (name, within) = ("bob".to_owned(), "default".to_owned());
                client.grant_user(v1::GrantUserRequest { name, within, grant: role }).await
            })
            .await,
    );
    assert_eq!(granted.grants.len(), 2);
    assert_eq!(kind(admin.call(PATIENCE, reset("bob")).await), Some(FailureKind::Denied));
    assert_eq!(kind(admin.call(PATIENCE, reset("carl")).await), None, "who is trusted here alone");
    assert_eq!(
        kind(admin.call(PATIENCE, disable(true)).await),
        None,
        "to lock somebody out harms nobody else"
    );
    assert_eq!(kind(admin.call(PATIENCE, disable(false)).await), Some(FailureKind::Denied));
    let by_cluster = cluster.operate_in("acme", |mut client| async move {
        let (name, password) = ("bob".to_owned(), PASSWORD.to_owned());
        client.set_password(v1::SetPasswordRequest { name, password }).await
    });
    assert!(document::<UserView>(&by_cluster.await).has_password);

    // A grant that comes while the new password is hashed is found by the state.
    let hub = cluster.node.hub();
    let key = hub.state().access().keys().of_tenant(&"acme".parse().unwrap()).next().unwrap().0.clone();
    let principal = common::principal::Principal::Key { tenant: "acme".parse().unwrap(), id: key };
    let command = Change::ResetPassword {
        tenant: "acme".parse().unwrap(),
        name: "bob".parse().unwrap(),
        password: PasswordHash::new("hash".to_owned()),
    };
    let refused = hub.propose(principal, Command::Access(command)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Denied, "{refused}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_tenants_limit_makes_the_next_one_wait() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let limit = |migrations: u32| v1::LimitTenantRequest { name: "default".to_owned(), migrations };
    let set = |request: v1::LimitTenantRequest| {
        let operator = &cluster.operator;
        async move {
            let answer = operator.call(PATIENCE, |way| {
                let request = request.clone();
                async move { access_client(way).limit_tenant(request).await }
            });
            document::<TenantView>(&answer.await.unwrap())
        }
    };
    assert_eq!(set(limit(1)).await.limits.migrations, Some(1));
    let answering = async {
        loop {
            tokio::select! {
                _ = source.next_but_roots() => {}
                _ = destination.next_but_roots() => {}
            }
        }
    };
    let asking = async {
        let first = cluster.migrate("r1", "web1:/a", "web2:/a").await.unwrap();
        let second = cluster.migrate("r2", "web1:/b", "web2:/b").await.unwrap();
        assert_eq!((first.status, second.status), (MigrationStatus::Running, MigrationStatus::Queued));
        set(limit(0)).await;
        let found = cluster.node.hub().migration(&TenantId::default_tenant(), second.id.as_str());
        assert_eq!(found.unwrap().status, MigrationStatus::Running);
    };
    tokio::select! {
        () = answering => {}
        () = asking => {}
    }
    cluster.stop().await;
}

/// Tries one call twice, as whoever lost the answer does.
async fn twice<F, Fut>(way: &proto::channel::Coordinators, call: F) -> [String; 2]
where
    F: Fn(AccessServiceClient<Way>) -> Fut,
    Fut: Future<Output = Result<tonic::Response<v1::Document>, tonic::Status>>,
{
    let first = std::sync::Mutex::new(String::new());
    let second = way.call(PATIENCE, |way| {
        let (lost, again) = (call(access_client(way.clone())), call(access_client(way)));
        let first = &first;
        async move {
            *first.lock().unwrap() = lost.await?.into_inner().document;
            again.await
        }
    });
    let second = second.await.unwrap().document;
    [first.into_inner().unwrap(), second]
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_makes_its_change_once() {
    let cluster = Cluster::start().await;
    let grant = || Some(v1::RoleGrant { role: "operator".to_owned(), scope: Vec::new() });
    let [first, second] = twice(&cluster.operator, |mut client| async move {
        client.create_tenant(v1::TenantRequest { name: "acme".to_owned() }).await
    })
    .await;
    assert_eq!(first, second);
    let [first, second] = twice(&cluster.operator, |mut client| async move {
        let (name, password) = ("alice".to_owned(), PASSWORD.to_owned());
        client.create_user(v1::CreateUserRequest { name, grant: grant(), password }).await
    })
    .await;
    let made = |text: &str| serde_json::from_str::<UserView>(text).unwrap();
    assert_eq!(made(&first).created, made(&second).created);
    assert!(made(&second).login.is_some(), "{second}");
    let [first, second] = twice(&cluster.operator, |mut client| async move {
        let name = "pipeline".to_owned();
        client.create_key(v1::CreateKeyRequest { name, grant: grant(), lifetime_ms: 0 }).await
    })
    .await;
    assert_eq!(first, second, "the second try shows the key of the first");
    assert_eq!(cluster.node.hub().state().access().keys().len(), 1);

    let (certificate, key) = cluster.login("default", "alice", PASSWORD).await.unwrap();
    let alice = cluster.way_of(certificate, &key);
    twice(&alice, |mut client| async move {
        let (current, password) = (PASSWORD.to_owned(), format!("{PASSWORD} 2"));
        client.set_own_password(v1::OwnPasswordRequest { current, password }).await
    })
    .await;
    // Another call is another change, and is looked at as one.
    let other = alice.call(PATIENCE, |way| async move {
        let (current, password) = (PASSWORD.to_owned(), format!("{PASSWORD} 3"));
        access_client(way).set_own_password(v1::OwnPasswordRequest { current, password }).await
    });
    assert_eq!(kind(other.await), Some(FailureKind::Unauthenticated));
    let again = cluster.operator.call(PATIENCE, |way| async move {
        access_client(way).create_tenant(v1::TenantRequest { name: "acme".to_owned() }).await
    });
    assert_eq!(kind(again.await), Some(FailureKind::Conflict));
    cluster.stop().await;
}
