//! Rotary position embedding (Su et al., 2021).

use std::f64::consts::PI;

use cart_format::arch::{RopePairing, RopeScaling, RopeSpec};

/// The frequencies of a [`RopeSpec`].
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    pairing: RopePairing,
    /// Radians a position, for each pair.
    frequencies: Vec<f64>,
}

impl Rope {
    pub(crate) fn new(spec: &RopeSpec) -> Self {
        let pairs = spec.dims / 2;
        let frequencies = (0..pairs)
            .map(|pair| spec.theta.powf(-(2.0 * pair as f64) / spec.dims as f64))
            .map(|frequency| scaled(frequency, spec.scaling.as_ref()))
            .collect();
        Self { pairing: spec.pairing, frequencies }
    }

    /// Cosines and sines at `positions`.
    pub(crate) fn table(&self, positions: impl Iterator<Item = usize>) -> RopeTable {
        let pairs = self.frequencies.len();
        let mut turns = Vec::with_capacity(positions.size_hint().0 * pairs);
        for position in positions {
            for frequency in &self.frequencies {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                turns.push((cosine as f32, sine as f32));
            }
        }
        RopeTable { pairing: self.pairing, pairs, turns }
    }
}

/// Llama 3's ramp is that of `transformers`' `_compute_llama3_parameters`.
fn scaled(frequency: f64, scaling: Option<&RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / factor,
        Some(&RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        }) => {
            let turns = original_context as f64 * frequency / (2.0 * PI);
            if turns > high_freq_factor {
                return frequency;
            }
            if turns < low_freq_factor {
                return frequency / factor;
            }
            let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - keep) * frequency / factor + keep * frequency
        }
    }
}

/// Rotations of some positions.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    pairing: RopePairing,
    pairs: usize,
    /// `[positions, pairs]`, cosine and sine.
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// Rotates heads at the position with index `index`.
    ///
    /// * `heads`: `[heads, head_dim]`
    pub(crate) fn rotate(&self, index: usize, heads: &mut [f32], head_dim: usize) {
        let turns = &self.turns[index * self.pairs..][..self.pairs];
        for head in heads.chunks_exact_mut(head_dim) {
            match self.pairing {
                RopePairing::Halves => {
                    let (low, high) = head[..2 * self.pairs].split_at_mut(self.pairs);
                    for ((a, b), (cosine, sine)) in low.iter_mut().zip(high).zip(turns) {
                        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
                    }
                }
                RopePairing::Interleaved => {
                    for ([a, b], (cosine, sine)) in head.as_chunks_mut().0.iter_mut().zip(turns) {
                        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
                    }
                }
            }
        }
    }
}
