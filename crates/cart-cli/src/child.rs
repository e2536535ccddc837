//! Other processes of this command: experiments need a context that is really gone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
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

/// The same with this text on its stdin.
pub(crate) fn cart_reading(
    context: &Context,
    arguments: &[String],
    text: &str,
) -> Result<String, Failure> {
    let child = spawn_reading(context, arguments, text)?;
    stdout_of(arguments, &child.wait_with_output().map_err(Failure::refused)?)
}

/// How long it takes from the start of the process to its first byte on stdout. The process may end
/// as it likes after.
pub(crate) fn first_output(
    context: &Context,
    arguments: &[String],
    text: &str,
) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut child = spawn_reading(context, arguments, text)?;
    let stdout = child.stdout.as_mut().expect("stdout was piped");
    let found = stdout.read(&mut [0]).map_err(Failure::refused)?;
    let took = began.elapsed();
    let output = child.wait_with_output().map_err(Failure::refused)?;
    stdout_of(arguments, &output)?;
    if found == 0 {
        return Err(Failure::refused(ChildError::Silent { arguments: arguments.join(" ") }));
    }
    Ok(took)
}

fn spawn_reading(context: &Context, arguments: &[String], text: &str) -> Result<Child, Failure> {
    let mut child = command(context, arguments)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::refused)?;
    // A child that does not read it says by its exit code whether that is an error.
    let _ = child.stdin.take().expect("stdin was piped").write_all(text.as_bytes());
    Ok(child)
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
