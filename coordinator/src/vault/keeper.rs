//! An external keeper of the cluster key: a command that prints it.
//!
//! The command is a list of words from the settings; no shell reads it. It gets no input, may take ten seconds and
//! print 4 KiB. What it says on standard error goes to our own, and never into a failure: a keeper may quote the key.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::secret::Secret;

/// How long the keeper may take; it may have to ask a machine far away.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often one that has printed is looked at whether it has ended.
const END_PAUSE: Duration = Duration::from_millis(10);
/// What it may print: a few keys of 64 digits.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024;

/// Runs the keeper and returns what it printed.
///
/// # Errors
/// When it cannot be started, does not end in time, ends badly, or prints too much or no text.
pub fn ask(words: &[String]) -> Result<Secret<String>, Failure> {
    ask_within(words, DEADLINE)
}

fn ask_within(words: &[String], deadline: Duration) -> Result<Secret<String>, Failure> {
    let (program, arguments) = words.split_first().ok_or_else(|| failed("", "no program is named"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child =
        command.spawn().map_err(|error| failed(program, &format!("it cannot be started: {error}")))?;
    let end = clock::boot().after(deadline);
    let printed = read(&mut child, program, deadline);
    let ended = printed.and_then(|printed| Ok((printed, wait(&mut child, program, end, deadline)?)));
    if ended.is_err() {
        // One that has ended cannot be killed, and need not be; one that was killed ends at once.
        child.kill().ok();
        child.wait().ok();
    }
    let (printed, ended) = ended?;
    if !ended.success() {
        return Err(failed(program, &format!("it ended with {ended}")));
    }
    Ok(printed)
}

/// Waits for the end of a keeper that has closed its output: it may do so and live on.
fn wait(child: &mut Child, program: &str, end: BootTime, deadline: Duration) -> Result<ExitStatus, Failure> {
    loop {
        if let Some(ended) = child.try_wait().map_err(|error| failed(program, &error.to_string()))? {
            return Ok(ended);
        }
        if clock::boot() >= end {
            return Err(late(program, deadline));
        }
        std::thread::sleep(END_PAUSE);
    }
}

fn late(program: &str, deadline: Duration) -> Failure {
    let message = format!("it did not answer and end within {} s", deadline.as_secs());
    Failure { kind: FailureKind::Timeout, ..failed(program, &message) }
}

/// Reads all that is printed, on a thread of its own, because a pipe knows no deadline.
fn read(child: &mut Child, program: &str, deadline: Duration) -> Result<Secret<String>, Failure> {
    let output = child.stdout.take().ok_or_else(|| failed(program, "it has no output"))?;
    let (sender, receiver) = mpsc::channel();
    let reading = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        let mut text = String::new();
        let read = output.take(OUTPUT_BYTES_MAX + 1).read_to_string(&mut text);
        // Nobody listens any more when the deadline is over.
        sender.send(read.map(|_bytes| Secret::new(text))).ok();
    });
    reading.map_err(|error| Failure::of(FailureKind::Exhausted, &error))?;
    let printed = receiver.recv_timeout(deadline).map_err(|_elapsed| late(program, deadline))?;
    let printed =
        printed.map_err(|error| failed(program, &format!("what it printed is no text: {}", error.kind())))?;
    if printed.expose().len() as u64 > OUTPUT_BYTES_MAX {
        return Err(failed(program, &format!("it printed more than {OUTPUT_BYTES_MAX} bytes")));
    }
    Ok(printed)
}

fn failed(program: &str, why: &str) -> Failure {
    let message = format!("the keeper of the cluster key `{program}`: {why}");
    Failure::new(FailureKind::Invalid, message).hint(
        "run the command of `cluster_key_command` by hand as the coordinator's user; it must print the key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Secret<String>, Failure> {
        let words: Vec<String> = ["/bin/sh", "-c", script].map(str::to_owned).into();
        ask_within(&words, Duration::from_secs(5))
    }

    #[test]
    fn prints_the_key_or_says_what_is_wrong_and_never_what_was_printed() {
        assert_eq!(sh("printf abc").unwrap().expose(), "abc");
        for (script, needle) in [
            ("printf canary; exit 3", "exit status: 3"),
            ("exec sleep 60", "within 5 s"),
            ("printf canary; exec sleep 60 >&-", "within 5 s"),
            ("yes canary", "more than 4096"),
            ("printf '\\377canary'", "no text"),
        ] {
            let failure = sh(script).unwrap_err();
            assert!(failure.message.contains(needle), "{script}: {failure}");
            assert!(!failure.to_string().contains("canary") && failure.hint.is_some(), "{script}");
        }
        assert!(ask(&["/nowhere/keeper".to_owned()]).unwrap_err().message.contains("cannot be started"));
        assert!(ask(&[]).is_err());
    }
}
