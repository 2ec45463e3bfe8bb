//! Where other agents reach this one's data port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses that are told; a dialling agent tries them beside each other.
const ADDRESSES_MAX: usize = 16;

/// Returns the addresses for a data port that listens on `listening`, best first.
///
/// A concrete address is the only one. Otherwise: what the default route would use, the other addresses of this
/// machine, and loopback last, for agents that share a machine.
pub fn data_addresses(listening: SocketAddr) -> Vec<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return vec![listening];
    }
    let v4 = ipv4_addresses(&fs::read_to_string("/proc/net/fib_trie").unwrap_or_default());
    let mut found: Vec<IpAddr> = v4.into_iter().map(IpAddr::from).collect();
    if listening.is_ipv6() {
        let v6 = ipv6_addresses(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
        found.extend(v6.into_iter().map(IpAddr::from));
    }
    ordered(found, preferred(), listening.port())
}

fn ordered(found: Vec<IpAddr>, preferred: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let mut addresses: Vec<IpAddr> = preferred.into_iter().collect();
    for address in found {
        if !address.is_loopback() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.truncate(ADDRESSES_MAX - 1);
    addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

/// Asks the kernel which address it would send from towards the world. Nothing is sent.
fn preferred() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address that is reserved for documentation: every default route covers it.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Reads the local addresses out of the kernel's routing trie: a host address is followed by `/32 host LOCAL`.
fn ipv4_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let (mut addresses, mut last) = (Vec::new(), None);
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// Reads the global addresses that are ready for use: `ADDRESS INDEX PREFIX SCOPE FLAGS NAME`, all in hex.
fn ipv6_addresses(list: &str) -> Vec<Ipv6Addr> {
    const SCOPE_GLOBAL: u32 = 0;
    // Tentative, failed duplicate detection, or deprecated.
    const UNUSABLE: u32 = 0x40 | 0x08 | 0x20;
    let address = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[address, _index, _prefix, scope, flags, _name] = fields.as_slice() else { return None };
        let is_global = u32::from_str_radix(scope, 16).ok()? == SCOPE_GLOBAL;
        let is_usable = u32::from_str_radix(flags, 16).ok()? & UNUSABLE == 0;
        let address = u128::from_str_radix(address, 16).ok()?;
        (is_global && is_usable).then(|| Ipv6Addr::from(address))
    };
    list.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concrete_address_is_the_only_one() {
        let listening = "10.0.0.5:7443".parse().unwrap();
        assert_eq!(data_addresses(listening), [listening]);
    }

    #[test]
    fn the_rest_is_ordered_with_loopback_last() {
        let addresses = data_addresses("0.0.0.0:7443".parse().unwrap());
        assert_eq!(addresses.last().map(ToString::to_string).as_deref(), Some("127.0.0.1:7443"));
        let found = ["127.0.0.1", "10.0.0.5", "192.0.2.9"].map(|address| address.parse().unwrap());
        let ordered = ordered(found.to_vec(), Some(found[2]), 7);
        let shown: Vec<_> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.9:7", "10.0.0.5:7", "127.0.0.1:7"]);
    }

    #[test]
    fn the_kernels_lists_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     \
                    |-- 10.0.0.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(ipv4_addresses(trie), [Ipv4Addr::new(10, 0, 0, 5)]);
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    20010db8000000000000000000000005 02 40 00 80     eth0\n\
                    20010db8000000000000000000000006 02 40 00 c0     eth0\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n";
        assert_eq!(ipv6_addresses(list), ["2001:db8::5".parse::<Ipv6Addr>().unwrap()]);
    }
}
