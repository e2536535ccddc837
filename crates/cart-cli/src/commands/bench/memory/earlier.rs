//! Reports of earlier measurements, put together.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::outcome::Measured;
use crate::failure::Failure;

/// What a report of `cart --json bench memory` is called.
const REPORT: &str = "cart.bench-memory/1";

/// The parts of a report that are put together.
#[derive(Deserialize)]
struct Earlier {
    report: String,
    manifest: String,
    seeds: Vec<u64>,
    rows: Vec<Measured>,
    seconds: f64,
}

/// Several reports as one.
pub(super) struct Together {
    pub(super) manifest: String,
    pub(super) seeds: Vec<u64>,
    pub(super) rows: Vec<Measured>,
    pub(super) seconds: f64,
}

/// Why reports can't be put together.
#[derive(Debug, Error)]
enum Unusable {
    #[error("{file} can't be read")]
    Unreadable { file: String, source: std::io::Error },
    #[error("{file} is no report of `cart --json bench memory`")]
    NoReport { file: String, source: serde_json::Error },
    #[error("{file} is a report {found:?}; expected {REPORT:?}")]
    Other { file: String, found: String },
    #[error("{file} was measured with another cartridge or other seeds than {first}")]
    Differs { file: String, first: String },
    #[error("{file} has the row {row:?} again, which an earlier report has")]
    Twice { file: String, row: String },
}

/// Reads reports of one cartridge and the same seeds; rows come in the order of tasks.
pub(super) fn together(files: &[PathBuf]) -> Result<Together, Failure> {
    joined(files).map_err(|error| {
        Failure::refused_with(error, "--from reads what `cart --json bench memory` printed")
    })
}

fn joined(files: &[PathBuf]) -> Result<Together, Unusable> {
    let (first, more) = files.split_first().expect("the argument has at least one file");
    let Earlier { manifest, seeds, rows, seconds, .. } = read(first)?;
    let mut all = Together { manifest, seeds, rows, seconds };
    for path in more {
        let report = read(path)?;
        if report.manifest != all.manifest || report.seeds != all.seeds {
            return Err(Unusable::Differs { file: shown(path), first: shown(first) });
        }
        let known = |row: &&Measured| {
            all.rows.iter().any(|other| (other.task, &other.row) == (row.task, &row.row))
        };
        if let Some(row) = report.rows.iter().find(known) {
            return Err(Unusable::Twice { file: shown(path), row: row.row.clone() });
        }
        all.rows.extend(report.rows);
        all.seconds += report.seconds;
    }
    all.rows.sort_by_key(|row| row.task);
    Ok(all)
}

fn read(path: &Path) -> Result<Earlier, Unusable> {
    let file = shown(path);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) => return Err(Unusable::Unreadable { file, source }),
    };
    match serde_json::from_str::<Earlier>(&text) {
        Err(source) => Err(Unusable::NoReport { file, source }),
        Ok(report) if report.report != REPORT => {
            Err(Unusable::Other { file, found: report.report })
        }
        Ok(report) => Ok(report),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
