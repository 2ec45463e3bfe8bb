//! The audit outside of the state: pages as files, refusals before they are lines, anchors, and reading it all again.
//!
//! ```text
//! a refused call ── Refusals (bounded) ── once a second ──> Command::Refused, by the leader
//! the state: lines ── Close ──> page ── every node's keeper ──> audit/page-….jsonl ── reported by hash ──> Leave
//! every few minutes: the leader signs the head ──> a file, a webhook
//! ```
//!
//! A page's lines leave the state only once a quorum has them on disk, and a node that was away fetches what it lacks
//! from another and checks it against the hash in the state. A file that was altered is never mended by itself: it is
//! what `ctl audit verify` is there to find. When nothing can be written any more, changes are refused.

pub mod anchor;
pub mod exchange;
pub mod keeper;
pub mod pages;
pub mod read;
pub mod refusals;
pub mod room;
pub mod settings;
pub mod turn;
pub mod verify;
pub mod webhook;

use std::path::Path;
use std::sync::Arc;

use common::failure::{Failure, FailureKind};

use crate::hub::Hub;
use pages::PageFiles;
use refusals::Refusals;
use room::Room;
use settings::AuditSettings;

/// What a node keeps for the audit.
#[derive(Debug)]
pub struct NodeAudit {
    /// Pages as files.
    pub files: PageFiles,
    /// What was refused and is no line yet.
    pub refusals: Arc<Refusals>,
    /// Whether there is room for another line.
    pub room: Room,
    /// How it is set.
    pub settings: AuditSettings,
}

impl NodeAudit {
    /// Opens what is in a state directory.
    ///
    /// # Errors
    /// When the directory of pages cannot be made, or the settings do not fit.
    pub fn open(state_dir: &Path, settings: &AuditSettings) -> Result<Self, Failure> {
        settings.check()?;
        let files = PageFiles::open(state_dir).map_err(|error| {
            Failure::of(FailureKind::Invalid, &error)
                .context("directory", state_dir.join("audit").display().to_string())
        })?;
        let room = Room::new(state_dir.to_owned());
        Ok(Self { files, refusals: Arc::default(), room, settings: settings.clone() })
    }
}

/// Runs everything that the audit does by itself on a node, until the shutdown.
pub fn spawn(hub: &Arc<Hub>) {
    hub.shutdown.spawn(keeper::run(Arc::clone(hub)));
    hub.shutdown.spawn(turn::run(Arc::clone(hub)));
    hub.shutdown.spawn(refusals::run(Arc::clone(hub)));
    hub.shutdown.spawn(anchor::run(Arc::clone(hub)));
}
