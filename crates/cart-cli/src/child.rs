//! Other processes of this command: experiments need a context that is really gone.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::context::Context;
use crate::failure::Failure;

/// A child process did not do what it was started for.
#[derive(Debug, Error)]
pub(crate) enum ChildError {
    /// It ended with an exit code.
    #[error("`cart {arguments}` ended with exit code {code}: {stderr}")]
    Ended {
        /// Its arguments.
        arguments: String,
        /// Its exit code; -1 for a signal.
        code: i32,
        /// What it said.
        stderr: String,
    },
    /// It ended well, but printed nothing.
    #[error("`cart {arguments}` printed nothing")]
    Silent {
        /// Its arguments.
        arguments: String,
    },
    /// A server did not say where it listens.
    #[error("`cart serve` did not say where it listens: {said}")]
    NotListening {
        /// What it said instead.
        said: String,
    },
}

/// Runs `cart` with these arguments on the same store; gives its stdout.
pub(crate) fn cart(context: &Context, arguments: &[String]) -> Result<String, Failure> {
    let output = command(context, arguments)?.output().map_err(Failure::refused)?;
    stdout_of(arguments, &output)
}

/// The same with a text on its stdin; `None` for a command that reads nothing.
pub(crate) fn cart_reading(
    context: &Context,
    arguments: &[String],
    text: Option<&str>,
) -> Result<String, Failure> {
    let command = command(context, arguments)?;
    let output = reading(command, text, Child::wait_with_output).map_err(Failure::refused)?;
    stdout_of(arguments, &output)
}

/// How long it takes from the start of the process to its first byte on stdout, with a text on its
/// stdin or, for a command that reads nothing, without. The process may end as it likes after.
pub(crate) fn first_output(
    context: &Context,
    arguments: &[String],
    text: Option<&str>,
) -> Result<Duration, Failure> {
    let command = command(context, arguments)?;
    let began = Instant::now();
    let (found, took, output) = reading(command, text, |mut child| {
        let stdout = child.stdout.as_mut().expect("stdout was piped");
        let found = stdout.read(&mut [0])?;
        let took = began.elapsed();
        Ok((found, took, child.wait_with_output()?))
    })
    .map_err(Failure::refused)?;
    stdout_of(arguments, &output)?;
    if found == 0 {
        return Err(Failure::refused(ChildError::Silent { arguments: arguments.join(" ") }));
    }
    Ok(took)
}

/// Starts a command whose stdout and stderr are piped, and hands it to `watch` while the text is
/// written to its stdin. A pipe holds a few dozen KiB: whoever wrote a longer text first would wait
/// for a child that waits for someone to read what it says, or that never reads.
fn reading<T>(
    mut command: Command,
    text: Option<&str>,
    watch: impl FnOnce(Child) -> io::Result<T>,
) -> io::Result<T> {
    let stdin = if text.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        if let (Some(mut stdin), Some(text)) = (stdin, text) {
            // A child that does not read it says by its exit code whether that is an error.
            scope.spawn(move || stdin.write_all(text.as_bytes()));
        }
        watch(child)
    })
}

/// What it printed, if it ended well.
fn stdout_of(arguments: &[String], output: &Output) -> Result<String, Failure> {
    if !output.status.success() {
        return Err(Failure::refused(ChildError::Ended {
            arguments: arguments.join(" "),
            code: output.status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running `cart serve`, ended when dropped.
pub(crate) struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

impl Server {
    /// Starts a server for a cartridge on a free port and waits until it listens.
    pub(crate) fn start(context: &Context, reference: &str) -> Result<Self, Failure> {
        let arguments = ["serve", reference, "--listen", "127.0.0.1:0"].map(str::to_owned);
        let mut child = command(context, &arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Failure::refused)?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(Failure::refused)?;
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        let Some(url) = url.map(str::to_owned) else {
            let _ = child.kill();
            return Err(Failure::refused(ChildError::NotListening { said: line }));
        };
        Ok(Self { child, url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(context: &Context, arguments: &[String]) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Failure::refused)?);
    command.arg("--quiet").arg("--store").arg(context.store_root()?);
    if let Some(threads) = context.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    command.args(context.of_computing()).args(arguments).stdin(Stdio::null());
    Ok(command)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Longer than any pipe holds.
    const LONG: usize = 1 << 20;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_long_text_is_written_while_the_answer_is_read() {
        let text = "x".repeat(LONG);
        let output = reading(shell("cat"), Some(&text), Child::wait_with_output).unwrap();
        assert_eq!(output.stdout, text.as_bytes());
    }

    #[test]
    fn a_child_answers_before_it_has_read_anything() {
        let text = "x".repeat(LONG);
        let script = "echo first; read -r answer < \"$0\"; cat > /dev/null";
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let mut command = shell(script);
        command.arg(&gate);
        // The child reads its stdin only once its first output was seen.
        let status = reading(command, Some(&text), |mut child| {
            child.stdout.as_mut().expect("stdout was piped").read_exact(&mut [0; 6])?;
            std::fs::write(&gate, "go\n")?;
            child.wait()
        });
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_child_that_reads_nothing_has_no_text_to_wait_for() {
        let none = reading(shell("wc -c"), None, Child::wait_with_output).unwrap();
        assert_eq!(String::from_utf8(none.stdout).unwrap().trim(), "0");
        let text = "x".repeat(LONG);
        let done = reading(shell("echo done"), Some(&text), Child::wait_with_output).unwrap();
        assert_eq!(done.stdout, b"done\n");
    }
}
