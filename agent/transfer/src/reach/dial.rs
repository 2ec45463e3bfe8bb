//! Dialling the addresses of one peer: each a moment after the one before, and the first that works wins.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

/// Between two addresses: the round trip of a far peer. An address that fails makes room for the next at once.
const STAGGER: Duration = Duration::from_millis(250);
/// For each address: three losses of a packet on a slow path.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses that are dialled; as many as a survey names.
const ADDRESSES_MAX: usize = 16;

/// Dials the addresses, best first; the others are given up as soon as one answers. Returns why each failed.
pub(crate) async fn first<T, F, Fut>(addresses: &[SocketAddr], dial: F) -> Result<T, Vec<String>>
where
    F: Fn(SocketAddr) -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let mut waiting = addresses.iter().copied().take(ADDRESSES_MAX);
    let (mut dialled, mut reasons) = (FuturesUnordered::new(), Vec::new());
    let (mut next, mut is_more) = (Instant::now(), true);
    loop {
        tokio::select! {
            biased;
            Some(outcome) = dialled.next() => match outcome {
                Ok(found) => return Ok(found),
                Err(reason) => {
                    reasons.push(reason);
                    next = Instant::now();
                }
            },
            () = tokio::time::sleep_until(next), if is_more => match waiting.next() {
                Some(address) => {
                    let dialling = dial(address);
                    dialled.push(async move {
                        match tokio::time::timeout(DIAL_DEADLINE, dialling).await {
                            Ok(Ok(found)) => Ok(found),
                            Ok(Err(reason)) => Err(format!("{address}: {reason}")),
                            Err(_elapsed) => Err(format!("{address}: no answer")),
                        }
                    });
                    next = Instant::now() + STAGGER;
                }
                None => is_more = false,
            },
            else => return Err(reasons),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect()
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let addresses = addresses(3);
        let found = first(&addresses, |address| async move {
            match address.port() {
                3 => Ok(address.port()),
                _ => std::future::pending().await,
            }
        });
        assert_eq!(found.await, Ok(3));
    }

    #[tokio::test]
    async fn what_fails_makes_room_and_every_reason_is_kept() {
        let (dialled, addresses) = (Mutex::new(Vec::new()), addresses(40));
        let found = first::<(), _, _>(&addresses, |address| {
            dialled.lock().unwrap().push(address.port());
            std::future::ready(Err("refused".to_owned()))
        });
        let reasons = found.await.unwrap_err();
        assert_eq!(*dialled.lock().unwrap(), (1..=16).collect::<Vec<_>>());
        assert_eq!((reasons.len(), reasons[0].as_str()), (16, "192.0.2.1:1: refused"));
        assert_eq!(first::<(), _, _>(&[], |_| std::future::ready(Err(String::new()))).await, Err(Vec::new()));
    }
}
