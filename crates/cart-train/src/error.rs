//! Why training stopped, or did not begin.

use std::path::PathBuf;

use cart_format::arch::ArchError;
use cart_nn::ForwardError;
use cart_nn::graph::{GraphLoadError, StepError, TensorError};
use cart_store::{IngestError, ObjectError};
use thiserror::Error;

use crate::distill::DistillError;

/// Why training stopped, or did not begin. What a run had saved is still there.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Nothing was given to learn from.
    #[error("there is no data: {} is empty; give text", path.display())]
    NoData {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to be taught.
    #[error("there are no lessons: every text was held out, or none says anything; give more")]
    NoLessons,
    /// Memory layers can't be made.
    #[error(transparent)]
    MemoryLayers(#[from] cart_nn::graph::MemoryLayerError),
    /// The data does not fill a sequence.
    #[error(
        "{what} has {found} tokens, but a sequence takes {needed}; give more text, or a shorter context"
    )]
    ShortData {
        /// Which part of the data.
        what: &'static str,
        /// Its tokens.
        found: usize,
        /// Tokens of a sequence.
        needed: usize,
    },
    /// A number that nothing can be learned with.
    #[error("{option} is {found}; allowed: {allowed}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// There is nothing to train.
    #[error("the recipe trains nothing: every tensor is frozen; name one to train")]
    Frozen,
    /// A tensor that should learn does not.
    #[error(
        "`{name}` is to be trained, but the loss does not depend on it: its gradient is 0 in the first step"
    )]
    NoGradient {
        /// The tensor.
        name: String,
    },
    /// A number is infinite or none.
    #[error(
        "the run is not finite at step {step}: {seen}; go on from the last checkpoint with a lower learning rate"
    )]
    NotFinite {
        /// The step, which counts from 1.
        step: u64,
        /// Where it was seen first: the loss, a gradient, a tensor.
        seen: String,
    },
    /// A file can't be read or written.
    #[error("{} can't be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint's bytes are not those of a checkpoint.
    #[error("{} is no checkpoint that this cart can read: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A checkpoint was made by other work.
    #[error(
        "{} is of another recipe: {field} is {found} there, {expected} here; take another run folder, or the options that it was begun with",
        path.display()
    )]
    OtherRecipe {
        /// The file.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// Its value there.
        found: String,
        /// Its value here.
        expected: String,
    },
    /// A tokenizer can't be fitted, or can't read a text.
    #[error("the tokenizer failed")]
    Tokenizer(#[from] Box<dyn std::error::Error + Send + Sync>),
    /// Tokens are pieces of text, and a file is none.
    #[error(
        "{} is no text: its byte {at} is not UTF-8; leave --bpe out, so that tokens are bytes",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first byte that is wrong.
        at: usize,
    },
    /// A student can't learn from its teacher.
    #[error(transparent)]
    Distill(#[from] DistillError),
    /// The architecture contradicts itself.
    #[error(transparent)]
    Architecture(#[from] ArchError),
    /// The model can't be made.
    #[error(transparent)]
    Graph(#[from] GraphLoadError),
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] TensorError),
    /// The store did not take a blob.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The store did not take the manifest.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl TrainError {
    /// What a step refused, at step `step`, which counts from 1.
    pub(crate) fn of_step(step: u64, error: StepError) -> Self {
        match error {
            StepError::NotFinite { name } => {
                Self::NotFinite { step, seen: format!("the gradient of `{name}`") }
            }
            StepError::Tensor(error) => Self::Tensor(error),
        }
    }
}
