//! What this host is: asked at start and every now and then, for the coordinator and for `ctl host show`.
//!
//! A survey reads what the kernel tells and opens nothing else. What cannot be found out is left empty; a survey never
//! fails.

pub mod disk;
pub mod network;
pub mod os;

use std::net::SocketAddr;
use std::time::Duration;

use common::host::{DiskFacts, HostFacts};
use common::shutdown::Shutdown;
use common::step::StepVersion;
use tokio::sync::watch;

/// How often the host is looked at.
const INTERVAL: Duration = Duration::from_secs(60);
/// A survey that hangs, as on a dead mount, is left alone after this.
const DEADLINE: Duration = Duration::from_secs(20);
/// Free space has to change by this part of the size (in percent) to be told: every telling is a write of the cluster.
const FREE_CHANGE_PERCENT: u64 = 2;

/// What the survey is told by the agent itself.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where the data port listens, with its real number.
    pub listening: SocketAddr,
    /// What the configuration says to advertise; found by the survey when empty.
    pub advertised: Vec<SocketAddr>,
    /// The step kinds.
    pub steps: Vec<StepVersion>,
}

/// Looks at the host. Blocks for as long as the kernel takes.
pub fn look(given: &Given) -> HostFacts {
    let os::Os { machine_name, os, kernel, boot_id, cpus, memory_bytes, is_root } = os::look();
    let data_addresses = if given.advertised.is_empty() {
        network::data_addresses(given.listening)
    } else {
        given.advertised.clone()
    };
    HostFacts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_name,
        os,
        kernel,
        boot_id,
        cpus,
        memory_bytes,
        is_root,
        data_addresses,
        steps: given.steps.clone(),
        disks: disk::look(),
    }
}

/// Looks again every minute and publishes what changed, until the shutdown.
pub async fn keep_looking(given: Given, facts: watch::Sender<HostFacts>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let given = given.clone();
        let looking = tokio::task::spawn_blocking(move || look(&given));
        let Ok(Ok(found)) = tokio::time::timeout(DEADLINE, looking).await else {
            // One thread hangs in the kernel; another survey would only take a second one.
            tracing::warn!("the survey of this host hangs and is not repeated; a mount may be dead");
            return;
        };
        facts.send_if_modified(|known| {
            let is_news = is_news(known, &found);
            if is_news {
                *known = found;
            }
            is_news
        });
    }
}

/// Whether a survey says something that is worth telling.
fn is_news(known: &HostFacts, found: &HostFacts) -> bool {
    let without_disks = |facts: &HostFacts| HostFacts { disks: Vec::new(), ..facts.clone() };
    let is_other = |(known, found): (&DiskFacts, &DiskFacts)| {
        let threshold = known.size_bytes / 100 * FREE_CHANGE_PERCENT;
        let same_but_free =
            DiskFacts { free_bytes: known.free_bytes, free_inodes: known.free_inodes, ..found.clone() };
        same_but_free != *known || known.free_bytes.abs_diff(found.free_bytes) > threshold
    };
    without_disks(known) != without_disks(found)
        || known.disks.len() != found.disks.len()
        || known.disks.iter().zip(&found.disks).any(is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_found() {
        let given =
            Given { listening: "127.0.0.1:4711".parse().unwrap(), advertised: Vec::new(), steps: Vec::new() };
        let facts = look(&given);
        assert!(facts.cpus >= 1 && facts.memory_bytes > 0);
        assert!(!facts.boot_id.is_empty() && !facts.kernel.is_empty());
        assert_eq!(facts.data_addresses, [given.listening]);
        assert!(!facts.disks.is_empty());
        let advertised = vec!["192.0.2.7:7443".parse().unwrap()];
        assert_eq!(look(&Given { advertised: advertised.clone(), ..given }).data_addresses, advertised);
    }

    #[test]
    fn small_changes_of_free_space_are_no_news() {
        let disk = DiskFacts {
            mount_point: "/".to_owned(),
            fs_type: "ext4".to_owned(),
            size_bytes: 100_000,
            free_bytes: 50_000,
            free_inodes: 9,
            is_read_only: false,
        };
        let with = |disk: DiskFacts| HostFacts { disks: vec![disk], ..HostFacts::default() };
        let known = with(disk.clone());
        assert!(!is_news(&known, &known));
        assert!(!is_news(&known, &with(DiskFacts { free_bytes: 49_000, free_inodes: 8, ..disk.clone() })));
        assert!(is_news(&known, &with(DiskFacts { free_bytes: 40_000, ..disk.clone() })));
        assert!(is_news(&known, &with(DiskFacts { is_read_only: true, ..disk })));
        assert!(is_news(&known, &HostFacts { cpus: 5, ..known.clone() }));
    }
}
