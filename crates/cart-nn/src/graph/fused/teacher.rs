//! The distance to what a teacher says, of which the best tokens are known one by one and all others
//! together.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::loss::{RowLoss, largest, of_head, sum};
use crate::graph::teacher::{Divergence, TokenGroups};
use crate::kernel::vector::{exp, tanh, vectorized};
use crate::kernel::{KernelLevel, Kernels};

/// Logarithms of probabilities are taken as no less, so that what a side holds for impossible costs
/// much and not infinitely much. The probabilities of `f32` end a little above.
const LEAST_LOG: f64 = -100.0;

/// What a teacher says, and what following it is worth.
pub(in crate::graph) struct Teacher {
    /// Tokens of a row that are known one by one.
    pub(in crate::graph) best: usize,
    /// Where groups are compared in place of tokens: which way of grouping each row goes by, `[rows]`.
    pub(in crate::graph) groups: Option<(Arc<TokenGroups>, Vec<u8>)>,
    /// Ids of the best tokens, or groups, distinct within a row, `[rows, best]`.
    pub(in crate::graph) tokens: Vec<u32>,
    /// `ln p` of each at the temperature, then of all other tokens together, `[rows, best + 1]`.
    pub(in crate::graph) logs: Vec<f32>,
    /// What the distance is worth, `[rows]`.
    pub(in crate::graph) weights: Vec<f32>,
    /// The tokens that did follow, `[rows]`.
    pub(in crate::graph) labels: Vec<u32>,
    /// What `−ln p` of those is worth, at temperature 1, `[rows]`.
    pub(in crate::graph) label_weights: Vec<f32>,
    pub(in crate::graph) divergence: Divergence,
    pub(in crate::graph) temperature: f64,
    /// `c · tanh(x / c)` on the logits.
    pub(in crate::graph) soft_cap: Option<f32>,
    /// Rows whose logits are in memory together.
    pub(in crate::graph) chunk: usize,
}

/// The sum of `weight · T² · D + label_weight · −ln p(label)` over the rows: one number.
///
/// * `hidden`: `[rows, hidden_size]`, `head`: `[vocab, hidden_size]`
pub(in crate::graph) fn teacher(hidden: &Tensor, head: &Tensor, says: Teacher) -> Result<Tensor> {
    of_head(hidden, head, says)
}

impl RowLoss for Teacher {
    const NAME: &'static str = "distance to a teacher";

    fn chunk(&self) -> usize {
        self.chunk
    }

    fn check(&self, rows: usize, vocab: usize) -> Result<()> {
        let Self { best, tokens, logs, weights, labels, label_weights, .. } = self;
        let (of_tokens, of_logs) = (rows * best, rows * (best + 1));
        if tokens.len() != of_tokens || logs.len() != of_logs {
            bail!("{rows} rows of {best} tokens, but {} and {} logs", tokens.len(), logs.len());
        }
        if [weights.len(), labels.len(), label_weights.len()] != [rows; 3] {
            bail!("{rows} rows, but {} weights and {} labels", weights.len(), labels.len());
        }
        let beyond = |of: &[u32], count: usize| of.iter().copied().find(|&id| id as usize >= count);
        let named = if self.groups.is_none() { beyond(tokens, vocab) } else { None };
        if let Some(token) = named.or_else(|| beyond(labels, vocab)) {
            bail!("target {token} of a vocabulary of {vocab}");
        }
        if let Some((groups, ways)) = &self.groups {
            check_groups(groups, ways, (rows, vocab))?;
            for (row, &way) in ways.iter().enumerate() {
                if let Some(group) = beyond(&tokens[row * best..][..*best], groups.count(way)) {
                    bail!("row {row} has target {group} of {} groups", groups.count(way));
                }
            }
        }
        for (row, tokens) in tokens.chunks_exact((*best).max(1)).enumerate() {
            let mut tokens = tokens.to_vec();
            tokens.sort_unstable();
            if let Some([twice, _]) = tokens.array_windows().find(|[a, b]| a == b) {
                bail!("row {row} has target {twice} twice");
            }
        }
        Ok(())
    }

    fn counts(&self, row: usize) -> bool {
        self.weights[row] != 0.0 || self.label_weights[row] != 0.0
    }

