//! Mixtures of experts.

use cart_format::arch::Activation;

use crate::activation::gate;
use crate::kernel::Kernels;
use crate::matrix::Linear;

/// A mixture of gated MLPs, bound to its weights.
#[derive(Debug)]
pub(crate) struct Experts {
    /// To a number for each expert.
    pub(crate) router: Linear,
    /// Experts that work on a row.
    pub(crate) active: usize,
    /// Whether their weights are divided by their sum.
    pub(crate) normalized: bool,
    pub(crate) activation: Activation,
    pub(crate) each: Vec<Expert>,
    pub(crate) shared: Option<Shared>,
}

/// One gated MLP.
#[derive(Debug)]
pub(crate) struct Expert {
    /// Gate and up side by side.
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// The expert that works on every row.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) expert: Expert,
    /// To the number whose sigmoid weighs its output.
    pub(crate) router: Option<Linear>,
}

impl Experts {
    /// The weighted sum of each row's experts: `[rows, hidden]` to the same.
    ///
    /// The terms of a row are added in the order of the experts, so the sum does not depend on the
    /// rows beside it.
    pub(crate) fn apply(&self, kernels: Kernels, input: &[f32]) -> Vec<f32> {
        let hidden = self.router.inputs;
        let mut out = match &self.shared {
            Some(shared) => self.shared(kernels, shared, input),
            None => vec![0.0; input.len()],
        };
        let mut chosen = vec![Vec::new(); self.each.len()];
        let logits = self.router.apply(kernels, input);
        for (row, logits) in logits.chunks_exact(self.each.len()).enumerate() {
            for (expert, weight) in choose(logits, self.active, self.normalized) {
                chosen[expert].push((row, weight));
            }
        }
        for (expert, rows) in self.each.iter().zip(&chosen).filter(|(_, rows)| !rows.is_empty()) {
            let inputs: Vec<f32> = rows
                .iter()
                .flat_map(|(row, _)| &input[row * hidden..][..hidden])
                .copied()
                .collect();
            let outputs = expert.apply(kernels, self.activation, &inputs);
            for ((row, weight), output) in rows.iter().zip(outputs.chunks_exact(hidden)) {
                let out = &mut out[row * hidden..][..hidden];
                out.iter_mut().zip(output).for_each(|(out, value)| *out += weight * value);
            }
        }
        out
    }

    fn shared(&self, kernels: Kernels, shared: &Shared, input: &[f32]) -> Vec<f32> {
        let mut out = shared.expert.apply(kernels, self.activation, input);
        if let Some(router) = &shared.router {
            let weights = router.apply(kernels, input);
            for (row, weight) in out.chunks_exact_mut(router.inputs).zip(weights) {
                let weight = 1.0 / (1.0 + (-weight).exp());
                row.iter_mut().for_each(|value| *value *= weight);
            }
        }
        out
    }

    /// Bytes of the matrices that a token reads: the router, its experts and the shared one.
    pub(crate) fn token_bytes(&self) -> u64 {
        let all: u64 = self.each.iter().map(Expert::bytes).sum();
        let active = all / self.each.len() as u64 * self.active as u64;
        let shared = self.shared.as_ref().map_or(0, |shared| {
            shared.expert.bytes() + shared.router.as_ref().map_or(0, Linear::bytes)
        });
        self.router.bytes() + active + shared
    }
}

impl Expert {
    fn apply(&self, kernels: Kernels, activation: Activation, input: &[f32]) -> Vec<f32> {
        let both = self.up.apply(kernels, input);
        let rows = input.len() / self.up.inputs;
        self.down.apply(kernels, &gate(kernels, activation, true, &both, rows))
    }

    fn bytes(&self) -> u64 {
        self.up.bytes() + self.down.bytes()
    }
}

/// The `active` experts with the largest weights, in the order of the experts. Weights are the
/// softmax of `logits`, over the chosen ones if `normalized`.
fn choose(logits: &[f32], active: usize, normalized: bool) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Of equal ones the first.
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let largest = logits[order[0]];
    let weight = |expert: &usize| (logits[*expert] - largest).exp();
    let counted = if normalized { &order[..active] } else { &order[..] };
    let total: f32 = counted.iter().map(weight).sum();
    order.truncate(active);
    order.sort_unstable();
    order.into_iter().map(|expert| (expert, weight(&expert) / total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_weighed() {
        let logits = [0.0, 3.0_f32.ln(), 4.0_f32.ln(), 3.0_f32.ln()];
        let weights = |normalized| choose(&logits, 2, normalized);
        let close = |found: &[(usize, f32)], expected: &[(usize, f32)]| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6, "{found:?}");
            }
        };
        close(&weights(true), &[(1, 3.0 / 7.0), (2, 4.0 / 7.0)]);
        close(&weights(false), &[(1, 3.0 / 11.0), (2, 4.0 / 11.0)]);
    }
}
