//! Rotary position embedding (Su et al., 2021).

use std::f64::consts::PI;

use cart_format::arch::{RopeFactors, RopePairing, RopeScaling, RopeSpec};

/// The frequencies of a [`RopeSpec`].
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    pairing: RopePairing,
    /// Radians a position, for each pair.
    frequencies: Vec<f64>,
    /// Factor on cosine and sine.
    scale: f64,
}

impl Rope {
    /// * `context_length`: the model's, which decides between the two lists of `LongRoPE`
    /// * `tensor`: reads divisors, `[dims / 2]`, from the tensor of a name
    pub(crate) fn new<E>(
        spec: &RopeSpec,
        context_length: u64,
        mut tensor: impl FnMut(&str, usize) -> Result<Vec<f64>, E>,
    ) -> Result<Self, E> {
        let pairs = spec.dims as usize / 2;
        let mut frequencies: Vec<f64> = (0..pairs)
            .map(|pair| spec.theta.powf(-(2.0 * pair as f64) / spec.dims as f64))
            .collect();
        let mut divide = |factors: &RopeFactors| -> Result<(), E> {
            let divisors = match factors {
                RopeFactors::Values(values) => values.clone(),
                RopeFactors::Tensor(name) => tensor(name, pairs)?,
            };
            frequencies.iter_mut().zip(divisors).for_each(|(frequency, by)| *frequency /= by);
            Ok(())
        };
        let scale = match &spec.scaling {
            None => 1.0,
            Some(RopeScaling::PerPair { factors }) => {
                divide(factors)?;
                1.0
            }
            Some(RopeScaling::LongRope { short, long, original_context, attention_factor }) => {
                divide(if context_length > *original_context { long } else { short })?;
                *attention_factor
            }
            Some(scaling) => stretch(&mut frequencies, scaling, spec),
        };
        Ok(Self { pairing: spec.pairing, frequencies, scale })
    }

    /// Cosines and sines at `positions`.
    pub(crate) fn table(&self, positions: impl Iterator<Item = usize>) -> RopeTable {
        let pairs = self.frequencies.len();
        let mut turns = Vec::with_capacity(positions.size_hint().0 * pairs);
        for position in positions {
            for frequency in &self.frequencies {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                turns.push(((cosine * self.scale) as f32, (sine * self.scale) as f32));
            }
        }
        RopeTable { pairing: self.pairing, pairs, turns }
    }
}

/// Stretches all wavelengths by one rule, and returns the factor on cosine and sine.
fn stretch(frequencies: &mut [f64], scaling: &RopeScaling, spec: &RopeSpec) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let context = original_context as f64;
            for frequency in frequencies {
                let turns = context * *frequency / (2.0 * PI);
                let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mix(frequency, factor, keep);
            }
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        } => {
            let pair_of = |turns: f64| {
                let wavelength = original_context as f64 / (turns * 2.0 * PI);
                spec.dims as f64 * wavelength.ln() / (2.0 * spec.theta.ln())
            };
            let (mut first, mut last) = (pair_of(beta_fast), pair_of(beta_slow));
            if truncate {
                (first, last) = (first.floor(), last.ceil());
            }
            (first, last) = (first.max(0.0), last.min(spec.dims as f64 - 1.0));
            let width = (last - first).max(0.001);
            for (pair, frequency) in frequencies.iter_mut().enumerate() {
                mix(frequency, factor, 1.0 - (pair as f64 - first) / width);
            }
            return attention_factor;
        }
        RopeScaling::PerPair { .. } | RopeScaling::LongRope { .. } => {
            unreachable!("factors for each pair are divided by before")
        }
    }
    1.0
}

/// Divides `frequency` by `factor`, but for the part `keep`, between 0 and 1, of it.
fn mix(frequency: &mut f64, factor: f64, keep: f64) {
    let keep = keep.clamp(0.0, 1.0);
    *frequency = (1.0 - keep) * *frequency / factor + keep * *frequency;
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
    /// Which dimensions make a pair.
    pub(crate) fn pairing(&self) -> RopePairing {
        self.pairing
    }

    /// Pairs of a head that turn.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Cosines, and sines, `[positions, pairs]`.
    pub(crate) fn cosines_and_sines(&self) -> (Vec<f32>, Vec<f32>) {
        self.turns.iter().copied().unzip()
    }

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
