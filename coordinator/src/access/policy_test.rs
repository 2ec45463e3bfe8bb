//! The table of access, written out by hand: every call, every kind of caller, every role, here and elsewhere.

use common::grant::{Grant, Labels, Scope};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::role::Role;

use super::call::Call;
use super::policy::{Caller, Decision, Object, check};

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn person(home: &str, grants: &[(&str, Role, &[&str])]) -> Caller {
    let grants = grants.iter().map(|(tenant_name, role, scope)| Grant {
        tenant: tenant(tenant_name),
        role: *role,
        scope: Scope::of_items(scope.iter().map(|item| item.parse().unwrap())).unwrap(),
    });
    let principal = Principal::Person { tenant: tenant(home), name: "eve".to_owned() };
    Caller::Granted { principal, grants: grants.collect() }
}

fn letter(decision: Decision) -> char {
    match decision {
        Decision::Allowed => 'y',
        Decision::Denied => 'd',
        Decision::Absent => 'a',
        Decision::Unauthenticated => 'u',
    }
}

/// Callers without roles: unknown, an agent, an expired agent, a node, an expired node, an expired person, and a person
/// to whom nothing was granted. Then five times the roles viewer, operator, approver, admin, auditor: of `default` in
/// `default`; of `acme` in `acme`; of `default` in `acme`; of `acme` in `default`; and of `acme` for one host only.
const TABLE: &[(Call, &str, &str, &str, &str, &str, &str)] = &[
    (Call::Enroll, "yduduud", "ddddd", "ddddd", "aaaaa", "aaaaa", "ddddd"),
    (Call::Login, "yduduuy", "yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyyyy"),
    (Call::Renew, "uyyyyud", "ddddd", "ddddd", "aaaaa", "aaaaa", "ddddd"),
    (Call::Session, "uyuduud", "ddddd", "ddddd", "aaaaa", "aaaaa", "ddddd"),
    (Call::Raft, "uduyuud", "ddddd", "ddddd", "aaaaa", "aaaaa", "ddddd"),
    (Call::WhoAmI, "ududuuy", "yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyyyy"),
    (Call::SetOwnPassword, "ududuuy", "yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyyyy"),
    (Call::Plan, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Migrate, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Cancel, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Retry, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Cutover, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Rollback, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Settle, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Verify, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Pause, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::Resume, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::SetMigration, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::ReadMigration, "ududuud", "yyyyy", "yyyyy", "aaaaa", "aaaaa", "yyyyy"),
    (Call::ReadHost, "ududuud", "yyyyy", "yyyyy", "aaaaa", "aaaaa", "yyyyy"),
    (Call::EnrollHost, "ududuud", "dddyd", "dddyd", "aaaaa", "aaaaa", "dddyd"),
    (Call::DrainHost, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::LimitHost, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::LabelHost, "ududuud", "dddyd", "dddyd", "aaaaa", "aaaaa", "ddddd"),
    (Call::RevokeHost, "ududuud", "dddyd", "dddyd", "aaaaa", "aaaaa", "dddyd"),
    (Call::ReadUser, "ududuud", "dddyd", "dddyd", "aaaya", "aaaaa", "ddddd"),
    (Call::ChangeUser, "ududuud", "dddyd", "dddyd", "aaaya", "aaaaa", "ddddd"),
    (Call::ReadKey, "ududuud", "dddyd", "dddyd", "aaaya", "aaaaa", "ddddd"),
    (Call::ChangeKey, "ududuud", "dddyd", "dddyd", "aaaya", "aaaaa", "ddddd"),
    (Call::ReadSecret, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::UseSecret, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "dydyd"),
    (Call::ChangeSecret, "ududuud", "dydyd", "dydyd", "aaaaa", "aaaaa", "ddddd"),
    (Call::LabelSecret, "ududuud", "dddyd", "dddyd", "aaaaa", "aaaaa", "ddddd"),
    (Call::ReadAudit, "ududuud", "dddyy", "dddyy", "aaaaa", "aaaaa", "ddddd"),
    (Call::VerifyAudit, "ududuud", "dddyy", "ddddd", "aaayy", "aaaaa", "ddddd"),
    (Call::ReadTenant, "ududuud", "dddyd", "ddddd", "aaaya", "aaaaa", "ddddd"),
    (Call::ChangeTenant, "ududuud", "dddyd", "ddddd", "aaaya", "aaaaa", "ddddd"),
    (Call::ReadCluster, "ududuud", "yyyyy", "yyyyy", "aaaaa", "aaaaa", "yyyyy"),
    (Call::ChangeCluster, "ududuud", "dddyd", "ddddd", "aaaya", "aaaaa", "ddddd"),
    (Call::RotateClusterKey, "ududuud", "dddyd", "ddddd", "aaaya", "aaaaa", "ddddd"),
];

