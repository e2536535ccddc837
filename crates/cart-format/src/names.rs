//! Names of tensors, checked once.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::limits::NAME_BYTES;

/// Why a text is not a tensor name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// A name has at least one character.
    #[error("a tensor has an empty name")]
    Empty,
    /// The name is over the limit.
    #[error("tensor name `{start}…` has {bytes} bytes; allowed: {NAME_BYTES}")]
    TooLong {
        /// Its first characters.
        start: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Control characters break terminals and logs.
    #[error("tensor name {name:?} has a control character")]
    Control {
        /// The name.
        name: String,
    },
    /// `..` reads as a path to a parent folder.
    #[error("tensor name `{name}` has `..` in it")]
    ParentPath {
        /// The name.
        name: String,
    },
    /// Taken by safetensors.
    #[error("tensor name `__metadata__` is reserved by safetensors")]
    Reserved,
}

/// A tensor's name: 1 to 512 bytes of UTF-8 without control characters or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TensorName(String);

impl TensorName {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is empty, too long, reserved, or has a control character or `..`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_BYTES {
            let start = name.chars().take(40).collect();
            return Err(NameError::TooLong { start, bytes: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::Control { name });
        }
        if name.contains("..") {
            return Err(NameError::ParentPath { name });
        }
        if name == "__metadata__" {
            return Err(NameError::Reserved);
        }
        Ok(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TensorName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TensorName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
