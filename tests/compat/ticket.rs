//! Tickets, which agents of one version show to agents of another.

use common::clock::WallMs;
use common::ticket::{InvalidTicket, Ticket};
use coordinator::pki::authority::Authority;
use rustls::pki_types::CertificateDer;

use crate::fixture;
use crate::sample::ticket;

#[test]
fn fixtures_of_tickets_are_read() {
    let (certificate, key) = Authority::create("c1", WallMs(1_700_000_000_000)).unwrap();
    let authority = Authority::open("c1", &certificate, &key).unwrap();
    let signed = authority.ticket_key().unwrap().sign(&ticket()).unwrap();
    // Both are of one key, so they are written together.
    let certificate = fixture("1/authority.der", || certificate.to_vec());
    let mut bytes = fixture("1/ticket.bin", || signed);
    let certificate = CertificateDer::from(certificate);
    assert_eq!(Ticket::open(&bytes, &certificate), Ok(ticket()));
    bytes[0] = 250;
    assert_eq!(Ticket::open(&bytes, &certificate), Err(InvalidTicket::Newer(250)));
}
