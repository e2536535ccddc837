//! Whether a memory still knows what it knew: probes and reconstruction.

use serde::{Deserialize, Serialize};

use super::{DreamOptions, says_nearly};
use crate::UnifiedMemory;
use crate::seeded::Seeded;
use crate::slot::{Slot, SlotId};

/// Expected length of the noise of a probe, where a key's is 1.
const PROBE_SIGMA: f64 = 0.3;

/// What a memory makes of the keys that it had before a dream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DreamCheck {
    /// Questions: each long-term key as it is, and once with noise.
    pub probes: usize,
    /// Share of them whose nearest slot says what the key's slot says.
    pub recall: f64,
    /// Mean over the keys of `1 − cosine` with what a soft read (softmax of the cosines) gives.
    pub reconstruction: f64,
}

impl DreamCheck {
    /// Asks `memory` with the keys of `origin`.
    ///
    /// * `heirs`: slots that are gone, and those that they went into
    pub(super) fn of(
        origin: &UnifiedMemory,
        memory: &UnifiedMemory,
        heirs: &[(SlotId, SlotId)],
        options: &DreamOptions,
    ) -> Self {
        let mut chance = Seeded::new(options.seed ^ 0x0064_7265_616d);
        let (mut probes, mut right, mut error) = (0, 0, 0.0);
        for (position, slot) in origin.ltm.iter() {
            let unit = origin.ltm.unit(position);
            let noisy = origin.normalization.metric().perturbed(unit, PROBE_SIGMA, &mut chance);
            for probe in [unit.to_vec(), noisy] {
                probes += 1;
                right += usize::from(answers(memory, &probe, slot, heirs));
            }
            error += reconstruction_error(memory, unit, options.temperature);
        }
        let share = |part: f64, whole: usize| if whole > 0 { part / whole as f64 } else { 0.0 };
        Self {
            probes,
            recall: share(right as f64, probes),
            reconstruction: share(error, origin.ltm.len()),
        }
    }
}

/// Whether the nearest slot is this one, its heir, or one that says the same.
fn answers(memory: &UnifiedMemory, probe: &[f32], slot: &Slot, heirs: &[(SlotId, SlotId)]) -> bool {
    let nearest = memory.ltm.iter().map(|(position, found)| {
        (memory.normalization.metric().cosine(memory.ltm.unit(position), probe), found)
    });
    let Some((_, found)) = nearest.reduce(|best, next| if next.0 > best.0 { next } else { best })
    else {
        return false;
    };
    if slot.value.is_empty() {
        let heir = heirs.iter().find(|(gone, _)| *gone == slot.id).map(|&(_, heir)| heir);
        return found.id == heir.unwrap_or(slot.id);
    }
    says_nearly(&found.value, &slot.value, 1.0)
}

fn reconstruction_error(memory: &UnifiedMemory, unit: &[f32], temperature: f32) -> f64 {
    let mut read = vec![0.0_f64; unit.len()];
    for (position, _) in memory.ltm.iter() {
        let other = memory.ltm.unit(position);
        let score = (f64::from(memory.normalization.metric().cosine(other, unit)) - 1.0)
            / f64::from(temperature);
        let power = libm::exp(score);
        for (sum, &value) in read.iter_mut().zip(other) {
            *sum += power * f64::from(value);
        }
    }
    let metric = memory.normalization.metric();
    if !metric.is_whole() {
        metric.balance(&mut read);
        let read: Vec<f32> = read.into_iter().map(|value| value as f32).collect();
        return 1.0 - f64::from(metric.cosine(&read, unit));
    }
    let norm = read.iter().map(|value| value * value).sum::<f64>().sqrt();
    let product: f64 = read.iter().zip(unit).map(|(a, &b)| a * f64::from(b)).sum();
    if norm > 0.0 { 1.0 - product / norm } else { 1.0 }
}
