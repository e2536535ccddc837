//! Why a merge was not carried out.

use std::error::Error;

use thiserror::Error;

/// What a source of tensors or a sink says.
pub type Trouble = Box<dyn Error + Send + Sync>;

/// Why a merge was not carried out. Nothing lasting is left, as the sink keeps to its part.
#[derive(Debug, Error)]
pub enum MergeError {
    /// An input can't be read.
    #[error("tensor `{tensor}` can't be read: {source}")]
    Source {
        /// The tensor.
        tensor: String,
        /// What the source of tensors said.
        source: Trouble,
    },
    /// The output can't be written.
    #[error("tensor `{tensor}` can't be written: {source}")]
    Sink {
        /// The tensor.
        tensor: String,
        /// What the sink said.
        source: Trouble,
    },
    /// The watch said so.
    #[error("cancelled; nothing was added")]
    Cancelled,
    /// The method has no result for these numbers.
    #[error(
        "the inputs of tensor `{tensor}` cancel each other out under multislerp; give other weights, or another method for it"
    )]
    Antipodal {
        /// The tensor.
        tensor: String,
    },
    /// A value of the result is infinite or no number.
    #[error(
        "element {element} of the merged tensor `{tensor}` is not finite; a wider dtype (float32) or smaller weights avoid that"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Its index in C order.
        element: u64,
    },
}
