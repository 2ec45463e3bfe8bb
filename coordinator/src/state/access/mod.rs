//! Users, API keys, tenants and the labels of hosts: what decides who may do what.
//!
//! What a caller may do is read from here with each call, so that a change counts from the next call on.

pub mod command;
pub mod key;
pub mod user;

use common::account::TenantLimits;
use common::clock::WallMs;
use common::failure::FailureKind;
use common::grant::{Grant, LABELS_MAX, Labels, Scope};
use common::id::{HostName, KeyId, OperatorName, TenantId};
use common::principal::Principal;
use common::role::Role;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::Applied;
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::table::Table;
use command::Command;
use key::{KEY_NAME_BYTES_MAX, KEYS_MAX, Key};
use user::{PasswordHash, USERS_MAX, User};

/// Tenants of one cluster.
const TENANTS_MAX: usize = 10_000;

/// One tenant besides the one that every cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Who made it; for `default`, who set its limits first.
    pub principal: Principal,
    /// When.
    pub created: WallMs,
    /// Migrations that run beside each other.
    pub migrations_max: Option<u32>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    users: Table<OperatorName, User>,
    keys: Table<KeyId, Key>,
    tenants: RedBlackTreeMapSync<TenantId, Tenant>,
    labels: Table<HostName, Labels>,
}

impl Access {
    /// Returns what is granted to a person or a key now; none when nothing of it is accepted.
    ///
    /// A person whom no record knows holds a certificate that was made on a coordinator's own machine, where the key
    /// of all keys lies: an admin. Such certificates name the tenant `default` only.
    pub fn grants(&self, principal: &Principal, now: WallMs) -> Option<Vec<Grant>> {
        match principal {
            Principal::Person { tenant, name } => match self.user_of(tenant, name) {
                Some(user) => (!user.is_disabled).then(|| user.grants.clone()),
                None if *tenant == TenantId::default_tenant() => {
                    Some(vec![Grant { tenant: tenant.clone(), role: Role::Admin, scope: Scope::default() }])
                }
                None => None,
            },
            Principal::Key { tenant, id } => {
                let key = self.keys.get(tenant, id).filter(|key| key.is_alive(now))?;
                Some(vec![key.grant.clone()])
            }
            Principal::Agent { .. } | Principal::Node { .. } => None,
        }
    }

    /// Whether a person's certificate that was issued at this time still counts.
    pub fn accepts_certificate(&self, tenant: &TenantId, name: &str, issued: WallMs) -> bool {
        match self.user_of(tenant, name) {
            Some(user) => user.accepts(issued),
            None => *tenant == TenantId::default_tenant(),
        }
    }

    /// Whether a principal may touch records of a tenant at all: its own, one in which something is granted to it, or
    /// users, keys and labels of any for who looks after all tenants.
    pub(super) fn reaches(
        &self,
        principal: &Principal,
        tenant: &TenantId,
        now: WallMs,
        is_own: bool,
    ) -> bool {
        let Some(grants) = self.grants(principal, now) else { return false };
        principal.tenant() == *tenant
            || grants.iter().any(|grant| grant.tenant == *tenant)
            || (is_own && looks_after_all(&grants))
    }

    fn user_of(&self, tenant: &TenantId, name: &str) -> Option<&User> {
        // A name that is none belongs to nobody who was ever made here.
        let name: OperatorName = name.parse().ok()?;
        self.users.get(tenant, &name).map(std::sync::Arc::as_ref)
    }

    /// Returns the users.
    pub fn users(&self) -> &Table<OperatorName, User> {
        &self.users
    }

    /// Returns the keys.
    pub fn keys(&self) -> &Table<KeyId, Key> {
        &self.keys
    }

    /// Returns the labels of hosts that have some.
    pub fn labels(&self) -> &Table<HostName, Labels> {
        &self.labels
    }

    /// Returns the labels of a host.
    pub fn labels_of(&self, tenant: &TenantId, host: &HostName) -> Labels {
        self.labels.get(tenant, host).map(|labels| labels.as_ref().clone()).unwrap_or_default()
    }

    /// Returns the tenants that have a record; `default` exists without one.
    pub fn tenants(&self) -> &RedBlackTreeMapSync<TenantId, Tenant> {
        &self.tenants
    }

    /// Whether a tenant exists.
    pub fn has_tenant(&self, tenant: &TenantId) -> bool {
        *tenant == TenantId::default_tenant() || self.tenants.contains_key(tenant)
    }

    /// Returns what a tenant may do at once.
    pub fn limits(&self, tenant: &TenantId) -> TenantLimits {
        TenantLimits { migrations: self.tenants.get(tenant).and_then(|tenant| tenant.migrations_max) }
    }

