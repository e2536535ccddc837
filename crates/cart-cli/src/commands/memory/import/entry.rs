//! Files that are imported, as entries.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cart_format::json::{JsonError, from_strict};
use serde_json::{Map, Value};
use thiserror::Error;

use super::super::tags;
use crate::failure::Failure;

/// Largest file.
const MOST_BYTES: u64 = 64 << 20;
/// What a tag may be.
pub(super) const TAG: &str = "1 to 64 characters, no white space, no `#`";
/// What a validity may be.
const VALIDITY: &str = "an object with the ticks `from` and `until` and the slot `superseded_by`";
/// Fields that an import takes over.
const TAKEN: [&str; 5] = ["text", "energy", "tags", "source", "gate"];
/// Fields that an export writes and an import makes anew.
const MADE: [&str; 8] =
    ["store", "slot", "token_ids", "tick", "refreshed", "read", "count", "validity"];

/// Something to remember.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) text: String,
    /// Whether it is one slot where it fits into one.
    pub(super) whole: bool,
    /// None where it does not say.
    pub(super) energy: Option<f32>,
    pub(super) gate: f32,
    pub(super) source: String,
    pub(super) tags: Vec<String>,
    /// Whether its validity is open.
    pub(super) holds: bool,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Origin {
    path: PathBuf,
    /// From 1; none for a text file.
    line: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ": line {line}"))
    }
}

/// Why a file can't be imported.
#[derive(Debug, Error)]
pub(super) enum EntryError {
    #[error("{} can't be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} has {found} bytes; at most {MOST_BYTES} are imported from a file", path.display())]
    TooLarge { path: PathBuf, found: u64 },
    #[error("stdin has more than {MOST_BYTES} bytes; no more are imported at once")]
    LongStdin,
    #[error("{} is not UTF-8 from byte {at} on", path.display())]
    Encoding { path: PathBuf, at: usize },
    #[error("{origin}: not acceptable JSON: {why}")]
    Json { origin: Origin, why: String },
    #[error("{origin}: {found}; allowed: an object with `text`")]
    NotAnObject { origin: Origin, found: String },
    #[error("{origin}: field `{field}` is not known; known: {}, {}", TAKEN.join(", "), MADE.join(", "))]
    Unknown { origin: Origin, field: String },
    #[error("{origin}: field `{field}` is {found}; allowed: {allowed}")]
    Field { origin: Origin, field: &'static str, found: String, allowed: &'static str },
}

impl EntryError {
    /// With what to do next.
    pub(super) fn failure(self) -> Failure {
        let hint = match self {
            Self::Unreadable { .. } => "give text files and JSON Lines",
            Self::TooLarge { .. } | Self::LongStdin => "cut it into several files",
            Self::Encoding { .. } => "convert it to UTF-8",
            Self::Unknown { .. } => "--ignore-unknown passes over fields that are not known",
            Self::Json { .. } | Self::NotAnObject { .. } | Self::Field { .. } => {
                "schemas/memory-entry.json describes a line; without --jsonl, a file with another ending than .jsonl or .ndjson is text"
            }
        };
        Failure::refused_with(self, hint)
    }
}

/// How files are read.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// All as JSON Lines, whatever their endings.
    pub(super) lines: bool,
    /// Passing over fields that are not known.
    pub(super) ignore_unknown: bool,
}

/// Whether this stands for stdin.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The entries of a file, or of stdin where the path is `-`.
pub(super) fn read(path: &Path, reading: Reading) -> Result<Vec<Entry>, EntryError> {
    let (path, bytes) =
        if is_stdin(path) { (Path::new("stdin"), of_stdin()?) } else { (path, of_file(path)?) };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        EntryError::Encoding { path: path.to_owned(), at }
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_lines = reading.lines
        || path.extension().is_some_and(|ending| ending == "jsonl" || ending == "ndjson");
    if !is_lines {
        let origin = Origin { path: path.to_owned(), line: None };
        let entry = Entry {
            origin,
            text,
            whole: false,
            energy: None,
            gate: 0.0,
            source: name,
            tags: Vec::new(),
            holds: true,
        };
        return Ok(vec![entry]);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        let origin = Origin { path: path.to_owned(), line: Some(index + 1) };
        parse(origin, line, &name, reading.ignore_unknown)
    };
    lines.map(parse).collect()
}

