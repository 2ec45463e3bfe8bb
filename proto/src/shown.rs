//! What a caller shows with every call besides its certificate: an API key, the tenant that it means, and a name of the
//! call itself.

use std::fmt;
use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::secret::Secret;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::{AUTHORIZATION_KEY, BEARER, REQUEST_KEY, TENANT_KEY};

/// Metadata of every call.
#[derive(Clone, Default)]
pub struct Shown {
    entries: Arc<Vec<(&'static str, AsciiMetadataValue)>>,
}

impl Shown {
    /// Makes the metadata of a caller with this API key, if any, who means this tenant, if another than its own.
    ///
    /// # Errors
    /// When the key holds what no header can.
    pub fn new(api_key: Option<&Secret<String>>, tenant: Option<&TenantId>) -> Result<Self, Failure> {
        let mut entries = Vec::new();
        if let Some(key) = api_key {
            let text = Secret::new(format!("{BEARER}{}", key.expose().trim()));
            let mut value: AsciiMetadataValue = text.expose().parse().map_err(|_error| {
                Failure::new(FailureKind::Invalid, "the API key holds letters that no key has")
                    .hint("take the whole line that `ctl key create` printed, and nothing else")
            })?;
            value.set_sensitive(true);
            entries.push((AUTHORIZATION_KEY, value));
        }
        if let Some(tenant) = tenant {
            let value = tenant.as_str().parse().map_err(|_error| {
                Failure::new(FailureKind::Bug, format!("the tenant `{tenant}` cannot be sent"))
            })?;
            entries.push((TENANT_KEY, value));
        }
        Ok(Self { entries: Arc::new(entries) })
    }

    /// Returns the metadata of one call, which names itself so in each of its tries.
    #[must_use]
    pub fn for_one_call(&self) -> Self {
        let mut drawn = [0; 16];
        let is_drawn = getrandom::fill(&mut drawn).is_ok();
        let name = format!("{:032x}", u128::from_be_bytes(drawn)).parse().ok().filter(|_| is_drawn);
        // Without randomness the call has no name, and a change may be made twice.
        let entries = self.entries.iter().cloned().chain(name.map(|name| (REQUEST_KEY, name)));
        Self { entries: Arc::new(entries.collect()) }
    }
}

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in self.entries.iter() {
            request.metadata_mut().insert(*key, value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.entries.iter().map(|(key, _)| *key).collect();
        f.debug_struct("Shown").field("keys", &keys).finish_non_exhaustive()
    }
}
