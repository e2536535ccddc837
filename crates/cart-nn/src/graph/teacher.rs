//! The distance of a student's predictions to a teacher's, over large vocabularies.

#![allow(
    clippy::missing_errors_doc,
    reason = "all fail alike: where shapes, types or memory do not suit"
)]

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use super::fused;
use super::operations::{linear, log_softmax, soft_cap, widened};

/// How far a student's distribution `q` is from a teacher's `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divergence {
    /// `Σ p ln(p / q)`: the student covers whatever the teacher may say.
    ForwardKl,
    /// `Σ q ln(q / p)`: the student keeps to what the teacher would say.
    ReverseKl,
    /// `β · KL(p ‖ m) + (1 − β) · KL(q ‖ m)` with `m = β p + (1 − β) q` (Agarwal et al., 2024).
    JensenShannon {
        /// Between 0 and 1; ½ is the symmetric one.
        beta: f64,
    },
}

/// Tokens of which only their group's probability is compared: where two vocabularies differ, that is
/// what both have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGroups {
    maps: Vec<Vec<u32>>,
    counts: Vec<usize>,
}

/// Groups, and which way of grouping each row goes by.
#[derive(Clone, Copy, Debug)]
pub struct RowGroups<'a> {
    /// The ways.
    pub groups: &'a Arc<TokenGroups>,
    /// One for each row, `[rows]`.
    pub ways: &'a [u8],
}

impl TokenGroups {
    /// * `maps`: the group of each token, `[vocab]`, for each way of grouping; groups are counted from 0
    pub fn new(maps: Vec<Vec<u32>>) -> Self {
        let count = |map: &Vec<u32>| map.iter().max().map_or(0, |&last| last as usize + 1);
        let counts = maps.iter().map(count).collect();
        Self { maps, counts }
    }

    /// Ways of grouping.
    pub fn ways(&self) -> usize {
        self.maps.len()
    }

    /// The group of each token, `[vocab]`.
    pub fn map(&self, way: u8) -> &[u32] {
        &self.maps[usize::from(way)]
    }

    /// Groups of a way.
    pub fn count(&self, way: u8) -> usize {
        self.counts[usize::from(way)]
    }

    /// Adds up what the tokens of each group have, in plain operations: `[rows, groups]`, wide enough
    /// for the way with most of them.
    ///
    /// * `of`: `[rows, vocab]`
    fn sums(&self, of: &Tensor, ways: &[u8]) -> Result<Tensor> {
        let (rows, vocab) = of.dims2()?;
        let (device, dtype) = (of.device(), of.dtype());
        let wide = self.counts.iter().copied().max().unwrap_or(0);
        let mut sum = Tensor::zeros((rows, wide), dtype, device)?;
        for (way, map) in self.maps.iter().enumerate() {
            let mine = ways.iter().map(|&of| f32::from(u8::from(usize::from(of) == way)));
            let mine = given(mine.collect(), (rows, 1), dtype, device)?;
            let mut member = vec![0.0; vocab * wide];
            map.iter()
                .enumerate()
                .for_each(|(token, &to)| member[token * wide + to as usize] = 1.0);
            let member = given(member, (vocab, wide), dtype, device)?;
            sum = (sum + of.broadcast_mul(&mine)?.matmul(&member)?)?;
        }
        Ok(sum)
    }
}

/// What a teacher says of each position: the best tokens one by one, and all others together.
#[derive(Clone, Copy, Debug)]
pub struct TeacherTargets<'a> {
    /// Tokens of a row that are known one by one.
    pub best: usize,
    /// Where groups of tokens are compared in place of tokens.
    pub groups: Option<RowGroups<'a>>,
    /// Ids of the best tokens, or groups, distinct within a row, `[rows, best]`.
    pub tokens: &'a [u32],
    /// `ln p` of each at the temperature, then of all other tokens together, `[rows, best + 1]`.
    pub logs: &'a [f32],
    /// What the distance is worth, `[rows]`; 0 for a row without one.
    pub weights: &'a [f32],
    /// The tokens that did follow, `[rows]`.
    pub labels: &'a [u32],
    /// What `−ln q` of those is worth, `[rows]`.
    pub label_weights: &'a [f32],
}

/// A head, and how far what it says is from a teacher.
#[derive(Clone, Debug)]
pub struct TeacherLoss<'a> {
    /// `[vocab, hidden_size]`.
    pub head: &'a Tensor,
    /// `c · tanh(logits / c)` on the logits.
    pub soft_cap: Option<f64>,
    /// Positions whose logits are in memory together.
    pub chunk: usize,
    /// The distance.
    pub divergence: Divergence,
    /// What both sides' logits are divided by; above 0.
    pub temperature: f64,
}

