//! `--json` reports: one line of canonical JSON with the report's name and version.

use std::io;

use cart_format::json;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Prints a report as `{"report":"cart.NAME/1", …}` with sorted keys. Its schema is
/// `schemas/report-NAME.json`.
pub(crate) fn print<T: Serialize>(name: &str, body: &T) -> Result<(), Failure> {
    let mut value = serde_json::to_value(body).map_err(Failure::bug)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("report".to_owned(), Value::from(format!("cart.{name}/1")));
    }
    let mut line = json::to_canonical(&value).map_err(Failure::bug)?;
    line.push(b'\n');
    stdout(&line)
}

/// Writes to stdout; a reader that went away (`cart ls | head -1`) is no error.
pub(crate) fn stdout(bytes: &[u8]) -> Result<(), Failure> {
    written(&mut io::stdout().lock(), bytes)
}

/// Writes a text with colours to stdout, without them where --color or the environment asks for none and where stdout is no
/// terminal.
pub(crate) fn coloured(text: &str) -> Result<(), Failure> {
    written(&mut anstream::stdout().lock(), text.as_bytes())
}

fn written(out: &mut impl io::Write, bytes: &[u8]) -> Result<(), Failure> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(error) => Err(Failure::refused(error)),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    stdout(format!("{text}\n").as_bytes())
}
