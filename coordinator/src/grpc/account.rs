//! The service for users, API keys, tenants and labels: check, build a command, propose, convert.

use std::sync::Arc;

use common::account::{KeyView, LoginHint, NewKeyView, TenantView, UserView, WhoView};
use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::grant::{Grant, Labels, Scope, ScopeItem};
use common::id::{HostName, KeyId, OperatorName, TenantId};
use common::principal::Principal;
use common::secret::Secret;
use proto::status::to_status;
use proto::v1::access_service_server::AccessService;
use proto::v1::{
    CreateKeyRequest, CreateUserRequest, DisableUserRequest, Document, GrantUserRequest, KeyRequest,
    LabelHostRequest, LimitTenantRequest, LoginRequest, LoginResponse, OwnPasswordRequest, Page, PageRequest,
    RoleGrant, SetPasswordRequest, TenantRequest, WhoRequest,
};
use tonic::{Request, Response, Status};

use super::admission::{self, Admitted};
use super::document::{Answer, answer, from, page};
use super::login::LoginDesk;
use super::{refuse, witness};
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::hub::Hub;
use crate::pki::api_key::ApiKey;
use crate::state::access::command::{Command, SET_PASSWORD};
use crate::state::access::key::Key;
use crate::state::access::user::{PasswordHash, User};
use crate::state::query;
use crate::state::refusal::Refusal;

/// The service.
#[derive(Clone, Debug)]
pub struct AccountDoor {
    hub: Arc<Hub>,
    desk: Arc<LoginDesk>,
}

impl AccountDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, desk: Arc::default() }
    }

    async fn admit<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Admitted, Status> {
        admission::admit_at_leader(&self.hub, request, call).await
    }

    /// Admits a call that is about a tenant and not about what is in it.
    async fn admit_cluster<T: Sync>(&self, request: &Request<T>, call: Call) -> Result<Actor, Status> {
        self.admit(request, call).await.map(|admitted| admitted.principal)
    }

    async fn propose(&self, principal: &Actor, command: Command) -> Result<(), Status> {
        let command = crate::state::Command::Access(command);
        let proposed = self.hub.propose_once(principal.clone(), command).await;
        refuse::or_status(&self.hub, proposed).await.map(|_| ())
    }

    /// Admits what makes the caller, or somebody in its hand, this user: who is trusted by other tenants too is not
    /// the own tenant's to give away.
    async fn admit_to_user<T: Sync>(&self, request: &Request<T>, name: &str) -> Result<Admitted, Status> {
        let admitted = self.admit(request, Call::ChangeUser).await?;
        let state = self.hub.state();
        let user = name.parse().ok().and_then(|name| state.access().users().get(&admitted.tenant, &name));
        if user.is_some_and(|user| user.reaches_beyond(&admitted.tenant)) {
            return self.admit(request, Call::ChangeTenant).await;
        }
        Ok(admitted)
    }

    /// Tells the witness as whom a login tries to pass. A name that nobody has stays untold: it may well be a password
    /// that was typed in the wrong place.
    fn tell_tried(&self, request: &Request<LoginRequest>) {
        let state = self.hub.state();
        let LoginRequest { tenant, name, .. } = request.get_ref();
        let tenant = tenant.parse().ok().filter(|tenant| state.access().has_tenant(tenant));
        let tenant = tenant.unwrap_or_else(TenantId::default_tenant);
        let name: Option<OperatorName> = name.parse().ok();
        let name = name.filter(|name| state.access().users().get(&tenant, name).is_some());
        witness::tell_tried(request, tenant, name.map(|name| name.to_string()).unwrap_or_default());
    }

    async fn hash(&self, password: String) -> Result<PasswordHash, Status> {
        let hashed = self.desk.pool().hash(Secret::new(password)).await;
        hashed.map_err(|failure| to_status(&failure))
    }

    fn user_view(&self, tenant: &TenantId, name: &OperatorName) -> Result<UserView, Status> {
        let state = self.hub.state();
        let user = state.access().users().get(tenant, name);
        let user = user.ok_or_else(|| to_status(Refusal::absent("user", name).failure()))?;
        Ok(user_view(tenant, name, user))
    }

    fn tenant_view(&self, name: TenantId) -> TenantView {
        let state = self.hub.state();
        let record = state.access().tenants().get(&name);
        TenantView {
            created: record.map(|record| record.created),
            limits: state.access().limits(&name),
            name,
        }
    }
}

