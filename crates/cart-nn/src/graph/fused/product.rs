//! `x · weightᵀ`, and that added to something.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::floats::{Floats, numbers, rows_and_width, storage, tensor};
use super::matrix::{By, Matrix, multiply, product_of};

/// `x · weightᵀ`. A weight without a gradient costs none.
///
/// * `x`: `[rows, inputs]`, `weight`: `[outputs, inputs]`, to `[rows, outputs]`
pub(in crate::graph) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Product)
}

/// `x · weightᵀ + to`.
///
/// * `to`: `[rows, outputs]`
pub(in crate::graph) fn product_added(x: &Tensor, weight: &Tensor, to: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &to.contiguous()?, ProductAdded)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, _inputs) = weight_layout.shape().dims2()?;
        let x = Matrix::new(numbers(x, x_layout)?, rows, inputs);
        let weight = Matrix::new(numbers(weight, weight_layout)?, outputs, inputs);
        Ok(storage(product_of(x, weight.t()), (rows, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        slopes(x, weight, slope)
    }
}

struct ProductAdded;

impl CustomOp3 for ProductAdded {
    fn name(&self) -> &'static str {
        "product-added"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        to: &CpuStorage,
        to_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, _inputs) = weight_layout.shape().dims2()?;
        let x = Matrix::new(numbers(x, x_layout)?, rows, inputs);
        let weight = Matrix::new(numbers(weight, weight_layout)?, outputs, inputs);
        let mut out = numbers(to, to_layout)?.to_vec();
        multiply(x, weight.t(), &mut out, 1.0, true, By::All);
        Ok(storage(out, (rows, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        to: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (of_x, of_weight) = slopes(x, weight, slope)?;
        Ok((of_x, of_weight, to.track_op().then(|| slope.clone())))
    }
}

/// Gradients of `x` and `weight`, of those that have one.
fn slopes(x: &Tensor, weight: &Tensor, slope: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, inputs) = rows_and_width(x)?;
    let (outputs, _inputs) = weight.dims2()?;
    let slope = slope.contiguous()?;
    let slope = Floats::of(&slope)?;
    let slope = Matrix::new(&slope, rows, outputs);
    let of_x = || {
        let weight = Floats::of(weight)?;
        tensor(product_of(slope, Matrix::new(&weight, outputs, inputs)), (rows, inputs))
    };
    let of_weight = || {
        let x = Floats::of(x)?;
        tensor(product_of(slope.t(), Matrix::new(&x, rows, inputs)), (outputs, inputs))
    };
    Ok((x.track_op().then(of_x).transpose()?, weight.track_op().then(of_weight).transpose()?))
}
