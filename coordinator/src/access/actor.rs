//! Who asks for a change, and from where.

use std::net::IpAddr;
use std::ops::Deref;

use common::principal::Principal;

/// A principal at the other end of a connection, or a coordinator that acts by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub principal: Principal,
    /// From where; none for what a coordinator does by itself.
    pub address: Option<IpAddr>,
    /// What the call names itself in all of its tries, where it does.
    pub request: Option<String>,
}

impl Actor {
    /// Returns the address as the audit tells it.
    pub fn address_text(&self) -> Option<String> {
        self.address.map(|address| address.to_canonical().to_string())
    }
}

impl Deref for Actor {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl From<Principal> for Actor {
    fn from(principal: Principal) -> Self {
        Self { principal, address: None, request: None }
    }
}
