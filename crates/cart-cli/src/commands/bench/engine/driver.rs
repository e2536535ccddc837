//! Running one job of one engine in a process of its own, and reading what it says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use thiserror::Error;

/// A line of a driver. `scripts/rivals/README.md` describes them.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Engine { engine: String, version: String },
    Measure { what: String, tokens: usize, seconds: f64 },
    First,
    Absent,
    Done,
}

/// Why a job has no result.
#[derive(Debug, Error)]
pub(crate) enum DriverError {
    /// The system refused.
    #[error("it can't be run: {0}")]
    Run(#[from] std::io::Error),
    /// It took too long and was ended.
    #[error("it was ended after {0} s; --limit allows more")]
    TimedOut(u64),
    /// It ended before it said `done`.
    #[error("it ended early ({status}): {said}")]
    Ended { status: String, said: String },
    /// It said something else than a line of the protocol.
    #[error("it said `{0}`, which is no line of the protocol")]
    Unreadable(String),
}

/// Tokens in a time.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) what: String,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
}

/// What one job gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The engine's name and version, by its own words.
    pub(crate) engine: Option<(String, String)>,
    pub(crate) measures: Vec<Measure>,
    /// From the start of the process to its first token.
    pub(crate) first: Option<Duration>,
    /// Most memory that the process held, in bytes; only on Linux.
    pub(crate) peak: Option<u64>,
}

/// How a job shows its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Lines of the protocol.
    Lines,
    /// Plain text, whose first byte is the first token.
    Text,
}

/// Runs a job until it says that it is done, at most for `limit`.
pub(crate) fn run(
    mut command: Command,
    speech: Speech,
    limit: Duration,
) -> Result<Outcome, DriverError> {
    let mut stderr = tempfile::tempfile()?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().expect("stdout was piped");
    let result = match speech {
        Speech::Lines => follow(&mut child, stdout, began, limit),
        Speech::Text => first_byte(stdout, began),
    };
    drop(child.stdin.take());
    if result.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    match result? {
        Some(outcome) => Ok(outcome),
        None => {
            Err(DriverError::Ended { status: status.to_string(), said: last_words(&mut stderr)? })
        }
    }
}

/// Reads lines until `done`; none if the process ended before.
fn follow(
    child: &mut Child,
    stdout: ChildStdout,
    began: Instant,
    limit: Duration,
) -> Result<Option<Outcome>, DriverError> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if sender.send((began.elapsed(), line)).is_err() {
                break;
            }
        }
    });
    let mut outcome = Outcome::default();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        let (at, line) = match lines.recv_timeout(left) {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) => return Err(DriverError::TimedOut(limit.as_secs())),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        };
        let line = line?;
        match serde_json::from_str(&line) {
            Ok(Line::Engine { engine, version }) => outcome.engine = Some((engine, version)),
            Ok(Line::Measure { what, tokens, seconds }) => {
                outcome.measures.push(Measure { what, tokens, seconds });
            }
            Ok(Line::First) => outcome.first = Some(at),
            Ok(Line::Absent) => {}
            Ok(Line::Done) => {
                outcome.peak = peak_memory(child.id());
                return Ok(Some(outcome));
            }
            Err(_) => return Err(DriverError::Unreadable(line.chars().take(200).collect())),
        }
    }
}

/// Times the first byte of a text.
fn first_byte(mut stdout: ChildStdout, began: Instant) -> Result<Option<Outcome>, DriverError> {
    let mut byte = [0];
    if stdout.read(&mut byte)? == 0 {
        return Ok(None);
    }
    let first = Some(began.elapsed());
    stdout.read_to_end(&mut Vec::new())?;
    Ok(Some(Outcome { first, ..Outcome::default() }))
}

/// Peak resident memory of a living process. Not `ru_maxrss`: that begins at what the parent held
/// when it forked.
fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

fn last_words(stderr: &mut File) -> Result<String, std::io::Error> {
    let mut said = Vec::new();
    stderr.rewind()?;
    stderr.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    Ok(last.trim().chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_driver_is_read_until_it_is_done() {
        let script = r#"echo '{"event":"engine","engine":"x","version":"1"}'
            echo '{"event":"measure","what":"decode","tokens":4,"seconds":0.5}'
            echo '{"event":"first"}'; echo '{"event":"done"}'; cat > /dev/null"#;
        let outcome = run(shell(script), Speech::Lines, LIMIT).unwrap();
        assert_eq!(outcome.engine, Some(("x".to_owned(), "1".to_owned())));
        let [measure] = outcome.measures.as_slice() else { panic!("{:?}", outcome.measures) };
        assert_eq!((measure.what.as_str(), measure.tokens, measure.seconds), ("decode", 4, 0.5));
        assert!(outcome.first.is_some());
        assert_eq!(outcome.peak.is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let ended = run(shell("echo 'no such model' >&2; exit 3"), Speech::Lines, LIMIT);
        let Err(DriverError::Ended { status, said }) = ended else { panic!("{ended:?}") };
        assert!(status.contains('3') && said == "no such model", "{status}: {said}");
        let odd = run(shell("echo hello; sleep 20"), Speech::Lines, LIMIT);
        assert!(matches!(odd, Err(DriverError::Unreadable(line)) if line == "hello"));
        let slow = run(shell("exec sleep 20"), Speech::Lines, Duration::from_millis(50));
        assert!(matches!(slow, Err(DriverError::TimedOut(0))));
        let silent = run(shell("true"), Speech::Text, LIMIT);
        assert!(matches!(silent, Err(DriverError::Ended { .. })));
    }

    #[test]
    fn the_first_byte_of_a_text_is_the_first_token() {
        let outcome = run(shell("printf ' Paris'"), Speech::Text, LIMIT).unwrap();
        assert!(outcome.first.is_some() && outcome.measures.is_empty());
    }
}
