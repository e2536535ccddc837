//! Why a merge is refused before it begins.

use cart_format::{DType, TensorName};
use thiserror::Error;

use crate::weights::step::StepError;
use crate::weights::vocabulary::{Differences, VocabularyError};

/// Why a merge is refused before it begins.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The configuration names a model that was not given.
    #[error("the configuration names `{name}`, which is none of the models: {}", models.join(", "))]
    UnknownModel {
        /// The name.
        name: String,
        /// Those that were given.
        models: Vec<String>,
    },
    /// The models compute different things.
    #[error(
        "{a} and {b} have different architectures: `{field}` is {} and {}; only models of one architecture can be merged",
        found[0],
        found[1]
    )]
    Architecture {
        /// A model.
        a: String,
        /// Another.
        b: String,
        /// The first field that differs.
        field: String,
        /// Its values in both.
        found: Box<[String; 2]>,
    },
    /// A tensor that not all inputs have.
    #[error(
        "tensor `{tensor}` is in {has} and not in {lacks}; only models with the same tensors can be merged"
    )]
    OneSided {
        /// Its name.
        tensor: TensorName,
        /// A model that has it.
        has: String,
        /// A model that lacks it.
        lacks: String,
    },
    /// Shapes that differ.
    #[error(
        "tensor `{tensor}` is {:?} in {a} and {:?} in {b}; only tensors of one shape can be merged",
        shapes[0],
        shapes[1]
    )]
    Shape {
        /// Its name.
        tensor: TensorName,
        /// A model.
        a: String,
        /// Another model.
        b: String,
        /// Its shapes in both.
        shapes: Box<[Vec<u64>; 2]>,
    },
    /// A type whose values can't be merged.
    #[error(
        "tensor `{tensor}` of {model} is {dtype}; values that can be merged: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0 and the k-quants; take one side with --on-conflict, or convert it first"
    )]
    Unmergeable {
        /// Its name.
        tensor: TensorName,
        /// The model.
        model: String,
        /// Its type.
        dtype: DType,
    },
    /// A type that values can't be written as.
    #[error(
        "tensor `{tensor}` would have to be written as {dtype}, which cart does not quantize to; give --keep-float, or --dtype f16"
    )]
    Unwritable {
        /// Its name.
        tensor: TensorName,
        /// The type.
        dtype: DType,
    },
    /// Tokenizers that differ.
    #[error(
        "{a} and {b} have different tokenizers: {differences}; say `tokenizer_source: union` or `base`, or --tokenizer union or base"
    )]
    Tokenizers {
        /// A model.
        a: String,
        /// Another.
        b: String,
        /// In what.
        differences: Box<Differences>,
    },
    /// A tokenizer that can't be read.
    #[error("the tokenizer of {model} {source}")]
    Vocabulary {
        /// The model.
        model: String,
        /// The reason.
        source: VocabularyError,
    },
    /// A mapping of tokens needs to know which tensors have a row for each.
    #[error(
        "{model} has no architecture, so nobody knows which tensors have a row for each token; merge with equal tokenizers"
    )]
    NoArchitecture {
        /// The model.
        model: String,
    },
    /// Layers that a model does not have.
    #[error(
        "layers {from} to {to} of {model} are asked for, which has {layers}; allowed: a first layer under a last one, up to {layers}"
    )]
    LayerRange {
        /// The model.
        model: String,
        /// The first layer.
        from: u64,
        /// The one after the last.
        to: u64,
        /// Its layers.
        layers: u64,
    },
    /// Sources of a slice with different numbers of layers.
    #[error(
        "slice {slice} takes {a} layers from one source and {b} from another; all sources of a slice have as many layers"
    )]
    SliceLength {
        /// Which slice, from 0.
        slice: usize,
        /// Layers.
        a: u64,
        /// Other layers.
        b: u64,
    },
    /// A parameter, or the number of inputs.
    #[error("tensor `{tensor}`: {source}")]
    Step {
        /// Its name.
        tensor: TensorName,
        /// The reason.
        source: StepError,
    },
}