    /// Puts a record that a snapshot holds.
    pub(super) fn put_user(&mut self, tenant: &TenantId, name: OperatorName, user: User) {
        self.users.insert(tenant, name, user);
    }

    /// Puts a record that a snapshot holds.
    pub(super) fn put_key(&mut self, tenant: &TenantId, id: KeyId, key: Key) {
        self.keys.insert(tenant, id, key);
    }

    /// Puts a record that a snapshot holds.
    pub(super) fn put_tenant(&mut self, name: TenantId, tenant: Tenant) {
        self.tenants.insert_mut(name, tenant);
    }

    /// Puts labels; an empty set is no record.
    pub(super) fn put_labels(&mut self, tenant: &TenantId, host: HostName, labels: Labels) {
        if labels.is_empty() {
            self.labels.remove(tenant, &host);
        } else {
            self.labels.insert(tenant, host, labels);
        }
    }

    /// Applies a command, except for what it means to others.
    pub(super) fn apply(&mut self, stamp: &Stamp, command: Command) -> Result<Applied, Refusal> {
        match command {
            Command::CreateUser { tenant, name, grant, password } => {
                self.create_user(stamp, &tenant, name, grant, password)?;
            }
            Command::GrantUser { tenant, name, grant } => {
                if !self.has_tenant(&grant.tenant) {
                    return Err(Refusal::absent("tenant", &grant.tenant));
                }
                self.change_user(&tenant, &name, |user| user.grant(&name, grant))?;
            }
            Command::UngrantUser { tenant, name, within } => self.change_user(&tenant, &name, |user| {
                user.ungrant(&within);
                Ok(())
            })?,
            Command::DisableUser { tenant, name, is_disabled } => {
                self.change_user(&tenant, &name, |user| {
                    user.is_disabled = is_disabled;
                    user.certificates_from = stamp.wall;
                    Ok(())
                })?;
            }
            Command::SetPassword { tenant, name, password } => {
                password.check()?;
                self.change_user(&tenant, &name, |user| {
                    user.password = Some(password);
                    Ok(())
                })?;
            }
            Command::ResetPassword { tenant, name, password } => {
                self.reset_password(stamp, &tenant, &name, password)?;
            }
            Command::CreateKey { tenant, id, name, digest, grant, expires } => {
                let key = Key {
                    principal: stamp.principal.clone(),
                    created: stamp.wall,
                    name,
                    digest,
                    grant,
                    expires,
                    revoked: None,
                };
                self.create_key(stamp, &tenant, id, key)?;
            }
            Command::RevokeKey { tenant, id } => {
                let absent = || Refusal::absent("API key", &id);
                let mut key = self.keys.get(&tenant, &id).ok_or_else(absent)?.as_ref().clone();
                // The first revocation counts; it is the one to compare with what the key did.
                key.revoked = key.revoked.or(Some(stamp.wall));
                self.keys.insert(&tenant, id, key);
            }
            Command::CreateTenant { name } => self.create_tenant(stamp, name)?,
            Command::LimitTenant { name, migrations_max } => {
                self.limit_tenant(stamp, name, migrations_max)?;
            }
            Command::LabelHost { tenant, host, labels } => {
                if labels.len() > LABELS_MAX {
                    let message = format!("a host bears at most {LABELS_MAX} labels");
                    return Err(Refusal::new(FailureKind::Invalid, message, "remove some first"));
                }
                self.put_labels(&tenant, host, labels);
            }
        }
        Ok(Applied::done())
    }

    fn create_user(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        name: OperatorName,
        grant: Grant,
        password: Option<PasswordHash>,
    ) -> Result<(), Refusal> {
        if !self.has_tenant(tenant) {
            return Err(Refusal::absent("tenant", tenant));
        }
        if self.users.get(tenant, &name).is_some() {
            return Err(Refusal::new(
                FailureKind::Conflict,
                format!("the user `{name}` exists already"),
                "choose another name, or change it with `ctl user grant`, `password`, `enable`",
            ));
        }
        if self.users.of_tenant(tenant).count() >= USERS_MAX {
            let message = format!("a tenant has at most {USERS_MAX} users");
            return Err(Refusal::new(FailureKind::Exhausted, message, "make another tenant"));
        }
        password.as_ref().map_or(Ok(()), PasswordHash::check)?;
        let mut user = User {
            principal: stamp.principal.clone(),
            created: stamp.wall,
            is_disabled: false,
            certificates_from: WallMs(0),
            grants: Vec::new(),
            password,
        };
        user.grant(&name, grant)?;
        self.users.insert(tenant, name, user);
        Ok(())
    }

