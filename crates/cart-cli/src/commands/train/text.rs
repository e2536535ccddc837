//! Texts that are learned from.

use std::path::PathBuf;

use cart_format::BlobId;
use cart_train::TrainError;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Reads texts, none of which is empty.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
    let one = |path: &PathBuf| {
        let failed = |source| TrainError::File { path: path.clone(), action: "read", source };
        let text = std::fs::read(path).map_err(|error| Failure::refused(failed(error)))?;
        if text.is_empty() {
            return Err(Failure::refused(TrainError::NoData { path: path.clone() }));
        }
        Ok(text)
    };
    paths.iter().map(one).collect()
}

/// What a recipe says of texts: what they are, not where they were.
pub(super) fn described(texts: &[Vec<u8>]) -> Value {
    let text = |text: &Vec<u8>| json!({ "sha256": BlobId::of(text).hex(), "bytes": text.len() });
    texts.iter().map(text).collect()
}
