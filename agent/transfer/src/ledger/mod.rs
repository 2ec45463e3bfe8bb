//! What this migration did to a root, entry by entry: the ground of undo, of verification and of the next pass.
//!
//! An append-only log of frames. An *intent* is durable before the live tree is touched, a *done* follows with the
//! change time that the kernel gave; an intent that was decided otherwise is *abandoned*. A torn end is cut when the
//! log is opened. For reading in the order of a listing the log is sorted into runs outside of memory ([`history`]).

mod history;
mod log;
mod record;

pub(crate) use history::{Histories, History, Kept};
pub(crate) use log::{LEDGER, Ledger, SettledRecords, read_settled};
#[cfg(test)]
pub(crate) use record::Record;
pub(crate) use record::{Change, Intent, Settled, listing_order};
