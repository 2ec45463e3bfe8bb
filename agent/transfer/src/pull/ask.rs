//! Asking the source: requests of all threads gathered into batches, so that small files travel in packs.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use common::failure::Failure;
use sync::range::RANGE_BYTES;
use sync::wire::content::{Fetch, What};

use super::Pass;
use crate::peer::FetchSender;

/// As many files as one pack holds, so that a batch fills packs.
const BATCH: usize = 256;
/// Content of a batch: one lane serves it, so more would keep the other lanes idle.
const BATCH_BYTES: u64 = 2 * RANGE_BYTES;
/// How long a batch that is not full waits for more.
const PATIENCE: Duration = Duration::from_millis(2);
/// How often a thread that has nothing to do looks whether the pass has failed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the threads of a pass say to the asker.
#[derive(Debug)]
pub(super) enum Ask {
    /// Something is wanted.
    Fetch(Fetch),
    /// Nothing more will be wanted.
    End,
}

/// Sends what is asked for, until the end or a failure.
pub(super) fn run(pass: &Pass, asked: &Receiver<Ask>, fetches: &FetchSender) -> Result<(), Failure> {
    let mut batch: Vec<Fetch> = Vec::new();
    let mut bytes = 0;
    loop {
        let patience = if batch.is_empty() { LOOK_AGAIN } else { PATIENCE };
        let is_at_end = match asked.recv_timeout(patience) {
            Ok(Ask::Fetch(fetch)) => {
                bytes += weight(&fetch);
                batch.push(fetch);
                if batch.len() < BATCH && bytes < BATCH_BYTES {
                    continue;
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => {
                pass.flow.check()?;
                false
            }
            Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => true,
        };
        if !batch.is_empty() {
            fetches.blocking_send(std::mem::take(&mut batch))?;
            bytes = 0;
        }
        if is_at_end {
            return Ok(());
        }
    }
}

/// About what has to be read for it.
fn weight(fetch: &Fetch) -> u64 {
    match &fetch.what {
        What::Whole | What::Bytes | What::Held { prefixes: _ } | What::Digest => fetch.stamp.size,
        What::Range { .. } | What::Delta { .. } => RANGE_BYTES,
        What::Confirm => 0,
    }
}