#[test]
fn the_whole_table() {
    let host: HostName = "web1".parse().unwrap();
    let agent = Principal::Agent { tenant: tenant("default"), host: host.clone() };
    let node = Principal::Node { name: "n1".parse().unwrap() };
    let Caller::Granted { principal, .. } = person("default", &[]) else { unreachable!() };
    let plain = [
        Caller::Unknown,
        Caller::Machine(agent.clone()),
        Caller::Expired(agent),
        Caller::Machine(node.clone()),
        Caller::Expired(node),
        Caller::Expired(principal),
        person("default", &[]),
    ];
    let labels = Labels::new();
    let object = Object::Host { name: &host, labels: &labels };
    let roles = |home: &'static str, scope: &'static [&'static str]| {
        Role::ALL.map(|role| person(home, &[(home, role, scope)])).to_vec()
    };
    for (place, (call, without, default, acme, outward, inward, scoped)) in TABLE.iter().enumerate() {
        assert_eq!(Some(call), Call::ALL.get(place), "the table leaves a call out before {call:?}");
        let decide = |callers: &[Caller], whose: &str, object: Object<'_>| {
            let each = callers.iter().map(|caller| letter(check(caller, *call, &tenant(whose), object)));
            each.collect::<String>()
        };
        let whole = Object::Whole;
        assert_eq!(decide(&plain, "default", whole), *without, "{call:?} without roles");
        assert_eq!(decide(&roles("default", &[]), "default", whole), *default, "{call:?} in default");
        assert_eq!(decide(&roles("acme", &[]), "acme", whole), *acme, "{call:?} in acme");
        assert_eq!(decide(&roles("default", &[]), "acme", whole), *outward, "{call:?} of default in acme");
        assert_eq!(decide(&roles("acme", &[]), "default", whole), *inward, "{call:?} of acme in default");
        let one_host = roles("acme", &["host:web1"]);
        assert_eq!(decide(&one_host, "acme", object), *scoped, "{call:?} for one host");
    }
    assert_eq!(TABLE.len(), Call::ALL.len(), "the table leaves out the last calls");
}

#[test]
fn what_is_outside_of_the_scope_is_absent_and_what_is_seen_is_denied() {
    let (web1, web2): (HostName, HostName) = ("web1".parse().unwrap(), "web2".parse().unwrap());
    let shop: Labels = [("team".parse().unwrap(), "shop".parse().unwrap())].into();
    let none = Labels::new();
    let home = tenant("default");
    let narrow = person("default", &[("default", Role::Operator, &["host:web1"])]);
    let mixed = person(
        "default",
        &[("default", Role::Viewer, &[]), ("default", Role::Operator, &["label:team=shop"])],
    );
    let host = |name, labels| Object::Host { name, labels };
    let migration = |hosts, labels| Object::Migration { hosts, labels };
    let cases = [
        (&narrow, Call::DrainHost, host(&web1, &none), Decision::Allowed),
        (&narrow, Call::DrainHost, host(&web2, &none), Decision::Absent),
        (&narrow, Call::ReadMigration, migration([&web1, &web2], &none), Decision::Absent),
        (&narrow, Call::Cancel, migration([&web1, &web1], &none), Decision::Allowed),
        (&narrow, Call::RevokeHost, host(&web1, &none), Decision::Denied),
        (&mixed, Call::Cancel, migration([&web1, &web2], &none), Decision::Denied),
        (&mixed, Call::Cancel, migration([&web1, &web2], &shop), Decision::Allowed),
        (&mixed, Call::ReadHost, host(&web2, &none), Decision::Allowed),
    ];
    for (caller, call, object, expected) in cases {
        assert_eq!(check(caller, call, &home, object), expected, "{call:?} on {object:?}");
    }
}

#[test]
fn a_secret_is_in_a_scope_by_its_labels() {
    let home = tenant("default");
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    };
    let (none, shop, mail) = (labels(&[]), labels(&[("team", "shop")]), labels(&[("team", "mail")]));
    let both = labels(&[("team", "shop"), ("wave", "1")]);
    let of = |role, scope: &'static [&'static str]| person("default", &[("default", role, scope)]);
    let operator = |scope| of(Role::Operator, scope);
    use Decision::{Absent, Allowed, Denied};
    let cases = [
        ("the whole tenant's operator", operator(&[]), [Allowed, Allowed, Allowed, Allowed]),
        ("of one label", operator(&["label:team=shop"]), [Absent, Allowed, Absent, Allowed]),
        ("of two", operator(&["label:team=shop", "label:wave=1"]), [Absent, Absent, Absent, Allowed]),
        (
            "of a label and a host",
            operator(&["label:team=shop", "host:web1"]),
            [Absent, Allowed, Absent, Allowed],
        ),
        ("of a host alone", operator(&["host:web1"]), [Absent; 4]),
        ("a viewer", of(Role::Viewer, &[]), [Denied; 4]),
        ("a viewer of a label", of(Role::Viewer, &["label:team=shop"]), [Absent, Denied, Absent, Denied]),
        ("somebody of another tenant", person("acme", &[("acme", Role::Admin, &[])]), [Absent; 4]),
    ];
    for (who, caller, expected) in cases {
        for call in [Call::UseSecret, Call::ReadSecret] {
            let decide = |labels| check(&caller, call, &home, Object::Secret { labels });
            assert_eq!([&none, &shop, &mail, &both].map(decide), expected, "{call:?} by {who}");
        }
    }
}

#[test]
fn a_grant_elsewhere_opens_that_tenant_only() {
    let caller = person("default", &[("acme", Role::Operator, &[])]);
    let decide = |call, whose: &str| check(&caller, call, &tenant(whose), Object::Whole);
    assert_eq!(decide(Call::Migrate, "acme"), Decision::Allowed);
    assert_eq!(decide(Call::EnrollHost, "acme"), Decision::Denied);
    assert_eq!(decide(Call::ReadHost, "default"), Decision::Denied);
    assert_eq!(decide(Call::ReadHost, "other"), Decision::Absent);
}
