//! A base's tensors, and the products that are added to them.

use cart_format::TensorName;
use cart_format::low_rank::LowRank;

use crate::low_rank::product::Product;
use crate::weights::{TensorBytes, Tensors, Trouble};

/// The tensors of a plan of [`plan()`](crate::low_rank::plan()): model 0 is the base, model 1 the products.
pub struct Added<'a> {
    base: &'a dyn Tensors,
    delta: &'a LowRank,
}

impl<'a> Added<'a> {
    /// * `base`: its model 0 is the base
    pub fn new(base: &'a dyn Tensors, delta: &'a LowRank) -> Self {
        Self { base, delta }
    }
}

impl Tensors for Added<'_> {
    fn open(&self, model: usize, tensor: &TensorName) -> Result<Box<dyn TensorBytes>, Trouble> {
        if model == 0 {
            return self.base.open(0, tensor);
        }
        let found = self.delta.tensors.binary_search_by(|change| change.name.cmp(tensor));
        let product = found.ok().and_then(|at| Product::of(&self.delta.tensors[at].how));
        Ok(Box::new(product.expect("the plan names products of this delta alone")))
    }
}
