//! What works on each position.

use candle_core::{D, Result, Tensor};

use super::fused;
use super::layer::{DenseMlp, Experts, Mlp};
use super::operations::{activate, sigmoid, softmax, widened};

impl Mlp {
    /// `[rows, hidden_size]` to the same.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.apply(x),
            Self::Experts(experts) => experts.apply(x),
        }
    }

    /// What it makes of `x`, added to `to`.
    pub(super) fn apply_added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.down.apply_added(&dense.inner(x)?, to),
            Self::Experts(experts) => to + experts.apply(x)?,
        }
    }
}

impl DenseMlp {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.down.apply(&self.inner(x)?)
    }

    /// What goes into the last product.
    fn inner(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(inner) = self.fused_inner(x)? {
            return Ok(inner);
        }
        let first = self.inputs[0].apply(x)?;
        match self.inputs.get(1) {
            Some(up) => activate(self.activation, &first)? * up.apply(x)?,
            None if self.gated => {
                let half = first.dim(D::Minus1)? / 2;
                let gate = first.narrow(1, 0, half)?.contiguous()?;
                activate(self.activation, &gate)? * first.narrow(1, half, half)?
            }
            None => activate(self.activation, &first),
        }
    }

    fn fused_inner(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let [gate, up] = self.inputs.as_slice() else { return Ok(None) };
        match (gate.parts(), up.parts()) {
            ((gate, None), (up, None)) if fused::suits(x) && fused::suits(gate) => {
                fused::gated(self.activation, x, gate, up)
            }
            _ => Ok(None),
        }
    }
}

impl Experts {
    /// The weighted sum of each row's experts. Which experts work on a row is read by the host;
    /// with which weights, is a tensor that gradients go through.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut out = match &self.shared {
            Some(shared) => {
                let out = shared.apply(x)?;
                match &self.shared_router {
                    Some(router) => {
                        let weight = sigmoid(&widened(&router.apply(x)?)?)?;
                        out.broadcast_mul(&weight.to_dtype(x.dtype())?)?
                    }
                    None => out,
                }
            }
            None => x.zeros_like()?,
        };
        let shares = softmax(&widened(&self.router.apply(x)?)?)?;
        let chosen = self.choose(&shares)?;
        let weights = self.weights(&shares, &chosen)?;
        for (index, expert) in self.each.iter().enumerate() {
            let rows: Vec<u32> = (0..chosen.len() as u32)
                .filter(|&row| chosen[row as usize].contains(&index))
                .collect();
            if rows.is_empty() {
                continue;
            }
            let rows = Tensor::new(rows, x.device())?;
            let outputs = expert.apply(&x.index_select(&rows, 0)?)?;
            let weights = weights.narrow(1, index, 1)?.contiguous()?.index_select(&rows, 0)?;
            let terms = outputs.broadcast_mul(&weights.to_dtype(x.dtype())?)?;
            out = out.index_add(&rows, &terms, 0)?;
        }
        Ok(out)
    }

    /// The experts of each row: those with the largest shares, of equal ones the first.
    fn choose(&self, shares: &Tensor) -> Result<Vec<Vec<usize>>> {
        let rows: Vec<Vec<f32>> = shares.detach().to_dtype(candle_core::DType::F32)?.to_vec2()?;
        let best = |row: &Vec<f32>| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            order.truncate(self.spec.active as usize);
            order
        };
        Ok(rows.iter().map(best).collect())
    }

    /// The weight of each expert on each row, 0 for those that were not chosen, `[rows, experts]`.
    fn weights(&self, shares: &Tensor, chosen: &[Vec<usize>]) -> Result<Tensor> {
        let experts = self.each.len();
        let mut mask = vec![0.0_f32; chosen.len() * experts];
        for (row, chosen) in chosen.iter().enumerate() {
            chosen.iter().for_each(|expert| mask[row * experts + expert] = 1.0);
        }
        let mask = Tensor::from_vec(mask, (chosen.len(), experts), shares.device())?;
        let weights = (shares * mask.to_dtype(shares.dtype())?)?;
        if self.spec.normalized {
            return weights.broadcast_div(&weights.sum_keepdim(1)?);
        }
        Ok(weights)
    }
}
