//! placeholder
use crate::{endpoint::EndpointSettings, lane::Lane, link::Link};
use common::shutdown::Shutdown;
use std::sync::Arc;
pub(crate) async fn run(link: Link, _lane: Lane, _settings: Arc<EndpointSettings>, _shutdown: Shutdown) {
    let _ = link.address();
    let _ = link.accept_lane().await;
}
