//! Losses over chunks of positions, whose gradients are made as they go forward; cross-entropy is one.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::floats::{BLOCK, numbers, rows_of, storage, tensor};
use super::gathering::{add_scaled, gathered};
use super::matrix::Matrix;
use super::mixed::Products;
use crate::kernel::vector::{exp, tanh, vectorized};
use crate::kernel::{KernelLevel, Kernels};
use crate::threads::lock;

/// A loss that is a sum over rows, each of which depends on its own logits.
pub(super) trait RowLoss: Send + Sync {
    const NAME: &'static str;

    /// Rows whose logits are in memory together.
    fn chunk(&self) -> usize;

    /// Refuses what does not suit so many rows over such a vocabulary.
    fn check(&self, rows: usize, vocab: usize) -> Result<()>;

    /// Whether a row costs anything.
    fn counts(&self, row: usize) -> bool;

    /// The loss of a row, and its gradient in place of the logits.
    ///
    /// * `spare`: as many numbers as there are logits, of no value
    fn row(&self, kernels: Kernels, row: usize, logits: &mut [f32], spare: &mut [f32]) -> f64;
}

/// The sum of a loss over the rows of `hidden · headᵀ`: one number.
///
/// * `hidden`: `[rows, hidden_size]`, `head`: `[vocab, hidden_size]`
pub(super) fn of_head<L: RowLoss + 'static>(
    hidden: &Tensor,
    head: &Tensor,
    loss: L,
) -> Result<Tensor> {
    let of_head = head.track_op();
    let products = Products::current();
    let op = HeadLoss { loss, products, of_head, slopes: Mutex::new(None) };
    hidden.contiguous()?.apply_op2(&head.contiguous()?, op)
}

/// What is to be predicted, and what it is worth.
pub(in crate::graph) struct LossTargets {
    /// Token ids, `[rows]`.
    pub(in crate::graph) targets: Vec<u32>,
    /// `[rows]`; a row of 0 costs nothing.
    pub(in crate::graph) weights: Vec<f32>,
    /// `c · tanh(x / c)` on the logits.
    pub(in crate::graph) soft_cap: Option<f32>,
    /// Rows whose logits are in memory together.
    pub(in crate::graph) chunk: usize,
}

/// The sum of `−weight · ln softmax(hidden · headᵀ)[target]` over the rows: one number.
///
/// * `hidden`: `[rows, hidden_size]`, `head`: `[vocab, hidden_size]`
pub(in crate::graph) fn cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: LossTargets,
) -> Result<Tensor> {
    of_head(hidden, head, targets)
}

impl RowLoss for LossTargets {
    const NAME: &'static str = "cross-entropy";

    fn chunk(&self) -> usize {
        self.chunk
    }

    fn check(&self, rows: usize, vocab: usize) -> Result<()> {
        let LossTargets { targets, weights, .. } = self;
        if targets.len() != rows || weights.len() != rows {
            bail!("{rows} rows, but {} targets and {} weights", targets.len(), weights.len());
        }
        if let Some(target) = targets.iter().find(|&&target| target as usize >= vocab) {
            bail!("target {target} of a vocabulary of {vocab}");
        }
        Ok(())
    }

    fn counts(&self, row: usize) -> bool {
        self.weights[row] != 0.0
    }

    fn row(&self, kernels: Kernels, row: usize, logits: &mut [f32], _spare: &mut [f32]) -> f64 {
        let target = self.targets[row] as usize;
        row_loss(kernels, logits, target, self.weights[row], self.soft_cap)
    }
}

struct HeadLoss<L> {
    loss: L,
    products: Products,
    /// Whether the head has a gradient.
    of_head: bool,
    slopes: Mutex<Option<Slopes>>,
}

/// Gradients of hidden states and head.
struct Slopes {
    of_hidden: Vec<f32>,
    of_head: Option<Vec<f32>>,
}

