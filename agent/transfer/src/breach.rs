//! What a source says that the protocol does not allow.
//!
//! The source is an agent of the same cluster, so it is one of three things: of another version, at fault, or not what
//! it says it is. Which one, this side cannot know; it believes nothing of it and names the host.

use common::failure::{Failure, FailureKind};
use common::rel_path::escape;

use crate::context::Peer;

/// The longest text of a peer that is shown.
const TEXT_BYTES_MAX: usize = 1024;
/// Stands for the host until somebody who knows its name writes it there.
const NAMELESS: &str = "the source";

/// Makes the failure of a step whose source broke the protocol.
pub(crate) fn breach(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Bug, format!("the source broke the data protocol: {what}"))
        .context("host", NAMELESS)
        .hint("Nothing of it was believed. Bring both agents to the same version; if they are, look whether the source host is still yours, and report this with both agents' logs.")
}

/// Names the source in a failure that says that it broke the protocol.
pub(crate) fn name_source(mut failure: Failure, peer: &Peer) -> Failure {
    let nameless = failure.context.iter_mut().find(|(field, value)| field == "host" && value == NAMELESS);
    if let Some((_, value)) = nameless {
        *value = peer.host.to_string();
    }
    failure
}

/// Returns a peer's text as it may be shown: its control characters cannot reach a terminal, and it is not endless.
pub(crate) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    let dots = if end < text.len() { "…" } else { "" };
    escape(&text.as_bytes()[..end]) + dots
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_peers_text_is_short_and_harmless() {
        assert_eq!(shown("a\u{1b}]0;x\u{7}"), "a\\u{1b}]0;x\\u{7}");
        let long = shown(&"ä".repeat(2000));
        assert!(long.len() < 1100 && long.ends_with('…'), "{}", long.len());
    }
}
