//! Answers to the leader's questions, each within its deadline.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::limit::SETTLE_DEADLINE;
use common::step::file::{ListQuestion, RootQuestion, SettleQuestion, UndoQuestion};
use tokio::sync::mpsc;

use super::order::{Answer, AskedFor, Question, Report};
use super::settling::Settling;
use super::{read, write};

/// Looking at a root reads a few directories.
const ROOT_DEADLINE: Duration = Duration::from_secs(10);
/// A preview of an undo reads its whole log and looks at every entry of it; the coordinator waits a little longer.
const PREVIEW_DEADLINE: Duration = Duration::from_secs(45);
/// A list is as long as the leader is slow.
const LIST_DEADLINE: Duration = Duration::from_secs(600);
/// One piece of a list, but for the rest of its last line; far below the limit of a message.
const PIECE_BYTES: usize = 256 * 1024;

/// Answers one question. The answer may be lost with its session; then it is asked again.
pub async fn answer(
    state_dir: &Path,
    settling: &Settling,
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
    let place = state_dir.to_owned();
    let work = async {
        match question.asked_for {
            AskedFor::Root => {
                let question: RootQuestion = read(&question.document)?;
                write(&transfer::look_at_root(question).await?)
            }
            AskedFor::UndoPreview => {
                let question: UndoQuestion = read(&question.document)?;
                write(&blocking(move || transfer::undo_preview(&place, &question)).await?)
            }
            AskedFor::Settle => {
                let question: SettleQuestion = read(&question.document)?;
                let settled = settling.enter(&question.migration).await;
                let settle = move || {
                    let done = transfer::settle(&place, &question);
                    drop(settled);
                    done
                };
                write(&blocking(settle).await?)
            }
            AskedFor::List => {
                let list: ListQuestion = read(&question.document)?;
                stream(transfer::open_list(state_dir, &list)?, session, number, &reports).await?;
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

/// Runs what blocks on a thread of its own. It goes on after the deadline; what it changes is fenced.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|error| Err(Failure::of(FailureKind::Bug, &error)))
}

/// Sends a list file in pieces of whole lines, without the empty piece at its end.
async fn stream(
    list: impl Read + Send + 'static,
    session: u64,
    number: u64,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(FailureKind::Exhausted, format!("the list cannot be read: {error}"))
            .hint("look at the disk that holds the agent's state directory")
    };
    let (reports, mut list) = (reports.clone(), BufReader::new(list));
    let read = move || {
        loop {
            let mut piece = Vec::new();
            while piece.len() < PIECE_BYTES && list.read_until(b'\n', &mut piece).map_err(unreadable)? > 0 {}
            if piece.is_empty() {
                return Ok(());
            }
            let report = Report::Answer { session, number, answer: Answer::Piece(piece) };
            if reports.blocking_send(report).is_err() {
                return Ok(());
            }
        }
    };
    blocking(read).await
}

#[cfg(test)]
mod tests {
    use common::step::file::{RootAnswer, RootSide};

    use super::*;

    async fn ask(state_dir: &Path, asked_for: AskedFor, document: String) -> Vec<Answer> {
        ask_beside(&Settling::default(), state_dir, asked_for, document).await
    }

    async fn ask_beside(
        settling: &Settling,
        state_dir: &Path,
        asked_for: AskedFor,
        document: String,
    ) -> Vec<Answer> {
        let (reports, mut heard) = mpsc::channel(8);
        answer(state_dir, settling, 1, 7, Question { asked_for, document }, reports).await;
        let mut answers = Vec::new();
        while let Some(report) = heard.recv().await {
            let Report::Answer { session: 1, number: 7, answer } = report else { panic!("{report:?}") };
            answers.push(answer);
        }
        answers
    }

    #[tokio::test]
    async fn a_root_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let question = write(&RootQuestion { path, side: RootSide::Source }).unwrap();
        let answers = ask(directory.path(), AskedFor::Root, question).await;
        let [Answer::Document(document)] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(read::<RootAnswer>(document).unwrap().exists);
    }

    #[tokio::test]
    async fn a_question_of_another_version_is_refused() {
        let answers = ask(Path::new("/nowhere"), AskedFor::Settle, "{\"version\":9}".to_owned()).await;
        let [Answer::Failure(failure)] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!(failure.kind, FailureKind::Unsupported);
    }

    #[test]
    fn a_migration_is_settled_once_at_a_time() {
        // One thread, so that what was asked first is also done first.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let (directory, settling) = (tempfile::tempdir().unwrap(), Settling::default());
            let token = common::fence::FencingToken { epoch: 1, index: 1 };
            let destination_root = directory.path().join("absent").display().to_string();
            let question = |migration: &str| {
                let (migration, destination_root) = (migration.parse().unwrap(), destination_root.clone());
                write(&SettleQuestion { migration, destination_root, token, backup_dir: None }).unwrap()
            };
            let ask = |id| ask_beside(&settling, directory.path(), AskedFor::Settle, question(id));
            let under_way = settling.enter(&"m1".parse().unwrap()).await;
            let mut first = std::pin::pin!(ask("m1"));
            let other = tokio::select! {
                biased;
                answers = &mut first => panic!("it was settled beside another one: {answers:?}"),
                answers = ask("m2") => answers,
            };
            assert!(matches!(other.as_slice(), [Answer::Document(_)]), "{other:?}");
            drop(under_way);
            let answers = first.await;
            assert!(matches!(answers.as_slice(), [Answer::Document(_)]), "{answers:?}");
        });
    }

    #[tokio::test]
    async fn a_list_comes_in_whole_lines_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let text = "{\"line\":\"0123456789\"}\n".repeat(30_000);
        let (reports, mut heard) = mpsc::channel(8);
        stream(std::io::Cursor::new(text.clone()), 1, 7, &reports).await.unwrap();
        drop(reports);
        let (mut whole, mut pieces) = (Vec::new(), 0);
        while let Some(Report::Answer { answer: Answer::Piece(piece), .. }) = heard.recv().await {
            assert!(piece.ends_with(b"}\n"));
            whole.extend(piece);
            pieces += 1;
        }
        assert_eq!((whole == text.as_bytes(), pieces), (true, 3));
        let absent = write(&ListQuestion { migration: "m1".parse().unwrap(), list_file: "../x".to_owned() });
        let answers = ask(directory.path(), AskedFor::List, absent.unwrap()).await;
        assert!(matches!(answers.as_slice(), [Answer::Failure(_)]), "{answers:?}");
    }
}
