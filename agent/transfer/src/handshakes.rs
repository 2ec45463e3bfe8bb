//! Handshakes under way at the data port: whoever has not proven yet that he belongs to the cluster, and how much of
//! them is borne.
//!
//! A few may begin at once for any address that a packet claims to come from; above that an address must prove that it
//! receives what is sent to it. Those that did are bounded too, in all and for each address, so that no host of
//! strangers keeps everybody else off the port. Who finds no room is left without an answer: he says the same again a
//! moment later, as after any lost packet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Handshakes of addresses that were not asked for a proof. Packets with false addresses take no more than these.
const UNPROVEN_MAX: usize = 8;
/// Handshakes of addresses that were proven; each costs some 50 KiB until it is given up.
const PROVEN_MAX: usize = 256;
/// Handshakes of one address. One takes a few round trips, so the agents behind one translated address take turns.
const OF_ONE_ADDRESS_MAX: usize = 8;

/// The handshakes under way; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes {
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    unproven: usize,
    proven: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// What is to be done with somebody who comes.
#[derive(Debug)]
pub(crate) enum Admission {
    /// His handshake may begin.
    Begin(Handshake),
    /// He is to prove his address first.
    Prove,
    /// There is no room for him now.
    Wait,
}

/// A handshake under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Whose, if he proved it.
    proven: Option<IpAddr>,
    handshakes: Handshakes,
}

impl Handshakes {
    /// Decides about somebody who comes from this address.
    pub(crate) fn admit(&self, address: IpAddr, is_proven: bool) -> Admission {
        let mut under_way = self.under_way();
        if under_way.unproven < UNPROVEN_MAX {
            under_way.unproven += 1;
            return Admission::Begin(Handshake { proven: None, handshakes: self.clone() });
        }
        if !is_proven {
            return Admission::Prove;
        }
        let holder = holder_of(address);
        let is_full = under_way.proven >= PROVEN_MAX;
        let of_holder = under_way.by_address.get(&holder).copied().unwrap_or(0);
        if is_full || of_holder >= OF_ONE_ADDRESS_MAX {
            return Admission::Wait;
        }
        under_way.proven += 1;
        under_way.by_address.insert(holder, of_holder + 1);
        Admission::Begin(Handshake { proven: Some(holder), handshakes: self.clone() })
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        // No change below can panic halfway.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.under_way();
        let Some(holder) = self.proven else {
            under_way.unproven -= 1;
            return;
        };
        under_way.proven -= 1;
        if let Some(count) = under_way.by_address.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                under_way.by_address.remove(&holder);
            }
        }
    }
}

/// Returns what one host may choose its addresses from: of IPv6 it has a whole network.
fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(handshakes: &Handshakes, address: &str, is_proven: bool) -> Result<Handshake, &'static str> {
        match handshakes.admit(address.parse().unwrap(), is_proven) {
            Admission::Begin(handshake) => Ok(handshake),
            Admission::Prove => Err("prove"),
            Admission::Wait => Err("wait"),
        }
    }

    fn fill(handshakes: &Handshakes, address: &str) -> Vec<Handshake> {
        std::iter::from_fn(|| admit(handshakes, address, true).ok()).take(PROVEN_MAX * 2).collect()
    }

    #[test]
    fn one_address_leaves_room_for_the_others() {
        let handshakes = Handshakes::default();
        let strangers = fill(&handshakes, "192.0.2.1");
        assert_eq!(strangers.len(), UNPROVEN_MAX + OF_ONE_ADDRESS_MAX);
        assert_eq!(admit(&handshakes, "192.0.2.1", true).unwrap_err(), "wait");
        assert_eq!(admit(&handshakes, "192.0.2.2", false).unwrap_err(), "prove");
        assert!(admit(&handshakes, "192.0.2.2", true).is_ok());
        drop(strangers);
        assert!(admit(&handshakes, "192.0.2.1", false).is_ok());
        assert_eq!(handshakes.under_way().by_address.len(), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_all_together_are_bounded() {
        let handshakes = Handshakes::default();
        let mut held = fill(&handshakes, "2001:db8::1");
        assert_eq!(admit(&handshakes, "2001:db8::2", true).unwrap_err(), "wait");
        assert_eq!(fill(&handshakes, "::ffff:192.0.2.1").len(), OF_ONE_ADDRESS_MAX);
        for network in 1..100 {
            held.extend(fill(&handshakes, &format!("2001:db8:0:{network}::1")));
        }
        assert_eq!(held.len(), UNPROVEN_MAX + PROVEN_MAX);
    }
}
