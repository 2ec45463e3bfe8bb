//! Sees what is refused to callers, whatever service and method refuses it.
//!
//! A layer around all services: it looks at the status that goes out, so that no handler can forget to tell. It knows
//! who calls by the connection's certificate, or by what the admission has told it of an API key.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use common::id::TenantId;
use common::principal::Principal;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::Layer;

use super::connection::ConnectionInfo;
use crate::audit::refusals::Refused;

/// What a handler may tell of its call.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct Told {
    principal: OnceLock<Principal>,
    tried: OnceLock<(TenantId, String)>,
    is_hidden: AtomicBool,
}

impl Witness {
    /// Tells that an answer of "absent" hides something that the caller may not know of.
    pub fn hide(&self) {
        self.told.is_hidden.store(true, Ordering::Relaxed);
    }
}

/// Tells who calls, if a certificate does not.
pub fn tell_principal<T>(request: &tonic::Request<T>, principal: &Principal) {
    if let Some(witness) = request.extensions().get::<Witness>() {
        // A second admission of the same call says the same.
        drop(witness.told.principal.set(principal.clone()));
    }
}

/// Tells as whom a caller tries to pass, by a password.
pub fn tell_tried<T>(request: &tonic::Request<T>, tenant: TenantId, name: String) {
    if let Some(witness) = request.extensions().get::<Witness>() {
        // A call tries once.
        drop(witness.told.tried.set((tenant, name)));
    }
}

/// Tells that an answer of "absent" hides something that the caller may not know of.
pub fn tell_hidden<T>(request: &tonic::Request<T>) {
    if let Some(witness) = request.extensions().get::<Witness>() {
        witness.hide();
    }
}

/// Puts a witness around services.
#[derive(Clone, Copy, Debug, Default)]
pub struct WitnessLayer;

/// Services with a witness around them.
#[derive(Clone, Debug)]
pub struct Witnessed<S> {
    inner: S,
}

impl<S> Layer<S> for WitnessLayer {
    type Service = Witnessed<S>;

    fn layer(&self, inner: S) -> Witnessed<S> {
        Witnessed { inner }
    }
}

impl<S, A, B> Service<Request<A>> for Witnessed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        let method = request.uri().path().to_owned();
        let witness = Witness::default();
        request.extensions_mut().insert(witness.clone());
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = answered.await?;
            if let Some(connection) = connection {
                look(&connection, &method, &witness, response.headers());
            }
            Ok(response)
        })
    }
}

/// Counts an answer that refuses; an answer of another kind has no status yet.
fn look(connection: &ConnectionInfo, method: &str, witness: &Witness, headers: &HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let is_refusal = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => true,
        Code::NotFound => witness.told.is_hidden.load(Ordering::Relaxed),
        // Too many tries are tries too.
        Code::ResourceExhausted => witness.told.tried.get().is_some(),
        _ => false,
    };
    if is_refusal {
        let certified = connection.peer.as_ref().map(|peer| peer.principal.clone());
        let (tenant, object) = witness.told.tried.get().cloned().unzip();
        connection.refusals.note(Refused {
            principal: witness.told.principal.get().cloned().or(certified),
            tenant,
            address: Some(connection.address.ip()),
            action: action(method),
            object: object.unwrap_or_default(),
            reason: status.message().to_owned(),
        });
    }
}

/// Returns the path of a method as the audit names what was asked for: `control.drain_host`.
fn action(path: &str) -> String {
    let mut parts = path.rsplit('/');
    let (method, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let service = service.rsplit('.').next().unwrap_or_default();
    let service = service.strip_suffix("Service").unwrap_or(service).to_ascii_lowercase();
    let mut name = String::new();
    // A stranger may have asked for any path.
    for letter in method.chars().take(64) {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    format!("{}.{name}", service.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::clock;

    use super::*;

    #[test]
    fn a_login_that_is_refused_is_of_whom_was_tried_and_too_many_are_too() {
        let refusals = Arc::new(crate::audit::refusals::Refusals::default());
        let connection = ConnectionInfo {
            peer: None,
            address: ([192, 0, 2, 1], 1).into(),
            cut: tokio_util::sync::CancellationToken::new(),
            refusals: Arc::clone(&refusals),
            standing: Arc::default(),
        };
        let answered = |witness: &Witness, status: &Status| {
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            look(&connection, "/migration.v1.AccessService/Login", witness, &headers);
        };
        let mut request = tonic::Request::new(());
        let (login, other) = (Witness::default(), Witness::default());
        request.extensions_mut().insert(login.clone());
        tell_tried(&request, "acme".parse().unwrap(), "eve".to_owned());
        answered(&login, &Status::unauthenticated("wrong"));
        answered(&login, &Status::resource_exhausted("too many"));
        answered(&login, &Status::unavailable("no leader"));
        answered(&other, &Status::resource_exhausted("a full queue"));
        let deeds = refusals.take(clock::boot().after(Duration::from_secs(60)));
        let [deed] = deeds.as_slice() else { panic!("one line: {deeds:?}") };
        let told = (deed.tenant.as_str(), deed.object.as_str(), deed.action.as_str(), deed.count);
        assert_eq!(told, ("acme", "eve", "access.login", 2));
    }

    #[test]
    fn a_method_is_named_as_in_the_audit() {
        assert_eq!(action("/migration.v1.ControlService/DrainHost"), "control.drain_host");
        assert_eq!(action("/x"), ".x");
        assert_eq!(action(""), ".");
    }
}
