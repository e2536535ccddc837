//! The weights of one model in other element types.

use cart_format::{DType, TensorEntry, TensorName};
use serde::Serialize;
use thiserror::Error;

use super::setting::filter_fits;
use super::{
    Cause, How, MergeConfig, Merging, Method, Model, Operand, Plan, PlannedTensor, Step,
    TokenizerPlan, elements,
};

/// In which type tensors are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeRules {
    /// That of matrices that a product is made with and of embeddings: what has two axes or more, rows of whole
    /// blocks, and a name that ends with `.weight`. Everything else stays as it is.
    pub all: DType,
    /// Others, for tensors by name, matrix or not; of several that fit the last counts.
    pub except: Vec<TypeRule>,
}

/// The type of the tensors whose names fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeRule {
    /// A part of a name, or a pattern with `*`.
    pub filter: String,
    /// The type; none to leave them as they are.
    pub dtype: Option<DType>,
}

/// Why weights can't be written so.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RetypeError {
    /// No rule is known for the type.
    #[error(
        "cart does not write {found}; allowed: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1 and q8_0"
    )]
    Unwritable {
        /// The type.
        found: DType,
    },
    /// Its values can't be read.
    #[error("tensor `{tensor}` is {dtype}, whose values cart does not read")]
    Unreadable {
        /// The tensor.
        tensor: TensorName,
        /// Its type.
        dtype: DType,
    },
    /// A tensor that was named has rows that are no whole blocks.
    #[error(
        "tensor `{tensor}` has rows of {row}, and {dtype} has blocks of {}; leave it as it is, or take a float", dtype.block_elements()
    )]
    Rows {
        /// The tensor.
        tensor: TensorName,
        /// Elements of a row.
        row: u64,
        /// The type that it was to have.
        dtype: DType,
    },
    /// A rule that nothing fits.
    #[error("no tensor's name fits `{filter}`")]
    Nothing {
        /// The filter.
        filter: String,
    },
}

impl Plan {
    /// The weights of a model in other types. What has its type already is taken as it is.
    ///
    /// # Errors
    /// A type can't be written or read, or a rule fits no tensor or one that it does not suit.
    pub fn retyped(model: &Model<'_>, rules: &TypeRules) -> Result<Self, RetypeError> {
        let asked = rules.except.iter().filter_map(|rule| rule.dtype);
        if let Some(found) = asked.chain([rules.all]).find(|&one| !elements::is_writable(one)) {
            return Err(RetypeError::Unwritable { found });
        }
        let tensors = &model.manifest.model.tensors;
        let fits =
            |rule: &&TypeRule| tensors.keys().any(|name| filter_fits(&rule.filter, name.as_str()));
        if let Some(rule) = rules.except.iter().find(|rule| !fits(rule)) {
            return Err(RetypeError::Nothing { filter: rule.filter.clone() });
        }
        let planned = tensors.iter().map(|(name, entry)| {
            let dtype = rules.dtype_of(name, entry)?;
            let how = if dtype == entry.dtype {
                How::Take { model: 0, tensor: name.clone() }
            } else if elements::is_mergeable(entry.dtype) {
                rewrite(name, entry)
            } else {
                let (tensor, dtype) = (name.clone(), entry.dtype);
                return Err(RetypeError::Unreadable { tensor, dtype });
            };
            let (name, shape) = (name.clone(), entry.shape.clone());
            Ok(PlannedTensor { name, dtype, shape, cause: Cause::Configured, how })
        });
        Ok(Self {
            config: MergeConfig::of_models(Method::Linear, [model.name.clone()]),
            frame: 0,
            architecture: model.manifest.model.architecture.clone(),
            tokenizer: TokenizerPlan::Of(0),
            chat_template: 0,
            tensors: planned.collect::<Result<_, _>>()?,
        })
    }
}

impl TypeRules {
    /// The type that a tensor is written in.
    fn dtype_of(&self, name: &TensorName, entry: &TensorEntry) -> Result<DType, RetypeError> {
        let row = entry.shape.last().copied().unwrap_or(1);
        let whole = |dtype: DType| row.is_multiple_of(dtype.block_elements());
        match self.except.iter().rfind(|rule| filter_fits(&rule.filter, name.as_str())) {
            Some(TypeRule { dtype: None, .. }) => Ok(entry.dtype),
            Some(TypeRule { dtype: Some(dtype), .. }) if whole(*dtype) => Ok(*dtype),
            Some(TypeRule { dtype: Some(dtype), .. }) => {
                Err(RetypeError::Rows { tensor: name.clone(), row, dtype: *dtype })
            }
            None => {
                let is_matrix = entry.shape.len() > 1 && name.as_str().ends_with(".weight");
                Ok(if is_matrix && whole(self.all) { self.all } else { entry.dtype })
            }
        }
    }
}

fn rewrite(name: &TensorName, entry: &TensorEntry) -> How {
    let operand = Operand {
        model: 0,
        tensor: name.clone(),
        dtype: entry.dtype,
        shape: entry.shape.clone(),
        rows: None,
    };
    let step = Step::Linear { weights: vec![1.0], normalize: false };
    How::Merge(Merging { step, operands: vec![operand], rounded: None })
}
