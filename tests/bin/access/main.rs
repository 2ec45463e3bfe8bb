//! What policy, audit and secrets cost, and whether a flood of logins or refusals harms others; `tests/bench.sh access`.
//!
//! ```text
//! access CONTEXTS      the contexts of a cluster of real processes that nobody else uses
//! ```
//!
//! Prints medians and the slowest of a hundred, in microseconds. Where something costs little beside its way, the way
//! alone is measured too, in turns over the same connection.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark ends where something is not as it must be"
)]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod flood;
mod host;
mod opening;
mod policy;
mod requests;
mod site;
mod times;

use std::path::Path;

use site::Site;

fn main() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let contexts = std::env::args().nth(1).unwrap_or_else(|| panic!("usage: access CONTEXTS"));
    policy::run();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let site = Site::open(Path::new(&contexts));
        requests::run(&site).await;
        let mut pair = opening::run(&site).await;
        flood::logins(&site, &mut pair).await;
        flood::refusals(&site, &mut pair).await;
        site.tasks.finish().await;
    });
}
