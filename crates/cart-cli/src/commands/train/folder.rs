//! A run's folder: its checkpoint, and what it said, step by step.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cart_store::RefName;
use cart_train::{Checkpoint, TrainError};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// The name of a run folder's log.
pub(super) const LOG: &str = "log.jsonl";

/// A run's folder.
pub(super) struct RunFolder {
    path: PathBuf,
    log: File,
}

impl RunFolder {
    /// Makes the folder where it is not there. Of the log of a run that goes on, what came after its
    /// checkpoint is dropped: it is done again.
    ///
    /// * `steps`: of the checkpoint
    pub(super) fn open(path: &Path, steps: u64) -> Result<Self, Failure> {
        let log = path.join(LOG);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Failure::refused(TrainError::File { path, action, source })
        };
        fs::create_dir_all(path).map_err(failed("written", path))?;
        let before = match fs::read_to_string(&log) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read", &log)(error)),
        };
        let kept: String = before
            .lines()
            .filter(|line| is_within(line, steps))
            .fold(String::new(), |kept, line| kept + line + "\n");
        fs::write(&log, kept).map_err(failed("written", &log))?;
        let opened = OpenOptions::new().append(true).open(&log).map_err(failed("written", &log))?;
        Ok(Self { path: path.to_owned(), log: opened })
    }

    /// Where the folder of a run is where nobody says.
    pub(super) fn usual(name: &RefName) -> PathBuf {
        Path::new(".").join(format!("train-{}", name.to_string().replace([':', '/'], "-")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to the log.
    pub(super) fn say(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(line).map_err(Failure::bug)?;
        writeln!(self.log, "{line}").map_err(|source| {
            let path = self.path.join(LOG);
            Failure::refused(TrainError::File { path, action: "written", source })
        })
    }

    /// The checkpoint of a folder, if it has one.
    pub(super) fn checkpoint(path: &Path) -> Result<Option<Checkpoint>, Failure> {
        Checkpoint::read(path).map_err(Failure::refused)
    }
}

/// Whether a line is of a step that a checkpoint has.
fn is_within(line: &str, steps: u64) -> bool {
    let value: Result<Value, _> = serde_json::from_str(line);
    value.is_ok_and(|value| value["step"].as_u64().is_some_and(|step| step <= steps))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_is_continued_where_the_checkpoint_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let mut folder = RunFolder::open(&path, 0).unwrap();
        (1..=5).for_each(|step| folder.say(&json!({ "step": step })).unwrap());
        write!(folder.log, "{{\"step\": 6, cut").unwrap();
        RunFolder::open(&path, 3).unwrap().say(&json!({ "step": 4, "again": true })).unwrap();
        let log = fs::read_to_string(path.join(LOG)).unwrap();
        assert_eq!(log.lines().count(), 4);
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last, json!({ "step": 4, "again": true }));
    }
}