fn of_file(path: &Path) -> Result<Vec<u8>, EntryError> {
    let unreadable = |source| EntryError::Unreadable { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(unreadable)?.len();
    if found > MOST_BYTES {
        return Err(EntryError::TooLarge { path: path.to_owned(), found });
    }
    std::fs::read(path).map_err(unreadable)
}

fn of_stdin() -> Result<Vec<u8>, EntryError> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| EntryError::Unreadable { path: "stdin".into(), source })?;
    if bytes.len() as u64 > MOST_BYTES { Err(EntryError::LongStdin) } else { Ok(bytes) }
}

fn parse(
    origin: Origin,
    line: &str,
    name: &str,
    ignore_unknown: bool,
) -> Result<Entry, EntryError> {
    let fields = match from_strict(line.as_bytes(), MOST_BYTES) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => {
            return Err(EntryError::NotAnObject { origin, found: shown(&other) });
        }
        Err(error) => return Err(EntryError::Json { origin, why: in_line(error) }),
    };
    let known = |field: &str| TAKEN.contains(&field) || MADE.contains(&field);
    if let Some(field) = fields.keys().find(|field| !ignore_unknown && !known(field)) {
        return Err(EntryError::Unknown { field: field.clone(), origin });
    }
    let given = Given { origin: &origin, fields: &fields };
    given.check_made()?;
    let text = given.of("text", "a text with a letter or a digit", |value| {
        value.as_str().filter(|text| text.contains(char::is_alphanumeric)).map(str::to_owned)
    })?;
    let Some(text) = text else {
        let (field, found) = ("text", "absent".to_owned());
        let allowed = "a text with a letter or a digit";
        return Err(EntryError::Field { origin, field, found, allowed });
    };
    Ok(Entry {
        text,
        whole: true,
        energy: given.of("energy", "a number from 0 to 1", |value| {
            value.as_f64().filter(|energy| (0.0..=1.0).contains(energy)).map(|energy| energy as f32)
        })?,
        gate: given.of("gate", "a finite number", gate)?.unwrap_or(0.0),
        source: given
            .of("source", "a text", |value| value.as_str().map(str::to_owned))?
            .unwrap_or_else(|| name.to_owned()),
        tags: given
            .of("tags", "a list of tags: 1 to 64 characters, no white space, no `#`", tag_list)?
            .unwrap_or_default(),
        holds: given.of("validity", VALIDITY, validity)?.unwrap_or(true),
        origin,
    })
}

/// What is wrong with a document that is one line of a file.
fn in_line(error: JsonError) -> String {
    let JsonError::Syntax(source) = error else { return error.to_string() };
    let text = source.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} at column {column}"),
        None => text,
    }
}

/// The fields of a line.
struct Given<'l> {
    origin: &'l Origin,
    fields: &'l Map<String, Value>,
}

impl Given<'_> {
    /// What is made anew is checked like the rest: a line that says nonsense is no export.
    fn check_made(&self) -> Result<(), EntryError> {
        for field in ["slot", "tick", "refreshed", "read", "count"] {
            self.of(field, "a whole number, 0 or more", Value::as_u64)?;
        }
        self.of("store", "\"stm\" or \"ltm\"", |value| {
            value.as_str().filter(|name| ["stm", "ltm"].contains(name)).map(str::len)
        })?;
        self.of("token_ids", "a list of whole numbers, 0 or more", |value| {
            value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()
        })?;
        Ok(())
    }

    /// A field's value; none where it is absent or null.
    fn of<T>(
        &self,
        field: &'static str,
        allowed: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, EntryError> {
        let Some(value) = self.fields.get(field).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let origin = self.origin.clone();
        let found = || shown(value);
        read(value).map(Some).ok_or_else(|| EntryError::Field {
            origin,
            field,
            found: found(),
            allowed,
        })
    }
}

fn gate(value: &Value) -> Option<f32> {
    value.as_f64().map(|gate| gate as f32).filter(|gate| gate.is_finite())
}

/// Whether it is open.
fn validity(value: &Value) -> Option<bool> {
    let fields = value.as_object()?;
    let number = |(field, value): (&String, &Value)| match field.as_str() {
        "from" => value.is_u64(),
        "until" | "superseded_by" => value.is_u64() || value.is_null(),
        _ => false,
    };
    fields.iter().all(number).then(|| fields.get("until").is_none_or(Value::is_null))
}

fn tag_list(value: &Value) -> Option<Vec<String>> {
    let tag = |tag: &Value| tag.as_str().filter(|tag| tags::is_tag(tag)).map(str::to_owned);
    value.as_array()?.iter().map(tag).collect()
}

/// A value in a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(60).chain(['…']).collect()
}
