//! History: a commit says which manifest, what came before it, when, why and how (spec 40).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::digest::{CommitId, ManifestId};
use crate::json::{self, JsonError};
use crate::limits::COMMIT_BYTES;
use crate::manifest::{FORMAT_VERSION, Version};

/// Why bytes are not a commit.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Not a canonical document.
    #[error("the commit is damaged or foreign: {0}")]
    Json(#[from] JsonError),
    /// A major version of the future.
    #[error("the commit has format version {found}; this cart reads up to {}.x: update cart", FORMAT_VERSION.major)]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// A field is missing or of the wrong type.
    #[error("the commit does not fit its schema: {0}")]
    Schema(#[source] serde_json::Error),
}

/// A point in the history of a cartridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The format version.
    pub cart: Version,
    /// The content.
    pub manifest: ManifestId,
    /// What it was made from: none for an import, two for a merge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<CommitId>,
    /// Seconds since 1970-01-01 UTC.
    pub time: u64,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What made it.
    pub recipe: Recipe,
    /// Golden probes: prompts with what the model answered when they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// What made a cartridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// `import`, `run`, `chat`, `probe`, `merge`, `train`, …
    pub kind: String,
    /// Everything needed to do it again: tool version, seed, options, ids of inputs.
    #[serde(flatten)]
    pub details: BTreeMap<String, Value>,
}

/// A prompt and the model's answer to it, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The raw prompt.
    pub prompt: String,
    /// Its token ids.
    pub token_ids: Vec<u32>,
    /// The best tokens at the first and the following greedy steps.
    pub steps: Vec<ProbeStep>,
    /// How far a log-probability may move, in nats, before the probe fails.
    pub tolerance: f64,
}

/// The best tokens at one step, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStep {
    /// The tokens, best first.
    pub top: Vec<TokenLogprob>,
}

/// A token and its natural-log probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's id.
    pub token: u32,
    /// ln p, in nats.
    pub logprob: f64,
}

impl Commit {
    /// A commit of this version without parents, message or probes.
    pub fn new(manifest: ManifestId, time: u64, recipe: Recipe) -> Self {
        Self {
            cart: FORMAT_VERSION,
            manifest,
            parents: Vec::new(),
            time,
            message: String::new(),
            recipe,
            probes: Vec::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Reads a commit from its canonical bytes.
    ///
    /// # Errors
    /// Not canonical, of a newer major version, or not of the schema.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CommitError> {
        let value = json::from_canonical(bytes, COMMIT_BYTES)?;
        let commit: Self = serde_json::from_value(value).map_err(CommitError::Schema)?;
        if commit.cart.major > FORMAT_VERSION.major {
            return Err(CommitError::NewerMajor { found: commit.cart });
        }
        Ok(commit)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A number has no canonical form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CommitError> {
        Ok(json::to_canonical(self)?)
    }

    /// SHA-256 of [`Commit::to_bytes`].
    ///
    /// # Errors
    /// As [`Commit::to_bytes`].
    pub fn id(&self) -> Result<CommitId, CommitError> {
        Ok(CommitId::of(&self.to_bytes()?))
    }
}

impl Recipe {
    /// A recipe of a kind, with nothing else said.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), details: BTreeMap::new() }
    }

    /// The same recipe with one more detail.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}
