//! The log of a ref: one JSON line for each change, oldest first.

use cart_format::CommitId;
use serde::{Deserialize, Serialize};

use crate::file_error::{At as _, FileError};
use crate::ref_name::RefName;
use crate::store::Store;

/// A change of a ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Seconds since 1970-01-01 UTC, as the caller said.
    pub time: u64,
    /// What it pointed to; absent when it was new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<CommitId>,
    /// What it points to since; absent when it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<CommitId>,
    /// Why, in words.
    pub message: String,
}

/// A log as it lies in the file.
#[derive(Debug, Default)]
pub(crate) struct RawLog {
    /// Lines that can be read.
    pub(crate) entries: Vec<LogEntry>,
    /// Numbers of lines that can't, from 1. A last line without a newline is not among them: a
    /// crash leaves such a one, and the next change cuts it off.
    pub(crate) damaged: Vec<usize>,
}

impl RawLog {
    /// A line is written before the ref changes, so a crash can leave one for a change that never
    /// happened. A change happened if the next one, or the ref itself, begins where it ended.
    pub(crate) fn effective(self, now: Option<CommitId>) -> Vec<LogEntry> {
        let mut expected = now;
        let mut kept = Vec::new();
        for entry in self.entries.into_iter().rev() {
            if entry.new == expected {
                expected = entry.old;
                kept.push(entry);
            }
        }
        kept.reverse();
        kept
    }
}

impl LogEntry {
    /// The line, with its newline.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("ids, numbers and text have a JSON form");
        line.push(b'\n');
        line
    }
}

impl Store {
    pub(crate) fn raw_log(&self, name: &RefName) -> Result<RawLog, FileError> {
        let path = self.layout.log(name);
        let bytes = match std::fs::read(&path).at("read", &path) {
            Err(error) if error.is_missing() => return Ok(RawLog::default()),
            read => read?,
        };
        let mut log = RawLog::default();
        for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let Some(line) = line.strip_suffix(b"\n") else { break };
            match serde_json::from_slice(line) {
                Ok(entry) => log.entries.push(entry),
                Err(_) => log.damaged.push(number + 1),
            }
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 32])
    }

    fn entry(old: Option<u8>, new: Option<u8>) -> LogEntry {
        LogEntry { time: 0, old: old.map(id), new: new.map(id), message: String::new() }
    }

    #[test]
    fn a_line_whose_change_never_happened_is_left_out() {
        let entries = vec![entry(None, Some(1)), entry(Some(1), Some(9)), entry(Some(1), Some(2))];
        let log = RawLog { entries, damaged: vec![] };
        assert_eq!(log.effective(Some(id(2))), [entry(None, Some(1)), entry(Some(1), Some(2))]);
    }

    #[test]
    fn deletion_and_rebirth_are_kept() {
        let entries = vec![entry(None, Some(1)), entry(Some(1), None), entry(None, Some(2))];
        let log = RawLog { entries: entries.clone(), damaged: vec![] };
        assert_eq!(log.effective(Some(id(2))), entries);
    }
}