impl TeacherLoss<'_> {
    /// The sum of `weight · T² · D(p, q) − label_weight · ln q₁(label)` over all rows, one number.
    ///
    /// `p` and `q` are over the best tokens, or groups, and one bucket for all others, at the temperature `T`;
    /// `q₁` is the student at temperature 1. T² keeps the gradient's size where T grows (Hinton et
    /// al., 2015). For `f32` on the CPU, gradients are computed chunk by chunk along with the value,
    /// as [`CrossEntropy`](super::CrossEntropy) does.
    ///
    /// * `hidden`: `[rows, hidden_size]`
    pub fn sum(&self, hidden: &Tensor, targets: &TeacherTargets<'_>) -> Result<Tensor> {
        if fused::suits(hidden) && fused::suits(self.head) {
            let says = fused::Teacher {
                best: targets.best,
                groups: targets.groups.map(|of| (Arc::clone(of.groups), of.ways.to_vec())),
                tokens: targets.tokens.to_vec(),
                logs: targets.logs.to_vec(),
                weights: targets.weights.to_vec(),
                labels: targets.labels.to_vec(),
                label_weights: targets.label_weights.to_vec(),
                divergence: self.divergence,
                temperature: self.temperature,
                soft_cap: self.soft_cap.map(|cap| cap as f32),
                chunk: self.chunk,
            };
            return fused::teacher(hidden, self.head, says);
        }
        let (rows, _width) = hidden.dims2()?;
        let mut sum = None;
        for start in (0..rows).step_by(self.chunk.max(1)) {
            let count = self.chunk.max(1).min(rows - start);
            let part =
                self.plainly(&hidden.narrow(0, start, count)?, &targets.rows(start, count))?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.map_or_else(|| candle_core::bail!("there are no rows"), Ok)
    }

    /// In plain operations, whose intermediate results stay until the gradient was computed.
    fn plainly(&self, hidden: &Tensor, targets: &TeacherTargets<'_>) -> Result<Tensor> {
        let TeacherTargets { best, groups, tokens, logs, weights, labels, label_weights } =
            *targets;
        let (device, rows) = (hidden.device(), labels.len());
        let logits = widened(&linear(hidden, self.head, None)?)?;
        let logits = match self.soft_cap {
            Some(cap) => soft_cap(&logits, cap)?,
            None => logits,
        };
        let dtype = logits.dtype();
        let given =
            |values: &[f32], width: usize| given(values.to_vec(), (rows, width), dtype, device);
        let own = log_softmax(&logits.affine(1.0 / self.temperature, 0.0)?)?;
        let parts = match groups {
            Some(RowGroups { groups, ways }) => groups.sums(&own.exp()?, ways)?,
            None => own.exp()?,
        };
        let count = parts.dim(1)?;
        let mut others = vec![1.0_f32; rows * count];
        for (row, tokens) in tokens.chunks_exact(best.max(1)).enumerate() {
            tokens.iter().for_each(|&token| others[row * count + token as usize] = 0.0);
        }
        // The smallest positive number of f32: where there are no others, nothing is multiplied by
        // its logarithm but the 0 that the teacher has for them.
        let log = |of: Tensor| of.maximum(f64::from(f32::MIN_POSITIVE))?.log();
        let others = log((&parts * given(&others, count)?)?.sum_keepdim(D::Minus1)?)?;
        let q = if best == 0 {
            others
        } else {
            let tokens = Tensor::from_slice(tokens, (rows, best), device)?;
            let best = match groups {
                Some(_) => log(parts.gather(&tokens, 1)?)?,
                None => own.gather(&tokens, 1)?,
            };
            Tensor::cat(&[best, others], 1)?
        };
        let p = given(logs, best + 1)?.maximum(-100.0)?;
        let distance = self.divergence.plainly(&p, &q)?.sum_keepdim(D::Minus1)?;
        let squared = self.temperature * self.temperature;
        let distance = (distance * given(weights, 1)?)?.sum_all()?.affine(squared, 0.0)?;
        let labels = Tensor::from_slice(labels, (rows, 1), device)?;
        let label = log_softmax(&logits)?.gather(&labels, 1)?;
        distance - (label * given(label_weights, 1)?)?.sum_all()?
    }
}

fn given(values: Vec<f32>, shape: (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
}

impl Divergence {
    /// The parts of the distance, element by element.
    ///
    /// * `p`, `q`: logarithms of probabilities
    fn plainly(self, p: &Tensor, q: &Tensor) -> Result<Tensor> {
        match self {
            Self::ForwardKl => p.exp()? * (p - q)?,
            Self::ReverseKl => q.exp()? * (q - p)?,
            Self::JensenShannon { beta } => {
                let middle =
                    (p.exp()?.affine(beta, 0.0)? + q.exp()?.affine(1.0 - beta, 0.0)?)?.log()?;
                let said = (p.exp()? * (p - &middle)?)?.affine(beta, 0.0)?;
                said + (q.exp()? * (q - &middle)?)?.affine(1.0 - beta, 0.0)?
            }
        }
    }
}

impl TeacherTargets<'_> {
    fn rows(&self, start: usize, count: usize) -> Self {
        let rows = start..start + count;
        let wide = |width: usize| start * width..(start + count) * width;
        Self {
            best: self.best,
            groups: self
                .groups
                .map(|of| RowGroups { groups: of.groups, ways: &of.ways[rows.clone()] }),
            tokens: &self.tokens[wide(self.best)],
            logs: &self.logs[wide(self.best + 1)],
            weights: &self.weights[rows.clone()],
            labels: &self.labels[rows.clone()],
            label_weights: &self.label_weights[rows],
        }
    }
}
