//! Tickets, which whoever dials may show.

use common::clock::{self, WallMs};
use common::fence::FencingToken;
use common::id::TenantId;
use common::ticket::{Direction, Ticket};
use proptest::test_runner::TestRunner;
use tests::alteration::{alterations, altered, cases};

use crate::authority::{Authority, CLUSTER};

/// What a ticket of the cluster says.
pub(crate) fn ticket(source_root: &str) -> Ticket {
    Ticket {
        cluster: CLUSTER.to_owned(),
        tenant: TenantId::default_tenant(),
        migration: "m1".parse().unwrap(),
        step: "file.copy-1".parse().unwrap(),
        source: "web1".parse().unwrap(),
        destination: "web2".parse().unwrap(),
        source_root: source_root.to_owned(),
        destination_root: "/nowhere".to_owned(),
        direction: Direction::Pull,
        token: FencingToken { epoch: 1, index: 9 },
        expires: WallMs(clock::wall().0 + 3_600_000),
        sanitize: None,
    }
}

#[test]
fn no_altered_ticket_is_signed() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let authority = Authority::new();
    let honest = ticket("/srv/shop");
    let signed = authority.tickets().sign(&honest).unwrap();
    assert_eq!(Ticket::open(&signed, &authority.certificate).as_ref(), Ok(&honest));
    let run = |alterations: Vec<_>| {
        let bytes = altered(&signed, &alterations);
        // A signature may be written in several ways; what it signs is what it was.
        if let Ok(opened) = Ticket::open(&bytes, &authority.certificate) {
            assert_eq!(opened, honest);
        }
        Ok(())
    };
    TestRunner::new(cases(2_000)).run(&alterations(), run).unwrap();
}
