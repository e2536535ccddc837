//! Cross-entropy over vocabularies too large for all logits at once.

#![allow(
    clippy::missing_errors_doc,
    reason = "all fail alike: where shapes, types or memory do not suit"
)]

use candle_core::{D, Result, Tensor};

use super::fused::{self, LossTargets};
use super::operations::{log_softmax, soft_cap, wide_dtype};

/// A head and what it is asked to predict.
#[derive(Clone, Debug)]
pub struct CrossEntropy<'a> {
    /// `[vocab, hidden_size]`.
    pub head: &'a Tensor,
    /// `c · tanh(logits / c)` on the logits.
    pub soft_cap: Option<f64>,
    /// Positions whose logits are in memory together.
    pub chunk: usize,
}

impl CrossEntropy<'_> {
    /// The sum of `−weight · ln p(target)` over all rows, a tensor of one number.
    ///
    /// Gradients of the hidden states and of the head are computed chunk by chunk along with the
    /// value, so that no more than `chunk · vocab` logits are ever there, neither now nor in
    /// `backward`. The result depends on both linearly with these gradients.
    ///
    /// * `hidden`: `[rows, hidden_size]`; `targets`: token ids, `[rows]`; `weights`: `[rows]`, 0
    ///   for a row that does not count
    pub fn sum(&self, hidden: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
        let (rows, _hidden_size) = hidden.dims2()?;
        if targets.len() != rows || weights.len() != rows {
            candle_core::bail!(
                "{rows} rows, but {} targets and {} weights",
                targets.len(),
                weights.len()
            );
        }
        if fused::suits(hidden) && fused::suits(self.head) {
            let (targets, weights) = (targets.to_vec(), weights.to_vec());
            let soft_cap = self.soft_cap.map(|cap| cap as f32);
            let targets = LossTargets { targets, weights, soft_cap, chunk: self.chunk };
            return fused::cross_entropy(hidden, self.head, targets);
        }
        let (fixed_hidden, head) = (hidden.detach(), self.head.detach());
        let (mut value, mut of_hidden, mut of_head) = (None, Vec::new(), None);
        for start in (0..rows).step_by(self.chunk.max(1)) {
            let part = start..rows.min(start + self.chunk.max(1));
            let x = fixed_hidden.narrow(0, part.start, part.len())?;
            let (loss, slope) =
                self.chunk_loss(&x, &head, &targets[part.clone()], &weights[part])?;
            add(&mut value, loss)?;
            of_hidden.push(slope.matmul(&head)?);
            if self.head.track_op() {
                add(&mut of_head, slope.t()?.matmul(&x)?)?;
            }
        }
        let Some(value) = value else { candle_core::bail!("there are no rows") };
        let value = with_gradient(value, hidden, &Tensor::cat(&of_hidden, 0)?)?;
        match of_head {
            Some(of_head) => with_gradient(value, self.head, &of_head),
            None => Ok(value),
        }
    }

    /// The loss of some rows, and its gradient with respect to the products with the head.
    fn chunk_loss(
        &self,
        x: &Tensor,
        head: &Tensor,
        targets: &[u32],
        weights: &[f32],
    ) -> Result<(Tensor, Tensor)> {
        let (device, dtype) = (x.device(), wide_dtype(x.dtype()));
        let products = x.matmul(&head.t()?)?.to_dtype(dtype)?;
        let logits = match self.soft_cap {
            Some(cap) => soft_cap(&products, cap)?,
            None => products,
        };
        let logs = log_softmax(&logits)?;
        let targets = Tensor::new(targets, device)?.unsqueeze(1)?;
        let weights = Tensor::new(weights, device)?.to_dtype(dtype)?.unsqueeze(1)?;
        let loss = (logs.gather(&targets, 1)? * &weights)?.sum_all()?.neg()?;
        // d(−w · ln p(target)) / d logits = w · (p − onehot(target)).
        let mut slope = logs.exp()?.broadcast_mul(&weights)?;
        slope = slope.scatter_add(&targets, &weights.neg()?, 1)?;
        if let Some(cap) = self.soft_cap {
            // d(c · tanh(x / c)) / dx = 1 − (y / c)².
            slope = (slope * logits.affine(1.0 / cap, 0.0)?.sqr()?.affine(-1.0, 1.0)?)?;
        }
        Ok((loss, slope.to_dtype(x.dtype())?))
    }
}

fn add(sum: &mut Option<Tensor>, term: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + term)?,
        None => term,
    });
    Ok(())
}

/// The same number, with this gradient with respect to `of` besides the gradients that it has.
fn with_gradient(value: Tensor, of: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    if !of.track_op() {
        return Ok(value);
    }
    let linear = (of * gradient.to_dtype(of.dtype())?.detach())?;
    // Zero by value, so that only the gradient is added.
    let none = linear.sub(&linear.detach())?;
    value + none.to_dtype(wide_dtype(of.dtype()))?.sum_all()?
}

/// Mean over rows of `−ln p(target)`, of logits that are all there.
///
/// * `logits`: `[rows, vocab]`, `targets`: `[rows]`
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let logits = logits.to_dtype(wide_dtype(logits.dtype()))?;
    let logs = log_softmax(&logits)?.gather(&targets, D::Minus1)?;
    logs.mean_all()?.neg()
}
