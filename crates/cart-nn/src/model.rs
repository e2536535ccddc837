//! An architecture bound to its weights.

use cart_format::{ArchSpec, DType};
use thiserror::Error;

use crate::bytes::WeightSource;
use crate::state::State;

/// Why weights can't be bound to an architecture.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A tensor that the architecture needs is absent.
    #[error("tensor `{name}` is missing; the architecture needs it")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another shape than the architecture says.
    #[error("tensor `{name}` is {found:?}, but the architecture says {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the architecture gives.
        expected: Vec<usize>,
    },
    /// A tensor of an element type that can't be computed with.
    #[error("tensor `{name}` is {found}; supported here: {supported}")]
    UnsupportedDType {
        /// The tensor's name.
        name: String,
        /// Its element type.
        found: DType,
        /// Names of the types that would do.
        supported: String,
    },
    /// A tensor whose bytes are not as many as its type and shape say.
    #[error("tensor `{name}` has {found} bytes, but its type and shape say {expected}")]
    Size {
        /// The tensor's name.
        name: String,
        /// Bytes found.
        found: usize,
        /// Bytes by type and shape.
        expected: u64,
    },
    /// A tensor whose type and shape do not give a size.
    #[error("tensor `{name}`: {source}")]
    Blocks {
        /// The tensor's name.
        name: String,
        /// What is wrong.
        source: cart_format::DTypeError,
    },
    /// The architecture contradicts itself.
    #[error(transparent)]
    Arch(#[from] cart_format::arch::ArchError),
}

/// Where a model's weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// Bytes used where the [`WeightSource`] has them.
    pub mapped: u64,
    /// Bytes copied or converted at load: norms, biases, and weights at an odd address.
    pub copied: u64,
}

/// A decoder: an architecture bound to its weights. Shared freely between threads.
#[derive(Debug)]
pub struct Model {
    spec: ArchSpec,
}

impl Model {
    /// Binds the tensors that `spec` names, checking every shape and element type.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape, an unsupported type or too few bytes.
    pub fn load(spec: &ArchSpec, source: &dyn WeightSource) -> Result<Self, LoadError> {
        let _ = (spec, source);
        unimplemented!()
    }

    /// An empty state.
    pub fn new_state(&self) -> State {
        unimplemented!()
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Bytes of the weights, mapped and copied.
    pub fn weight_bytes(&self) -> WeightBytes {
        unimplemented!()
    }

    /// Bytes of weights that one token reads: every projection and the head once.
    pub fn token_bytes(&self) -> u64 {
        unimplemented!()
    }
}
