//! Moves a tree from one agent to another: the I/O half of the file steps.
//!
//! The destination holds the lease, meets the source and pulls. What is decided about entries is in `sync`; every
//! path system call is in `tree`; here bytes are moved, staged and committed. `DESIGN.md` has the order of a commit
//! and what a crash leaves after each of its arrows.

mod account;
mod assembly;
#[cfg(test)]
mod authority;
mod backup;
#[cfg(test)]
mod backup_test;
mod begun;
mod brake;
mod breach;
mod buffer;
mod capacity;
mod catch_up;
mod commit;
mod compress;
mod congestion;
mod content;
mod context;
mod copy;
mod cost;
mod counter;
#[cfg(test)]
mod damage_test;
mod delta;
mod domain;
mod domains;
mod dry_run;
mod endpoint;
mod external_sort;
mod fence;
mod findings;
#[cfg(test)]
mod fixture_test;
mod follow;
mod frame_file;
mod handshakes;
mod in_the_way;
mod index;
#[cfg(test)]
mod itemised_test;
mod kept;
#[cfg_attr(
    not(any(test, feature = "kill-points")),
    expect(unreachable_pub, reason = "reached with that feature only")
)]
mod kill_point;
mod lane;
mod ledger;
mod left_out;
mod link;
mod manifest;
mod marker;
mod memory;
#[cfg(test)]
mod mounted_test;
mod opened;
mod owner;
#[cfg(test)]
mod pair;
mod passes;
mod patience;
mod peer;
mod pull;
mod reach;
mod recent;
mod remote;
mod removal;
mod request;
mod reset_key;
mod revoked;
mod root;
#[cfg(test)]
mod rules_test;
mod saved_counters;
mod scan;
mod secrets;
mod serve;
#[cfg(test)]
mod snapshot;
mod spill;
mod stage;
mod staged;
mod standing;
mod tally;
mod tcp;
mod throttle;
mod ticket;
#[cfg(test)]
mod touched_test;
mod trouble;
mod undo;
mod undo_swap;
mod verify;
mod watch;
mod way_back;
mod window;

pub use buffer::Buffer;

pub use catch_up::run_catch_up;
pub use context::{Course, LeaseGuard, LeaseKeeper, Peer, PeerNews, SoFar, StepContext, hold_lease};
pub use copy::run_copy;
pub use endpoint::{Endpoint, EndpointSettings};
pub use findings::{FindingSink, FindingTotals};
#[cfg(feature = "kill-points")]
pub use kill_point::{KillPoint, before_every_group};
pub use patience::Patience;
pub use peer::{ContentReceiver, Delivery, FetchSender, ManifestReceiver, Source};
pub use reach::ServeOrder;
pub use reset_key::ResetKey;
pub use root::look_at_root;
pub use scan::{Scan, ScanSettings};
pub use secrets::{OpenSecret, Opening, Right, Secrets};
pub use serve::SERVED_THREADS_MAX;
pub use sync::wire::control::Sparing;
pub use tcp::RelayWay;
pub use verify::run_verify;
pub use way_back::{open_list, settle, undo, undo_preview};
