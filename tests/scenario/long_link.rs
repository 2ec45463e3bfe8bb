//! Agents that are far from each other.

use tests::long_link::LongLink;
use tests::{judge, tree};

#[test]
fn a_link_that_delays_loses_reorders_and_repeats_brings_everything() {
    let weather =
        ["delay=40ms", "rate=100Mbit", "loss=1%", "reorder=2%", "held=8ms", "duplicate=1%", "seed=5"];
    let Some((link, cluster)) = LongLink::between_agents(&weather) else { return };
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 400, 6_000).unwrap();
    tree::noise(&source.join("media"), 120, 60_000).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!((code, &migration["verified"]), (Some(0), &true.into()), "{migration:#}");
    assert_eq!(migration["bytes_resent"], 0, "what is lost on the way is sent again below: {migration:#}");
    judge::assert_equal(&source, &destination);
    let wire = migration["bytes_on_wire"].as_u64().unwrap();

    drop(cluster);
    let counters = link.counters();
    let brought = &counters["a_to_b"];
    let count = |what: &str| brought[what].as_u64().unwrap();
    assert!(count("taken_bytes") > wire / 2, "it went another way: {wire} bytes, {counters:#}");
    for what in ["lost", "reordered", "duplicated"] {
        assert!(count(what) > 10, "{what} was hardly met: {counters:#}");
    }
}
