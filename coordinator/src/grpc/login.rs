//! Passwords at the door: who logs in, how often, and what a login gets.
//!
//! Tries are counted for each address and for each name before anything is compared, and comparisons run on a pool of
//! their own, so that a flood of logins costs itself. A name that nobody has is answered like a wrong password, in the
//! same time.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::{OperatorName, TenantId};
use common::principal::Principal;
use common::secret::Secret;
use proto::v1::{LoginRequest, LoginResponse};

use crate::access::throttle::Throttle;
use crate::hub::Hub;
use crate::pki::authority::RequestedKey;
use crate::state::access::user::{PasswordHash, User};
use crate::vault::password::PasswordPool;

/// Tries at once from one address: an office behind one.
const ADDRESS_BURST: u32 = 20;
/// Between two more.
const ADDRESS_PAUSE: Duration = Duration::from_millis(500);
/// Tries at once for one name, wherever they come from.
const NAME_BURST: u32 = 10;
/// Between two more: a guesser gets 17 000 a day, and a person waits five seconds.
const NAME_PAUSE: Duration = Duration::from_secs(5);

/// Where passwords are taken.
#[derive(Debug)]
pub struct LoginDesk {
    pool: PasswordPool,
    by_address: Mutex<Throttle>,
    by_name: Mutex<Throttle>,
}

impl Default for LoginDesk {
    fn default() -> Self {
        Self {
            pool: PasswordPool::default(),
            by_address: Mutex::new(Throttle::new(ADDRESS_BURST, ADDRESS_PAUSE)),
            by_name: Mutex::new(Throttle::new(NAME_BURST, NAME_PAUSE)),
        }
    }
}

impl LoginDesk {
    /// Returns the pool for new passwords.
    pub fn pool(&self) -> &PasswordPool {
        &self.pool
    }

    /// Turns a password into a certificate.
    ///
    /// # Errors
    /// When there were too many tries, or tenant, name and password do not fit each other.
    pub async fn login(
        &self,
        hub: &Hub,
        address: IpAddr,
        request: LoginRequest,
    ) -> Result<LoginResponse, Failure> {
        let LoginRequest { tenant, name, password, certificate_request } = request;
        let password = Secret::new(password);
        let key = RequestedKey::of_request(&certificate_request)
            .map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
        let named: Option<(TenantId, OperatorName)> = tenant.parse().ok().zip(name.parse().ok());
        let right = self.check(hub, address, named.as_ref(), password).await?;
        let (tenant, name) = named.ok_or_else(wrong)?;
        let begin = {
            let state = hub.state();
            let user = state.access().users().get(&tenant, &name);
            // It may have been changed, and what it got voided, while it was compared.
            let user = user.filter(|user| hash_of_user(user).as_ref() == Some(&right)).ok_or_else(wrong)?;
            clock::wall().max(user.certificates_begin())
        };
        let principal = Principal::Person { tenant, name: name.to_string() };
        let seals = hub.seals()?;
        let certificate = seals
            .authority
            .issue(&principal, None, &key, begin)
            .map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        tracing::info!(%principal, %address, "logged in");
        Ok(LoginResponse {
            certificate: certificate.to_vec(),
            ca_certificate: seals.authority.certificate().to_vec(),
            coordinators: hub.state().cluster().api_addresses(),
        })
    }

    /// Compares a password with the one of a user; returns the hash that it fits.
    ///
    /// # Errors
    /// When there were too many tries, or they do not fit each other.
    pub async fn check(
        &self,
        hub: &Hub,
        address: IpAddr,
        named: Option<&(TenantId, OperatorName)>,
        password: Secret<String>,
    ) -> Result<PasswordHash, Failure> {
        let now = clock::boot();
        let name = named.map(|(tenant, name)| format!("{tenant}/{name}"));
        let may_try = take(&self.by_address, &site_of(address).to_string(), now)
            // Names that are none share a bucket; nobody waits for them.
            && take(&self.by_name, name.as_deref().unwrap_or_default(), now);
        if !may_try {
            return Err(Failure::new(FailureKind::Throttled, "too many tries to log in")
                .hint("wait half a minute; an API key or a certificate needs no login"));
        }
        let hash = named.and_then(|(tenant, name)| hash_of(hub, tenant, name));
        if let (true, Some(hash)) = (self.pool.is_right(password, hash.clone()).await?, hash) {
            return Ok(hash);
        }
        tracing::info!(user = name.unwrap_or_default(), %address, "a login was refused");
        Err(wrong())
    }
}

/// Returns what one customer of a network has: an IPv4 address, or the /64 in which it may take any IPv6 address.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Returns the hash of a user who may log in.
fn hash_of(hub: &Hub, tenant: &TenantId, name: &OperatorName) -> Option<PasswordHash> {
    let state = hub.state();
    state.access().users().get(tenant, name).and_then(|user| hash_of_user(user))
}

/// Returns the hash that lets this user log in now.
fn hash_of_user(user: &User) -> Option<PasswordHash> {
    user.password.clone().filter(|_| !user.is_disabled)
}

fn take(throttle: &Mutex<Throttle>, name: &str, now: clock::BootTime) -> bool {
    // A try is one change of one number, so a panic elsewhere leaves the buckets whole.
    throttle.lock().unwrap_or_else(PoisonError::into_inner).take(name, now)
}

/// What every wrong login gets, whatever is wrong with it.
fn wrong() -> Failure {
    Failure::new(FailureKind::Unauthenticated, "tenant, user and password do not fit each other")
        .hint("look at --tenant and --user; an admin sets a new password with `ctl user password`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_of_a_network_is_one_address() {
        let site = |address: &str| site_of(address.parse().unwrap()).to_string();
        assert_eq!(site("2001:db8:1:2:ffff::1"), site("2001:db8:1:2::2"));
        assert_ne!(site("2001:db8:1:2::1"), site("2001:db8:1:3::1"));
        assert_eq!(site("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
    }
}