#[tonic::async_trait]
impl AccessService for AccountDoor {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        refuse::check(&request, Call::Login)?;
        refuse::check_leader(&self.hub).await?;
        let address = refuse::connection(&request)?.address.ip();
        self.tell_tried(&request);
        let answered = self.desk.login(&self.hub, address, request.into_inner()).await;
        answered.map(Response::new).map_err(|failure| to_status(&failure))
    }

    async fn who_am_i(&self, request: Request<WhoRequest>) -> Answer<Document> {
        let admitted = self.admit(&request, Call::WhoAmI).await?;
        answer(&WhoView {
            principal: admitted.principal.to_string(),
            tenant: admitted.tenant.clone(),
            grants: admitted.grants().to_vec(),
        })
    }

    async fn set_own_password(&self, request: Request<OwnPasswordRequest>) -> Answer<Document> {
        let Admitted { principal, .. } = self.admit(&request, Call::SetOwnPassword).await?;
        let address = refuse::connection(&request)?.address.ip();
        let Principal::Person { tenant, name } = &principal.principal else {
            return Err(Status::permission_denied("only a person has a password"));
        };
        let name: OperatorName = parse(name)?;
        witness::tell_tried(&request, tenant.clone(), name.to_string());
        let named = (tenant.clone(), name);
        let OwnPasswordRequest { current, password } = request.into_inner();
        let (tenant, name) = &named;
        if !self.hub.state().has_made(&principal, Some(tenant), SET_PASSWORD, name.as_str()) {
            let checked = self.desk.check(&self.hub, address, Some(&named), Secret::new(current)).await;
            checked.map_err(|failure| to_status(&failure))?;
        }
        let (tenant, name) = named;
        let password = self.hash(password).await?;
        let command = Command::SetPassword { tenant: tenant.clone(), name: name.clone(), password };
        self.propose(&principal, command).await?;
        answer(&self.user_view(&tenant, &name)?)
    }

    async fn list_users(&self, request: Request<PageRequest>) -> Answer<Page> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadUser).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let state = self.hub.state();
        let found = query::records(state.access().users(), &tenant, from(&begin)?.as_ref(), limit);
        let views: Vec<UserView> =
            found.items.iter().map(|(name, user)| user_view(&tenant, name, user)).collect();
        page(&views, found.next)
    }

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::ChangeUser).await?;
        let CreateUserRequest { name, grant, password } = request.into_inner();
        let (name, grant): (OperatorName, _) = (parse(&name)?, read_grant(&tenant, grant)?);
        let password = if password.is_empty() { None } else { Some(self.hash(password).await?) };
        let command = Command::CreateUser { tenant: tenant.clone(), name: name.clone(), grant, password };
        self.propose(&principal, command).await?;
        let mut view = self.user_view(&tenant, &name)?;
        let seals = self.hub.seals().map_err(|failure| to_status(&failure))?;
        view.login = Some(LoginHint {
            coordinators: self.hub.state().cluster().api_addresses(),
            ca_digest: seals.authority.digest().to_string(),
        });
        answer(&view)
    }

    async fn grant_user(&self, request: Request<GrantUserRequest>) -> Answer<Document> {
        let within = request.get_ref().within.clone();
        let admitted = self.admit(&request, Call::ChangeUser).await?;
        let within: TenantId = if within.is_empty() { admitted.tenant.clone() } else { parse(&within)? };
        // What reaches across tenants is for who looks after all of them.
        let Admitted { principal, tenant, .. } = if within == admitted.tenant {
            admitted
        } else {
            self.admit(&request, Call::ChangeTenant).await?
        };
        let GrantUserRequest { name, within: _, grant } = request.into_inner();
        let name: OperatorName = parse(&name)?;
        let command = match grant {
            Some(_) => {
                let grant = read_grant(&within, grant)?;
                Command::GrantUser { tenant: tenant.clone(), name: name.clone(), grant }
            }
            None => Command::UngrantUser { tenant: tenant.clone(), name: name.clone(), within },
        };
        self.propose(&principal, command).await?;
        answer(&self.user_view(&tenant, &name)?)
    }

    async fn disable_user(&self, request: Request<DisableUserRequest>) -> Answer<Document> {
        let DisableUserRequest { name, disable } = request.get_ref();
        let Admitted { principal, tenant, .. } = if *disable {
            self.admit(&request, Call::ChangeUser).await?
        } else {
            self.admit_to_user(&request, name).await?
        };
        let DisableUserRequest { name, disable } = request.into_inner();
        let name: OperatorName = parse(&name)?;
        let command =
            Command::DisableUser { tenant: tenant.clone(), name: name.clone(), is_disabled: disable };
        self.propose(&principal, command).await?;
        answer(&self.user_view(&tenant, &name)?)
    }

    async fn set_password(&self, request: Request<SetPasswordRequest>) -> Answer<Document> {
        let name = &request.get_ref().name;
        let Admitted { principal, tenant, .. } = self.admit_to_user(&request, name).await?;
        let SetPasswordRequest { name, password } = request.into_inner();
        let name: OperatorName = parse(&name)?;
        let password = self.hash(password).await?;
        let command = Command::ResetPassword { tenant: tenant.clone(), name: name.clone(), password };
        self.propose(&principal, command).await?;
        answer(&self.user_view(&tenant, &name)?)
    }

    async fn list_keys(&self, request: Request<PageRequest>) -> Answer<Page> {
        let Admitted { tenant, .. } = self.admit(&request, Call::ReadKey).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let state = self.hub.state();
        let found = query::records(state.access().keys(), &tenant, from(&begin)?.as_ref(), limit);
        let views: Vec<KeyView> = found.items.iter().map(|(id, key)| key_view(&tenant, id, key)).collect();
        page(&views, found.next)
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::ChangeKey).await?;
        let CreateKeyRequest { name, grant, lifetime_ms } = request.into_inner();
        let grant = read_grant(&tenant, grant)?;
        let seals = self.hub.seals().map_err(|failure| to_status(&failure))?;
        let key = match &principal.request {
            // Who asks again, because the answer was lost, gets the key that was made.
            Some(call) => {
                let asked = serde_json::to_string(&(call, &name, &grant, lifetime_ms));
                let asked = asked.map_err(|error| to_status(&Failure::of(FailureKind::Bug, &error)))?;
                ApiKey::of_request(&seals.authority, &principal, tenant.clone(), &asked)
            }
            None => ApiKey::draw(tenant.clone()).map_err(|failure| to_status(&failure))?,
        };
        let expires = (lifetime_ms > 0).then(|| WallMs(clock::wall().0.saturating_add(lifetime_ms)));
        let digest = key.digest(&seals.authority);
        let (tenant, id) = (tenant.clone(), key.id.clone());
        let command = Command::CreateKey { tenant, id, name, digest, grant, expires };
        self.propose(&principal, command).await?;
        // Another try has another clock, and the key is the one that the first made.
        let state = self.hub.state();
        let expires = state.access().keys().get(&key.tenant, &key.id).and_then(|made| made.expires);
        answer(&NewKeyView { key: key.reveal(), id: key.id, tenant: key.tenant, expires })
    }

    async fn revoke_key(&self, request: Request<KeyRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::ChangeKey).await?;
        let text = request.into_inner().id;
        let absent =
            || to_status(Refusal::absent("API key", &text.chars().take(64).collect::<String>()).failure());
        let id: KeyId = text.parse().map_err(|_invalid| absent())?;
        self.propose(&principal, Command::RevokeKey { tenant: tenant.clone(), id: id.clone() }).await?;
        let state = self.hub.state();
        let key = state.access().keys().get(&tenant, &id).ok_or_else(absent)?;
        answer(&key_view(&tenant, &id, key))
    }

    async fn list_tenants(&self, request: Request<PageRequest>) -> Answer<Page> {
        self.admit_cluster(&request, Call::ReadTenant).await?;
        let PageRequest { from: begin, limit } = request.into_inner();
        let begin: Option<TenantId> = from(&begin)?;
        let state = self.hub.state();
        let mut names: Vec<TenantId> = state.access().tenants().keys().cloned().collect();
        names.push(TenantId::default_tenant());
        names.sort();
        names.dedup();
        let found =
            query::cut(names.into_iter().filter(|name| begin.as_ref().is_none_or(|from| name > from)), limit);
        let next = found.next;
        let views: Vec<TenantView> = found.items.into_iter().map(|name| self.tenant_view(name)).collect();
        page(&views, next)
    }

    async fn create_tenant(&self, request: Request<TenantRequest>) -> Answer<Document> {
        let principal = self.admit_cluster(&request, Call::ChangeTenant).await?;
        let name: TenantId = parse(&request.into_inner().name)?;
        self.propose(&principal, Command::CreateTenant { name: name.clone() }).await?;
        answer(&self.tenant_view(name))
    }

    async fn limit_tenant(&self, request: Request<LimitTenantRequest>) -> Answer<Document> {
        let principal = self.admit_cluster(&request, Call::ChangeTenant).await?;
        let LimitTenantRequest { name, migrations } = request.into_inner();
        let name: TenantId = parse(&name)?;
        let migrations_max = (migrations > 0).then_some(migrations);
        self.propose(&principal, Command::LimitTenant { name: name.clone(), migrations_max }).await?;
        self.hub.wake.notify_one();
        answer(&self.tenant_view(name))
    }

    async fn label_host(&self, request: Request<LabelHostRequest>) -> Answer<Document> {
        let Admitted { principal, tenant, .. } = self.admit(&request, Call::LabelHost).await?;
        let LabelHostRequest { host, labels } = request.into_inner();
        let host: HostName = parse(&host)?;
        let labels = read_labels(&labels)?;
        let command = Command::LabelHost { tenant: tenant.clone(), host: host.clone(), labels };
        self.propose(&principal, command).await?;
        let state = self.hub.state();
        let record = state.hosts().get(&tenant, &host);
        let record = record.ok_or_else(|| to_status(Refusal::absent("host", &host).failure()))?;
        let presence = self.hub.sessions.presence(&tenant, &host);
        answer(&query::host_view(
            &state,
            &tenant,
            &host,
            record,
            &query::steps_running(&state, &tenant),
            presence,
        ))
    }
}

