//! `x · weightᵀ`, and that added to something.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::floats::{Floats, copied, numbers, rows_and_width, storage, tensor};
use super::gathering::gathered;
use super::matrix::Matrix;
use super::mixed::Products;

/// `x · weightᵀ`. A weight without a gradient costs none.
///
/// * `x`: `[rows, inputs]`, `weight`: `[outputs, inputs]`, to `[rows, outputs]`
pub(in crate::graph) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Product(Products::current()))
}

/// `x · weightᵀ + to`.
///
/// * `to`: `[rows, outputs]`
pub(in crate::graph) fn product_added(x: &Tensor, weight: &Tensor, to: &Tensor) -> Result<Tensor> {
    let op = ProductAdded(Products::current());
    x.contiguous()?.apply_op3(&weight.contiguous()?, &to.contiguous()?, op)
}

struct Product(Products);

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
        Ok(storage(self.0.of(x, weight.t()), (rows, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        slopes(self.0, x, weight, slope)
    }
}

struct ProductAdded(Products);

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
        let mut out = copied(numbers(to, to_layout)?);
        self.0.multiply(x, weight.t(), &mut out, true);
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
        let (of_x, of_weight) = slopes(self.0, x, weight, slope)?;
        Ok((of_x, of_weight, to.track_op().then(|| slope.clone())))
    }
}

/// Gradients of `x` and `weight`, of those that have one.
fn slopes(
    products: Products,
    x: &Tensor,
    weight: &Tensor,
    slope: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, inputs) = rows_and_width(x)?;
    let (outputs, _inputs) = weight.dims2()?;
    let slope = slope.contiguous()?;
    let slope = Floats::of(&slope)?;
    let slope = Matrix::new(&slope, rows, outputs);
    let of_x = || {
        let weight = Floats::of(weight)?;
        tensor(products.of(slope, Matrix::new(&weight, outputs, inputs)), (rows, inputs))
    };
    let of_weight = if weight.track_op() {
        let x = Floats::of(x)?;
        let x = Matrix::new(&x, rows, inputs);
        gathered(weight, |sum| products.multiply(slope.t(), x, sum, true))?
    } else {
        None
    };
    Ok((x.track_op().then(of_x).transpose()?, of_weight))
}
