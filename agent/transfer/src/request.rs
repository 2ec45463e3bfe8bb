//! What a step asks of the source: which entries, and content of them.

use common::failure::{Failure, FailureKind};
use common::filter::Filter;
use common::rules::BackupDir;
use common::step::file::FileParams;
use sync::byte_string::ByteString;
use sync::limits::Limits;
use sync::wire::hello::{ScanRequest, Watch};

use crate::peer::{ContentReceiver, FetchSender, Source};

/// Lanes for content: the source serves each with a thread.
const CONTENT_LANES: usize = 4;

/// Returns the filter that the parameters ask for.
pub(crate) fn filter_of(params: &FileParams) -> Result<Filter, Failure> {
    let filter = Filter::new(&params.exclude, &params.include);
    let filter = filter.map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    Ok(match &params.rules.backup_dir {
        Some(backup) => filter.without(&backup.path()),
        None => filter,
    })
}

/// Returns the scan that the parameters ask for.
pub(crate) fn request_of(params: &FileParams) -> ScanRequest {
    let patterns = |patterns: &[String]| {
        patterns.iter().map(|pattern| ByteString(pattern.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    ScanRequest {
        exclude: patterns(&params.exclude),
        include: patterns(&params.include),
        limits: Limits::of(&params.rules),
        one_file_system: params.rules.one_file_system,
        copy_links: params.rules.copy_links,
        without: params.rules.backup_dir.as_ref().map(BackupDir::path),
        watch: Watch::No,
    }
}

/// Opens lanes for content and digests; with a nonce the source proves what this side may hold already.
pub(crate) async fn content_of(
    source: &Source,
    params: &FileParams,
    nonce: Option<[u8; 32]>,
) -> Result<(FetchSender, ContentReceiver), Failure> {
    match params.rules.copy_links {
        // What is reached through a link is not looked up: it is sent.
        true => source.content_through_links(CONTENT_LANES).await,
        false => source.content(CONTENT_LANES, nonce).await,
    }
}
