//! Copies that are stopped or killed, and go on.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use common::transport::Transport;

use super::{bytes, write};
use crate::kill_point::KillPoint;
use crate::pair::{Pair, assert_same};
use crate::snapshot::snapshot;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_stopped_goes_on_where_it_stood() {
    Box::pin(stopped_copy_goes_on(Transport::Quic)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_stopped_goes_on_over_tcp_too() {
    Box::pin(stopped_copy_goes_on(Transport::Tcp)).await;
}

async fn stopped_copy_goes_on(transport: Transport) {
    let mut pair = Pair::over(transport);
    write(&pair.source_root, "large", &bytes(48 * 1024 * 1024, 1), 0o600);
    for number in 0..400 {
        write(&pair.source_root, &format!("small/{number}"), &bytes(20_000, 2), 0o600);
    }
    let mut stops = 0;
    for part in [10, 30] {
        let (mut context, _findings) = pair.context();
        // Nothing of it is committed, so it cannot end before it is stopped; the large file comes all the same.
        let kill = KillPoint::held();
        context.lease = context.lease.with_kill_point(kill.clone());
        let mut progress = pair.progress.clone();
        let running = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone());
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = async { drop(progress.wait_for(|now| now.bytes_done > part * 1024 * 1024).await) } => {
                pair.keeper().lose("the test says so");
                kill.let_go();
                running.await
            }
        };
        stops += u32::from(ended.is_err());
        pair.attempt += 1;
    }
    assert_eq!(stops, 2, "it was never stopped");
    let (output, findings) = pair.copy().await;
    assert_eq!(findings, []);
    let output = output.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "resumed");
    let content = 48 * 1024 * 1024 + 400 * 20_000;
    assert!(output.bytes_resent <= 2 * 8 * 1024 * 1024, "{} bytes came twice", output.bytes_resent);
    // What was on its way when an attempt was stopped may be uncounted: the source's last count is not waited for long.
    let uncounted = 2 * 8 * 1024 * 1024;
    assert!(output.bytes_on_wire + uncounted >= content, "all attempts count: {}", output.bytes_on_wire);
    assert!(output.bytes_on_wire <= content + content / 5 + 2 * 8 * 1024 * 1024);
    assert!(pair.verify().await.0.unwrap().is_verified);
    assert_eq!(pair.undo().await.0, Ok(0));
    assert!(!pair.destination_root.exists());
    pair.close().await;
}

/// Cuts the counters of a stage back to what they were when the last attempt began, as a kill within its first second
/// leaves them.
fn forget_last_second(destination: &Path) {
    let is_stage =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".drover-"));
    let stage =
        std::fs::read_dir(destination).unwrap().map(|entry| entry.unwrap().path()).find(is_stage).unwrap();
    let path = stage.join("counters.file.copy-1");
    let log = std::fs::read(&path).unwrap();
    let payload = u32::from_le_bytes(log[..4].try_into().unwrap());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(u64::from(payload) + 16).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_killed_attempts_have_brought_is_counted_once_and_whole() {
    let mut pair = Pair::new();
    for number in 0..60 {
        write(&pair.source_root, &format!("d{}/f{number}", number % 7), &bytes(3_000, number), 0o600);
    }
    let mut kills = 0;
    for number in [20, 45, 70, 95] {
        let (mut context, _findings) = pair.context();
        let kill = KillPoint::at(number);
        context.lease = context.lease.with_kill_point(kill.clone());
        let ended = crate::copy::run_copy(context, &pair.endpoint, pair.params.clone()).await;
        kills += u32::from(ended.is_err() && kill.was_hit());
        forget_last_second(&pair.destination_root);
        pair.attempt += 1;
    }
    assert!(kills >= 2, "it was killed {kills} times");
    let output = pair.copy().await.0.unwrap();
    assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "resumed");
    let counted = (output.files_total, output.files_sent, output.files_unchanged, output.bytes_sent);
    assert_eq!(counted, (60, 60, 0, 60 * 3_000));
    pair.attempt += 1;
    pair.close().await;
}