impl<L: RowLoss> HeadLoss<L> {
    /// The loss, and its gradients.
    fn run(
        &self,
        hidden: &[f32],
        head: Matrix<'_>,
        (rows, width, vocab): (usize, usize, usize),
    ) -> (f64, Slopes) {
        let counted: Vec<usize> = (0..rows).filter(|&row| self.loss.counts(row)).collect();
        let mut of_hidden = vec![0.0; hidden.len()];
        let mut of_head = self.of_head.then(|| vec![0.0; vocab * width]);
        let mut loss = 0.0;
        for rows in counted.chunks(self.loss.chunk().max(1)) {
            let x: Vec<f32> =
                rows.iter().flat_map(|row| &hidden[row * width..][..width]).copied().collect();
            let x = Matrix::new(&x, rows.len(), width);
            let mut logits = vec![0.0; rows.len() * vocab];
            self.products.multiply(x, head.t(), &mut logits, false);
            loss += self.rows_loss(rows, &mut logits, vocab);
            let slopes = Matrix::new(&logits, rows.len(), vocab);
            let mut of_x = vec![0.0; rows.len() * width];
            self.products.multiply(slopes, head, &mut of_x, false);
            for (row, of_x) in rows.iter().zip(of_x.chunks_exact(width)) {
                of_hidden[row * width..][..width].copy_from_slice(of_x);
            }
            if let Some(of_head) = &mut of_head {
                self.products.multiply(slopes.t(), x, of_head, true);
            }
        }
        (loss, Slopes { of_hidden, of_head })
    }

    /// The loss of some rows, whose logits become the gradients of the products with the head.
    fn rows_loss(&self, rows: &[usize], logits: &mut [f32], vocab: usize) -> f64 {
        let kernels = Kernels::detect();
        let block = |(logits, rows): (&mut [f32], &[usize])| {
            let mut spare = vec![0.0; vocab];
            let each = logits.chunks_exact_mut(vocab).zip(rows);
            each.map(|(logits, &row)| self.loss.row(kernels, row, logits, &mut spare)).sum::<f64>()
        };
        let blocks = logits.par_chunks_mut(BLOCK * vocab).zip(rows.par_chunks(BLOCK));
        let sums: Vec<f64> = blocks.map(block).collect();
        sums.iter().sum()
    }
}

vectorized! {
    /// `−weight · ln p(target)`, and its gradient, `weight · (p − [target])`, in place of the logits.
    fn row_loss(
        logits: &mut [f32],
        target: usize,
        weight: f32,
        soft_cap: Option<f32>,
    ) -> f64 {
        if let Some(cap) = soft_cap {
            logits.iter_mut().for_each(|x| *x = cap * tanh::<FMA>(*x / cap));
        }
        let largest = largest(logits);
        // Slopes of the cap are of the capped logits, which are lost below.
        let capped = soft_cap.map(|cap| (cap, logits.to_vec()));
        let own = logits[target];
        for x in logits.iter_mut() {
            *x = exp::<FMA>(*x - largest);
        }
        let sum: f64 = logits.chunks(256).map(|part| f64::from(sum(part))).sum();
        let factor = (f64::from(weight) / sum) as f32;
        logits.iter_mut().for_each(|x| *x *= factor);
        logits[target] -= weight;
        if let Some((cap, capped)) = capped {
            for (slope, capped) in logits.iter_mut().zip(capped) {
                let ratio = capped / cap;
                *slope *= 1.0 - ratio * ratio;
            }
        }
        f64::from(weight) * (sum.ln() + f64::from(largest) - f64::from(own))
    }
}

/// The largest number, −∞ of none.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// The sum in sixteen lanes.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

impl<L: RowLoss> CustomOp2 for HeadLoss<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        head: &CpuStorage,
        head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = rows_of(hidden_layout.dims())?;
        let (vocab, _width) = head_layout.shape().dims2()?;
        self.loss.check(rows, vocab)?;
        let head = Matrix::new(numbers(head, head_layout)?, vocab, width);
        let hidden = numbers(hidden, hidden_layout)?;
        let (loss, slopes) = self.run(hidden, head, (rows, width, vocab));
        *lock(&self.slopes) = Some(slopes);
        Ok(storage(vec![loss as f32], ()))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        _loss: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(Slopes { mut of_hidden, of_head }) = lock(&self.slopes).take() else {
            bail!("a loss goes backward once")
        };
        let slope = slope.to_scalar::<f32>()?;
        of_hidden.iter_mut().for_each(|value| *value *= slope);
        let of_head = of_head
            .map(|of_head| gathered(head, |sum| add_scaled(sum, &of_head, slope)))
            .transpose()?;
        let of_hidden = hidden.track_op().then(|| tensor(of_hidden, hidden.dims()));
        Ok((of_hidden.transpose()?, of_head.flatten()))
    }
}
