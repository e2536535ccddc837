//! Tensors with a row for each token, when models number tokens differently.

use std::sync::Arc;

use cart_format::DType;

use crate::weights::view::TensorBytes;

/// Where the rows of an input come from.
pub(crate) struct Rows {
    /// The tensors that rows are taken from.
    pub(crate) donors: Vec<(Arc<dyn TensorBytes>, DType)>,
    /// For each row.
    pub(crate) sources: Vec<RowSource>,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowSource {
    /// From nowhere: zeros.
    Zero,
    /// The mean of rows: `(donor, row)`.
    Mean(Vec<(usize, u32)>),
}