    fn row(&self, kernels: Kernels, row: usize, logits: &mut [f32], spare: &mut [f32]) -> f64 {
        if let Some(cap) = self.soft_cap {
            capped(kernels, logits, cap);
        }
        let most = largest(logits);
        // What the cap's slopes are of.
        let before = self.soft_cap.map(|cap| (cap, logits.to_vec()));
        let distance = self.distance(kernels, row, logits, most, spare);
        let loss = distance + self.surprise(kernels, row, logits, most);
        add(kernels, logits, spare);
        if let Some((cap, before)) = before {
            for (slope, before) in logits.iter_mut().zip(before) {
                let ratio = before / cap;
                *slope *= 1.0 - ratio * ratio;
            }
        }
        loss
    }
}

impl Teacher {
    /// The distance, and its gradient in `slopes`.
    fn distance(
        &self,
        kernels: Kernels,
        row: usize,
        logits: &[f32],
        most: f32,
        slopes: &mut [f32],
    ) -> f64 {
        let Self { best, temperature, .. } = *self;
        let weight = f64::from(self.weights[row]);
        if weight == 0.0 {
            slopes.fill(0.0);
            return 0.0;
        }
        powers(kernels, logits, slopes, most, (1.0 / temperature) as f32);
        let named = &self.tokens[row * best..][..best];
        let value = match &self.groups {
            Some((groups, ways)) => self.of_groups(row, named, (groups, ways[row]), slopes),
            None => self.of_tokens(kernels, row, named, (logits, most), slopes),
        };
        weight * temperature * temperature * value
    }

    /// The distance over single tokens.
    ///
    /// * `slopes`: powers of the logits, which become gradients
    fn of_tokens(
        &self,
        kernels: Kernels,
        row: usize,
        tokens: &[u32],
        (logits, most): (&[f32], f32),
        slopes: &mut [f32],
    ) -> f64 {
        for &token in tokens {
            slopes[token as usize] = 0.0;
        }
        // Not the difference of two sums near 1: the others may have a millionth together.
        let others = total(kernels, slopes);
        let log = |token: &u32| f64::from(logits[*token as usize] - most) / self.temperature;
        let all = others + tokens.iter().map(|token| log(token).exp()).sum::<f64>();
        let own = tokens.iter().map(log).chain([others.ln()]).map(|log| log - all.ln());
        let (value, pulls) = self.pulls(row, own);
        let of_others = if others > 0.0 { pulls[tokens.len()] / others } else { 0.0 };
        scaled(kernels, slopes, of_others as f32);
        for (token, slope) in tokens.iter().zip(&pulls) {
            slopes[*token as usize] = *slope as f32;
        }
        value
    }

    /// The distance over groups of tokens.
    ///
    /// * `named`: groups
    /// * `slopes`: powers of the logits, which become gradients
    fn of_groups(
        &self,
        row: usize,
        named: &[u32],
        (groups, way): (&TokenGroups, u8),
        slopes: &mut [f32],
    ) -> f64 {
        let (map, count) = (groups.map(way), groups.count(way));
        let mut sums = vec![0.0_f64; count];
        for (power, &group) in slopes.iter().zip(map) {
            sums[group as usize] += f64::from(*power);
        }
        let take = |&group: &u32| std::mem::take(&mut sums[group as usize]);
        let mut parts: Vec<f64> = named.iter().map(take).collect();
        parts.push(sums.iter().sum());
        let all = parts.iter().sum::<f64>().ln();
        let (value, pulls) = self.pulls(row, parts.iter().map(|part| part.ln() - all));
        // Each token has its part of what pulls at its group.
        let share = |(pull, part): (&f64, &f64)| if *part > 0.0 { pull / part } else { 0.0 };
        let shares: Vec<f64> = pulls.iter().zip(&parts).map(share).collect();
        let mut factors = vec![shares[named.len()] as f32; count];
        for (&group, share) in named.iter().zip(&shares) {
            factors[group as usize] = *share as f32;
        }
        for (slope, &group) in slopes.iter_mut().zip(map) {
            *slope *= factors[group as usize];
        }
        value
    }

