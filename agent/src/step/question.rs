//! Answers to the leader's questions, each within its deadline.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::step::file::ListQuestion;
use tokio::sync::mpsc;

use super::order::{Answer, AskedFor, Question, Report};
use super::read;

/// Looking at a root reads a few directories.
const ROOT_DEADLINE: Duration = Duration::from_secs(10);
/// A preview of an undo reads its whole log and looks at every entry of it.
const PREVIEW_DEADLINE: Duration = Duration::from_secs(120);
/// Settling removes a stage, which may hold a copy of the whole tree.
const SETTLE_DEADLINE: Duration = Duration::from_secs(600);
/// A list is as long as the leader is slow.
const LIST_DEADLINE: Duration = Duration::from_secs(600);
/// One piece of a list; far below the limit of a message.
const PIECE_BYTES: usize = 256 * 1024;

/// Answers one question. The answer may be lost with its session; then it is asked again.
pub async fn answer(
    state_dir: &Path,
    session: u64,
    number: u64,
    question: Question,
    reports: mpsc::Sender<Report>,
) {
    let deadline = match question.asked_for {
        AskedFor::Root => ROOT_DEADLINE,
        AskedFor::UndoPreview => PREVIEW_DEADLINE,
        AskedFor::Settle => SETTLE_DEADLINE,
        AskedFor::List => LIST_DEADLINE,
    };
    let say = |answer| reports.send(Report::Answer { session, number, answer });
    let work = async {
        match question.asked_for {
            AskedFor::Root | AskedFor::UndoPreview | AskedFor::Settle => {
                Err(Failure::new(FailureKind::Unsupported, "this agent cannot answer that question"))
            }
            AskedFor::List => {
                let list: ListQuestion = read(&question.document)?;
                stream(list_path(state_dir, &list)?, session, number, &reports).await?;
                return Ok(None);
            }
        }
        .map(Some)
    };
    let answered = tokio::time::timeout(deadline, work).await.unwrap_or_else(|_elapsed| {
        let message = format!("the answer took longer than {} s", deadline.as_secs());
        Err(Failure::new(FailureKind::Timeout, message).hint("look whether the file system answers"))
    });
    let last = match answered {
        Ok(Some(document)) => Answer::Document(document),
        Ok(None) => Answer::Piece(Vec::new()),
        Err(failure) => Answer::Failure(failure),
    };
    // A session that is gone has nobody to tell.
    say(last).await.ok();
}

/// Returns where a list stands. Its name comes from the coordinator, so it may be nothing but a name.
fn list_path(state_dir: &Path, question: &ListQuestion) -> Result<PathBuf, Failure> {
    let ListQuestion { migration, list_file } = question;
    if !common::rel_path::is_component(list_file.as_bytes()) {
        return Err(Failure::new(FailureKind::Invalid, "the name of a list is not a plain name"));
    }
    Ok(state_dir.join("transfer").join(migration.as_str()).join(list_file))
}

/// Sends a list file piece by piece, without its end.
async fn stream(
    path: PathBuf,
    session: u64,
    number: u64,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::Exhausted,
        };
        Failure::new(kind, format!("the list cannot be read: {error}"))
    };
    let reports = reports.clone();
    let read = move || {
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
            file.by_ref().take(limit).read_to_end(&mut piece).map_err(unreadable)?;
            if piece.is_empty() {
                return Ok(());
            }
            let report = Report::Answer { session, number, answer: Answer::Piece(piece) };
            if reports.blocking_send(report).is_err() {
                return Ok(());
            }
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| Failure::of(FailureKind::Bug, &error))?
}
