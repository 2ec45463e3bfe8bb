//! Names whom to ask with every refusal, from the configuration.
//!
//! A layer around all services, so that no handler can forget it; it looks for the status that goes out.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::Layer;

/// The header that says that a response is a status and nothing else.
const STATUS_KEY: &str = "grpc-status";

/// Puts the contact on what services refuse.
#[derive(Clone, Debug, Default)]
pub struct ContactLayer {
    headers: HeaderMap,
}

impl ContactLayer {
    /// Makes a layer that names this contact; without one it does nothing.
    pub fn new(contact: Option<&str>) -> Self {
        let headers = contact.map(|contact| proto::status::support_contact(contact).into_headers());
        Self { headers: headers.unwrap_or_default() }
    }
}

/// Services whose refusals name whom to ask.
#[derive(Clone, Debug)]
pub struct Contacted<S> {
    inner: S,
    headers: HeaderMap,
}

impl<S> Layer<S> for ContactLayer {
    type Service = Contacted<S>;

    fn layer(&self, inner: S) -> Contacted<S> {
        Contacted { inner, headers: self.headers.clone() }
    }
}

impl<S, A, B> Service<Request<A>> for Contacted<S>
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

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let headers = self.headers.clone();
        let answered = self.inner.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            if response.headers().contains_key(STATUS_KEY) {
                response.headers_mut().extend(headers);
            }
            Ok(response)
        })
    }
}
