//! Ports on loopback that nobody uses.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use common::failure::{Failure, FailureKind};

use crate::failure::CommandError;

/// Below what Linux gives to outgoing connections, so that no connection takes a port while its owner is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Returns ports that are free for TCP and UDP now. The search begins at a place that `seed` chooses, so that clusters
/// made at the same moment do not meet.
///
/// # Errors
/// When there are not enough.
pub(super) fn free(count: usize, seed: u64) -> Result<Vec<u16>, CommandError> {
    let width = PORTS.end - PORTS.start;
    let first = u16::try_from(seed % u64::from(width)).unwrap_or_default();
    let candidates = (0..width).map(|step| PORTS.start + (first + step) % width);
    let ports: Vec<u16> = candidates.filter(|port| is_free(*port)).take(count).collect();
    if ports.len() == count {
        return Ok(ports);
    }
    let message = format!("no {count} free ports between {} and {} on 127.0.0.1", PORTS.start, PORTS.end);
    Err(Failure::new(FailureKind::Exhausted, message).hint("end programs that listen there").into())
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_passed_over() {
        let seed = u64::from(std::process::id());
        let taken = free(1, seed).unwrap()[0];
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        let ports = free(3, seed).unwrap();
        assert_eq!(ports.len(), 3);
        assert!(!ports.contains(&held.local_addr().unwrap().port()));
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn the_search_goes_around() {
        assert_eq!(free(2, 11_999).unwrap().len(), 2);
    }
}
