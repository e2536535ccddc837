//! What becomes of a base to which products are added.

use cart_format::low_rank::{Change, How as Changing, LowRank};
use cart_format::{DType, ManifestId};

use crate::low_rank::error::AdditionError;
use crate::weights::{
    Cause, FloatType, How, MergeConfig, Merging, Method, Model, Operand, Plan, PlannedTensor, Step,
    TokenizerPlan, elements,
};

/// The model of a plan that has the values which replace others.
pub const REPLACED: usize = 1;

/// Plans the addition. Of a quantized tensor the values are taken, changed, and quantized again, or left
/// as f32; replaced values come as they are, from a model [`REPLACED`] that the caller makes of them.
///
/// * `keep_float`: whether quantized tensors stay float
///
/// # Errors
/// The delta is of another base, or a tensor does not fit.
pub fn plan(base: &Model<'_>, delta: &LowRank, keep_float: bool) -> Result<Plan, AdditionError> {
    if delta.base != base.id {
        return Err(AdditionError::WrongBase { expected: delta.base, found: base.id });
    }
    let tensors = &base.manifest.model.tensors;
    for change in &delta.tensors {
        let tensor = change.name.clone();
        let Some(entry) = tensors.get(&tensor) else {
            return Err(AdditionError::Missing { tensor });
        };
        if entry.shape != change.shape() {
            let (delta, base) = (change.shape(), entry.shape.clone());
            return Err(AdditionError::Shape { tensor, delta, base });
        }
    }
    let planned = tensors.iter().map(|(name, entry)| {
        let found = delta.tensors.binary_search_by(|change| change.name.cmp(name));
        let change = found.ok().map(|at| &delta.tensors[at]);
        let take = |model| How::Take { model, tensor: name.clone() };
        let (dtype, cause, how) = match change {
            None => (entry.dtype, Cause::Same, take(0)),
            Some(Change { how: Changing::Replace(values), .. }) => {
                (values.dtype, Cause::Theirs, take(REPLACED))
            }
            Some(Change { how: Changing::Add { .. }, .. }) => {
                let dtype = dtype_of(name, entry.dtype, keep_float)?;
                (dtype, Cause::Both, add(name, entry))
            }
        };
        let (name, shape) = (name.clone(), entry.shape.clone());
        Ok(PlannedTensor { name, dtype, shape, cause, how })
    });
    Ok(Plan {
        config: config(base.id),
        frame: 0,
        architecture: base.manifest.model.architecture.clone(),
        tokenizer: TokenizerPlan::Of(0),
        chat_template: 0,
        tensors: planned.collect::<Result<_, _>>()?,
    })
}

fn config(base: ManifestId) -> MergeConfig {
    MergeConfig::of_models(Method::Linear, [base.hex(), "the delta".to_owned()])
}

/// The type of what comes of a tensor.
fn dtype_of(
    name: &cart_format::TensorName,
    dtype: DType,
    keep_float: bool,
) -> Result<DType, AdditionError> {
    let tensor = name.clone();
    if !elements::is_mergeable(dtype) {
        return Err(AdditionError::Unknown { tensor, dtype });
    }
    if keep_float && dtype.is_quantized() {
        return Ok(FloatType::F32.dtype());
    }
    if elements::is_writable(dtype) {
        return Ok(dtype);
    }
    Err(AdditionError::Unwritable { tensor, dtype })
}

fn add(name: &cart_format::TensorName, entry: &cart_format::TensorEntry) -> How {
    let operand = |model, dtype| Operand {
        model,
        tensor: name.clone(),
        dtype,
        shape: entry.shape.clone(),
        rows: None,
    };
    let operands = vec![operand(0, entry.dtype), operand(1, DType::F32)];
    let step = Step::Linear { weights: vec![1.0, 1.0], normalize: false };
    How::Merge(Merging { step, operands, rounded: None })
}