fn user_view(tenant: &TenantId, name: &OperatorName, user: &User) -> UserView {
    UserView {
        name: name.clone(),
        tenant: tenant.clone(),
        disabled: user.is_disabled,
        has_password: user.password.is_some(),
        grants: user.grants.clone(),
        principal: user.principal.to_string(),
        created: user.created,
        login: None,
    }
}

fn key_view(tenant: &TenantId, id: &KeyId, key: &Key) -> KeyView {
    KeyView {
        id: id.clone(),
        tenant: tenant.clone(),
        name: key.name.clone(),
        grants: vec![key.grant.clone()],
        principal: key.principal.to_string(),
        created: key.created,
        expires: key.expires,
        revoked: key.revoked,
    }
}

/// Reads a role and its scope as a grant in a tenant.
fn read_grant(tenant: &TenantId, grant: Option<RoleGrant>) -> Result<Grant, Status> {
    let RoleGrant { role, scope } = grant.ok_or_else(|| Status::invalid_argument("no role is named"))?;
    let items: Result<Vec<ScopeItem>, Status> = scope.iter().map(|item| parse(item)).collect();
    let scope = Scope::of_items(items?);
    let scope = scope.map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
    Ok(Grant { tenant: tenant.clone(), role: parse(&role)?, scope })
}

/// Reads labels, each as `KEY=VALUE`.
pub(super) fn read_labels(labels: &[String]) -> Result<Labels, Status> {
    let items: Result<Vec<ScopeItem>, Status> =
        labels.iter().map(|label| parse(&format!("label:{label}"))).collect();
    let scope = Scope::of_items(items?);
    scope.map(|scope| scope.labels).map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))
}

fn parse<T: std::str::FromStr<Err: std::error::Error + 'static>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| to_status(&Failure::of(FailureKind::Invalid, &error)))
}
