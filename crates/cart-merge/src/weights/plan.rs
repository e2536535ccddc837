//! What a merge will do, tensor by tensor, before anything is read or written.

mod build;
mod error;
mod outline;
mod result;
mod tensor;

use cart_format::{DType, Manifest, ManifestId, TensorName};
use serde::Serialize;
use serde_json::Value;

pub use self::error::PlanError;
pub use self::result::Output;
use crate::weights::config::MergeConfig;
use crate::weights::float_type::FloatType;
use crate::weights::rows::RowSource;
use crate::weights::step::Step;

/// A model to merge.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    /// What the configuration calls it.
    pub name: String,
    /// What people call it.
    pub label: String,
    /// Its id.
    pub id: ManifestId,
    /// What it is.
    pub manifest: &'a Manifest,
    /// Its tokenizer's document, if it has one.
    pub tokenizer: Option<Vec<u8>>,
}

/// A merge of two sides that may have a common ancestor: what changed on one side only is taken as
/// it is. The models are `ours`, `theirs` and, where there is one, the configuration's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreeWay {
    /// What to do where both sides changed a tensor.
    pub on_conflict: OnConflict,
}

/// What to do where both sides changed a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Nothing: the merge is refused.
    #[default]
    Refuse,
    /// Take ours.
    Ours,
    /// Take theirs.
    Theirs,
    /// Take the base's.
    Base,
    /// Merge by the configuration's method.
    Merge,
}

/// Choices that mergekit's configuration does not have.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// A merge of two sides.
    pub three_way: Option<ThreeWay>,
    /// Whether the result of quantized inputs stays float.
    pub keep_float: bool,
}

/// What a merge will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How tensors are merged.
    pub config: MergeConfig,
    /// The model whose metadata, tokenizer and memory the result begins with.
    pub frame: usize,
    /// What the result computes.
    pub architecture: Option<Value>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerPlan,
    /// The model whose chat template the result has.
    pub chat_template: usize,
    /// The tensors, in the order of names.
    pub tensors: Vec<PlannedTensor>,
}

/// Where the result's tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerPlan {
    /// A model's, or none if it has none.
    Of(usize),
    /// A new document.
    New {
        /// A `tokenizer.json`.
        document: Vec<u8>,
        /// Ids are below this.
        vocab_size: u64,
        /// Tokens that the frame's tokenizer lacks.
        added: usize,
    },
}

/// A tensor of the result.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Its name.
    pub name: TensorName,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Why it becomes what it becomes.
    pub cause: Cause,
    /// What becomes of it.
    pub how: How,
}

/// Why a tensor becomes what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// All inputs are the same.
    Same,
    /// Ours changed it alone.
    Ours,
    /// Theirs changed it alone.
    Theirs,
    /// Both sides changed it.
    Both,
    /// The configuration says so.
    Configured,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub enum How {
    /// The blob of an input, as it is.
    Take {
        /// The model.
        model: usize,
        /// Its tensor.
        tensor: TensorName,
    },
    /// Computed.
    Merge(Merging),
    /// Nobody said what to do.
    Conflict,
}

/// How a tensor is computed.
#[derive(Clone, Debug)]
pub struct Merging {
    /// What is done.
    pub step: Step,
    /// The inputs, in the order of the step.
    pub operands: Vec<Operand>,
    /// What inputs are rounded to before.
    pub rounded: Option<FloatType>,
}

/// An input of a tensor.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The model.
    pub model: usize,
    /// Its tensor.
    pub tensor: TensorName,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its rows come from, among the rows of all operands, if they are not its own in order.
    pub(crate) rows: Option<Vec<RowSource>>,
}

impl Plan {
    /// Plans a merge.
    ///
    /// * `models`: all that the configuration names, each once
    ///
    /// # Errors
    /// The models do not fit each other or the configuration. Whatever can be known from manifests
    /// and tokenizers is refused here.
    pub fn new(
        config: &MergeConfig,
        models: &[Model<'_>],
        options: PlanOptions,
    ) -> Result<Self, PlanError> {
        build::plan(config, models, options)
    }

    /// Tensors that nobody decided about.
    pub fn conflicts(&self) -> impl Iterator<Item = &PlannedTensor> {
        self.tensors.iter().filter(|tensor| matches!(tensor.how, How::Conflict))
    }

    /// Bytes of the tensors to be computed.
    pub fn computed_bytes(&self) -> u64 {
        let computed = self.tensors.iter().filter(|one| matches!(one.how, How::Merge(_)));
        computed.map(PlannedTensor::bytes).sum()
    }

    /// Whether chance has a part in it.
    pub fn is_random(&self) -> bool {
        let merged = self.tensors.iter().any(|one| matches!(one.how, How::Merge(_)));
        merged && self.config.merge_method.is_random()
    }
}

impl PlannedTensor {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.dtype.size_of(&self.shape).expect("sizes were checked when the plan was made")
    }
}
