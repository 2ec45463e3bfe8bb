//! How flows share what their hosts may send and receive. Pure.
//!
//! Max-min fair: nobody gets less so that another, who has more, gets more still. All flows are raised together; one
//! that meets its own limit, or fills a host, stays there, and the others share what is left.

use std::collections::BTreeMap;

/// Something that is sent under a limit of its own and those of the hosts that it goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow<H> {
    /// Its own limit in bytes per second.
    pub own: Option<u64>,
    /// The hosts that it goes over and that have a limit.
    pub hosts: Vec<H>,
}

/// Returns the rate of each flow, in their order; none is no limit.
pub fn share<H: Ord + Clone>(limits: &BTreeMap<H, u64>, flows: &[Flow<H>]) -> Vec<Option<u64>> {
    let mut left = limits.clone();
    let mut rates: Vec<Option<u64>> = flows.iter().map(|flow| flow.own).collect();
    // Those that no host limits are settled by their own limit.
    let mut open: Vec<usize> = (0..flows.len()).filter(|place| !flows[*place].hosts.is_empty()).collect();
    while !open.is_empty() {
        let Some((level, full)) = bottleneck(&left, flows, &open) else { break };
        let own_min = open.iter().filter_map(|place| flows[*place].own).min().filter(|own| *own <= level);
        let level = own_min.unwrap_or(level);
        let settles = |flow: &Flow<H>| match own_min {
            Some(own) => flow.own == Some(own),
            None => flow.hosts.contains(&full),
        };
        let (settled, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|place| settles(&flows[**place]));
        for place in settled {
            // Nothing at all would never end; a host that is limited to a handful of bytes gets that much more.
            rates[place] = Some(level.max(1));
            for host in &flows[place].hosts {
                left.entry(host.clone()).and_modify(|left| *left = left.saturating_sub(level));
            }
        }
        open = rest;
    }
    rates
}

/// Returns the least equal share that a host has for the flows over it that are open, and that host.
fn bottleneck<H: Ord + Clone>(
    left: &BTreeMap<H, u64>,
    flows: &[Flow<H>],
    open: &[usize],
) -> Option<(u64, H)> {
    let mut counts: BTreeMap<&H, u64> = BTreeMap::new();
    for host in open.iter().flat_map(|place| &flows[*place].hosts) {
        *counts.entry(host).or_default() += 1;
    }
    let shares = counts.into_iter().filter_map(|(host, count)| Some((left.get(host)? / count, host)));
    shares.min().map(|(share, host)| (share, host.clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(own: Option<u64>, hosts: &[&'static str]) -> Flow<&'static str> {
        Flow { own, hosts: hosts.to_vec() }
    }

    fn check(limits: &[(&'static str, u64)], flows: &[Flow<&'static str>], expected: &[Option<u64>]) {
        assert_eq!(share(&limits.iter().copied().collect(), flows), expected);
    }

    #[test]
    fn a_host_is_shared_equally() {
        check(&[("a", 90)], &[flow(None, &["a"]), flow(None, &["a"]), flow(None, &["a"])], &[Some(30); 3]);
    }

    #[test]
    fn what_one_cannot_use_the_others_get() {
        let flows = [flow(Some(10), &["a"]), flow(None, &["a"]), flow(None, &["a", "b"]), flow(None, &["b"])];
        check(&[("a", 90), ("b", 30)], &flows, &[Some(10), Some(65), Some(15), Some(15)]);
    }

    #[test]
    fn what_no_host_limits_has_its_own_limit() {
        check(
            &[("a", 90)],
            &[flow(None, &[]), flow(Some(7), &[]), flow(Some(200), &["a"])],
            &[None, Some(7), Some(90)],
        );
    }

    #[test]
    fn a_host_of_nothing_is_a_trickle() {
        check(&[("a", 1)], &[flow(None, &["a"]), flow(None, &["a"])], &[Some(1), Some(1)]);
    }

    proptest! {
        /// No host sends more than it may, nobody more than its own limit, and a flow that could have more would take
        /// it from one that has no more than it.
        #[test]
        fn shares_are_fair(
            limits in prop::collection::btree_map(0..4_u8, 100..10_000_u64, 1..4),
            wanted in prop::collection::vec(
                (prop::option::of(1..5_000_u64), prop::collection::btree_set(0..4_u8, 0..3)), 1..12),
        ) {
            let known = |hosts: &std::collections::BTreeSet<u8>| {
                hosts.iter().copied().filter(|host| limits.contains_key(host)).collect::<Vec<u8>>()
            };
            let flows: Vec<Flow<u8>> =
                wanted.iter().map(|(own, hosts)| Flow { own: *own, hosts: known(hosts) }).collect();
            let rates = share(&limits, &flows);
            let over = |host: &u8| {
                let on_host = flows.iter().zip(&rates).filter(|(flow, _)| flow.hosts.contains(host));
                on_host.map(|(_, rate)| rate.unwrap()).collect::<Vec<u64>>()
            };
            for (host, limit) in &limits {
                prop_assert!(over(host).iter().sum::<u64>() <= *limit);
            }
            for (flow, rate) in flows.iter().zip(&rates) {
                prop_assert!(flow.own.is_none_or(|own| rate.unwrap() <= own));
                let is_own = flow.own == *rate;
                // A host is full when no more than a rounded part is left of it, and this flow has the most there.
                let is_full = flow.hosts.iter().any(|host| {
                    let on_host = over(host);
                    let left = limits[host] - on_host.iter().sum::<u64>();
                    left < 12 * 12 && on_host.iter().all(|other| other <= &(rate.unwrap() + 12))
                });
                prop_assert!(is_own || is_full, "{flow:?} has {rate:?} of {limits:?}: {rates:?}");
            }
        }
    }
}