    /// The distance `D`, and the slope of `weight · T² · D` by the logits of each bucket together.
    ///
    /// * `own`: `ln q` of the buckets, `[best + 1]`
    fn pulls(&self, row: usize, own: impl Iterator<Item = f64>) -> (f64, Vec<f64>) {
        let width = self.best + 1;
        let said = self.logs[row * width..][..width].iter();
        let said = said.map(|&log| f64::from(log).max(LEAST_LOG));
        let own = own.map(|log| log.max(LEAST_LOG));
        let pulls: Vec<[f64; 3]> = said.zip(own).map(|(p, q)| self.divergence.pull(p, q)).collect();
        let [value, pull] = [0, 1].map(|part| pulls.iter().map(|of| of[part]).sum::<f64>());
        // dD/dz_j = (q_j / T) · (g_j − Σ q g), of which each of the others has its part of q.
        let scale = f64::from(self.weights[row]) * self.temperature;
        let slope = |of: &[f64; 3]| scale * (of[1] - of[2] * pull);
        (value, pulls.iter().map(slope).collect())
    }

    /// `−weight · ln p(label)`, and its gradient in place of the logits.
    fn surprise(&self, kernels: Kernels, row: usize, logits: &mut [f32], most: f32) -> f64 {
        let (weight, label) = (self.label_weights[row], self.labels[row] as usize);
        if weight == 0.0 {
            logits.fill(0.0);
            return 0.0;
        }
        let own = logits[label];
        powers_in_place(kernels, logits, most);
        let all = total(kernels, logits);
        scaled(kernels, logits, (f64::from(weight) / all) as f32);
        logits[label] -= weight;
        f64::from(weight) * (all.ln() + f64::from(most) - f64::from(own))
    }
}

/// Groups have to be of the vocabulary, and each row goes by one of the ways.
fn check_groups(groups: &TokenGroups, ways: &[u8], (rows, vocab): (usize, usize)) -> Result<()> {
    if ways.len() != rows {
        bail!("{rows} rows, but {} ways of grouping", ways.len());
    }
    for way in 0..groups.ways() as u8 {
        if groups.map(way).len() != vocab {
            bail!("groups of {} tokens of a vocabulary of {vocab}", groups.map(way).len());
        }
    }
    match ways.iter().find(|&&way| usize::from(way) >= groups.ways()) {
        Some(way) => bail!("way {way} of {} ways of grouping", groups.ways()),
        None => Ok(()),
    }
}

impl Divergence {
    /// A bucket's part of the distance `D`, `q · ∂D/∂q`, and `q`.
    ///
    /// * `said`, `own`: `ln p` and `ln q`
    fn pull(self, said: f64, own: f64) -> [f64; 3] {
        let (p, q) = (said.exp(), own.exp());
        match self {
            Self::ForwardKl => [p * (said - own), -p, q],
            Self::ReverseKl => [q * (own - said), q * (own - said + 1.0), q],
            Self::JensenShannon { beta } => {
                let middle = (beta * p + (1.0 - beta) * q).max(f64::MIN_POSITIVE).ln();
                let of_own = (1.0 - beta) * q * (own - middle);
                [beta * p * (said - middle) + of_own, of_own, q]
            }
        }
    }
}

vectorized! {
    fn capped(logits: &mut [f32], cap: f32) {
        logits.iter_mut().for_each(|x| *x = cap * tanh::<FMA>(*x / cap));
    }
}

vectorized! {
    /// `exp((x − most) · inverse)`.
    fn powers(of: &[f32], into: &mut [f32], most: f32, inverse: f32) {
        for (into, x) in into.iter_mut().zip(of) {
            *into = exp::<FMA>((x - most) * inverse);
        }
    }
}

vectorized! {
    /// `exp(x − most)`.
    fn powers_in_place(of: &mut [f32], most: f32) {
        for x in of.iter_mut() {
            *x = exp::<FMA>(*x - most);
        }
    }
}

vectorized! {
    fn total(values: &[f32]) -> f64 {
        values.chunks(256).map(|part| f64::from(sum(part))).sum()
    }
}

vectorized! {
    fn scaled(values: &mut [f32], factor: f32) {
        values.iter_mut().for_each(|x| *x *= factor);
    }
}

vectorized! {
    fn add(into: &mut [f32], from: &[f32]) {
        into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
    }
}