    fn change_user(
        &mut self,
        tenant: &TenantId,
        name: &OperatorName,
        change: impl FnOnce(&mut User) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let absent = || Refusal::absent("user", name);
        let mut user = self.users.get(tenant, name).ok_or_else(absent)?.as_ref().clone();
        change(&mut user)?;
        self.users.insert(tenant, name.clone(), user);
        Ok(())
    }

    fn reset_password(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        name: &OperatorName,
        password: PasswordHash,
    ) -> Result<(), Refusal> {
        password.check()?;
        let may_beyond = match &stamp.principal {
            Principal::Node { .. } => true,
            principal => self.grants(principal, stamp.wall).is_some_and(|grants| looks_after_all(&grants)),
        };
        self.change_user(tenant, name, |user| {
            if user.reaches_beyond(tenant) && !may_beyond {
                let message = format!("the user `{name}` is trusted by other tenants too");
                let hint = "this is for: admin of the whole tenant `default`; or let the person change it with `ctl user password`";
                return Err(Refusal::new(FailureKind::Denied, message, hint));
            }
            user.password = Some(password);
            // Whoever knew the password before may hold a certificate that it got.
            user.certificates_from = stamp.wall;
            Ok(())
        })
    }

    fn create_key(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        id: KeyId,
        mut key: Key,
    ) -> Result<(), Refusal> {
        if !self.has_tenant(tenant) {
            return Err(Refusal::absent("tenant", tenant));
        }
        key.grant.scope.check().map_err(|error| {
            Refusal::new(FailureKind::Invalid, error.to_string(), "label the hosts and name the label")
        })?;
        super::step::cut(&mut key.name, KEY_NAME_BYTES_MAX);
        let forgotten: Vec<KeyId> = self
            .keys
            .of_tenant(tenant)
            .filter(|(_, key)| key.is_forgotten(stamp.wall))
            .map(|(id, _)| id.clone())
            .collect();
        for id in forgotten {
            self.keys.remove(tenant, &id);
        }
        if self.keys.get(tenant, &id).is_some() {
            let message = format!("the id `{id}` is taken");
            return Err(Refusal::new(FailureKind::Conflict, message, "ask again"));
        }
        let alive = self.keys.of_tenant(tenant).filter(|(_, key)| key.is_alive(stamp.wall)).count();
        // Keys that are over are kept for a while, and are bounded too.
        if alive >= KEYS_MAX || self.keys.of_tenant(tenant).count() >= 10 * KEYS_MAX {
            let message = format!("a tenant has at most {KEYS_MAX} API keys");
            return Err(Refusal::new(FailureKind::Exhausted, message, "revoke some with `ctl key revoke`"));
        }
        self.keys.insert(tenant, id, key);
        Ok(())
    }

    fn create_tenant(&mut self, stamp: &Stamp, name: TenantId) -> Result<(), Refusal> {
        if self.has_tenant(&name) {
            let message = format!("the tenant `{name}` exists already");
            return Err(Refusal::new(FailureKind::Conflict, message, "choose another name"));
        }
        if self.tenants.size() >= TENANTS_MAX {
            let message = format!("a cluster has at most {TENANTS_MAX} tenants");
            return Err(Refusal::new(FailureKind::Exhausted, message, "set up another cluster"));
        }
        self.tenants.insert_mut(name, Tenant::new(stamp, None));
        Ok(())
    }

    fn limit_tenant(
        &mut self,
        stamp: &Stamp,
        name: TenantId,
        migrations_max: Option<u32>,
    ) -> Result<(), Refusal> {
        if !self.has_tenant(&name) {
            return Err(Refusal::absent("tenant", &name));
        }
        if migrations_max == Some(0) {
            let hint = "disable its users to stop a tenant";
            return Err(Refusal::new(FailureKind::Invalid, "a tenant may run at least one migration", hint));
        }
        let mut tenant = self.tenants.get(&name).cloned().unwrap_or_else(|| Tenant::new(stamp, None));
        tenant.migrations_max = migrations_max;
        self.tenants.insert_mut(name, tenant);
        Ok(())
    }
}

/// Whether these are the grants of somebody who looks after all tenants.
fn looks_after_all(grants: &[Grant]) -> bool {
    let default = TenantId::default_tenant();
    grants.iter().any(|grant| grant.tenant == default && grant.role == Role::Admin && grant.scope.is_whole())
}

impl Tenant {
    fn new(stamp: &Stamp, migrations_max: Option<u32>) -> Self {
        Self { principal: stamp.principal.clone(), created: stamp.wall, migrations_max }
    }
}
