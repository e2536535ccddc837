//! The goal at work: what is added to the logits and to the residual stream, and what the budget leaves of
//! it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cart_memory::UnifiedMemory;
use cart_nn::LogitsFor;
use cart_nn::decoder::Run;

use super::MemoryLoopError;
use crate::agent::Agent;
use crate::calibration;
use crate::distribution;
use crate::hidden_tap::HiddenTap;
use crate::options::GoalOptions;

/// Most steps of the search for the share that keeps within the budget.
const STEPS: usize = 12;
/// How near to the budget that share comes, in nats.
const NEAR: f64 = 1e-4;
/// How far the residual stream is moved to see what it does to the logits. The smaller, the more it is the
/// derivative; the larger, the less the rounding of activations matters.
const PROBE: f32 = 0.1;
/// Positions of the fixed text over which its effect is averaged.
const PROBED: usize = 192;
/// Positions whose logits are held at once.
const AT_ONCE: usize = 32;

/// What the goal does to a step.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// What is added to the logits, `[vocab]`.
    bias: Option<Arc<Vec<f32>>>,
    /// What is added to the residual stream, `[hidden_size]`.
    pub(super) shift: Option<Vec<f32>>,
    options: GoalOptions,
}

impl Goal {
    /// None where there is no goal yet, or it has no strength.
    pub(super) fn of(
        agent: &Agent,
        memory: &UnifiedMemory,
        options: &GoalOptions,
    ) -> Result<Option<Self>, MemoryLoopError> {
        let weak = options.strength == 0.0 && options.residual == 0.0;
        if memory.goal().is_zero() || weak {
            return Ok(None);
        }
        let pulls = options.residual != 0.0;
        let shift = pulls.then(|| towards(memory, options.residual));
        let weighs = options.strength != 0.0;
        let bias = weighs.then(|| agent.goal_probe().bias(agent, memory)).transpose()?;
        Ok(Some(Self { bias, shift, options: options.clone() }))
    }

    /// What the budget leaves of a step.
    ///
    /// * `logits`: as the model gave them, `[vocab]`; `plain`: without the goal
    pub(super) fn steered(&self, logits: &[f32], plain: &[f32]) -> Steered {
        let max_kl = f64::from(self.options.max_kl);
        match &self.bias {
            Some(bias) => {
                let add =
                    |(logit, bias): (&f32, &f32)| self.options.strength.mul_add(*bias, *logit);
                let wanted: Vec<f32> = logits.iter().zip(bias.iter()).map(add).collect();
                within(&wanted, plain, max_kl)
            }
            None => within(logits, plain, max_kl),
        }
    }
}

/// A step towards the goal in the residual stream, `[hidden_size]`.
fn towards(memory: &UnifiedMemory, strength: f32) -> Vec<f32> {
    let goal = memory.goal();
    // A usual vector of the normalized space has a value of about 1 in each dimension.
    let factor = strength * (goal.vector().len() as f32).sqrt();
    let scale = memory.normalization().scale();
    goal.vector().iter().zip(scale).map(|(goal, scale)| factor * goal * scale).collect()
}

/// What a step towards a goal does to the logits on the average. What was found for the last goal is kept.
#[derive(Debug, Default)]
pub(crate) struct GoalProbe {
    /// Mean logits of the fixed text, `[vocab]`.
    plain: OnceLock<Vec<f32>>,
    last: Mutex<Option<Probed>>,
}

/// A step, `[hidden_size]`, and its effect, `[vocab]`.
#[derive(Debug)]
struct Probed {
    step: Vec<f32>,
    bias: Arc<Vec<f32>>,
}

impl GoalProbe {
    /// The change of the logits for a step of 1, `[vocab]`, with a mean of 0.
    fn bias(
        &self,
        agent: &Agent,
        memory: &UnifiedMemory,
    ) -> Result<Arc<Vec<f32>>, MemoryLoopError> {
        let step = towards(memory, PROBE);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|known| known.step == step) {
            return Ok(known.bias.clone());
        }
        if self.plain.get().is_none() {
            // Only who holds the lock sets it.
            let _ = self.plain.set(mean_logits(agent, None)?);
        }
        let plain = self.plain.get().expect("it was set above");
        let moved = mean_logits(agent, Some(step.clone()))?;
        let change: Vec<f32> =
            moved.iter().zip(plain).map(|(moved, plain)| (moved - plain) / PROBE).collect();
        let mean =
            change.iter().map(|&change| f64::from(change)).sum::<f64>() / change.len() as f64;
        let bias =
            Arc::new(change.into_iter().map(|change| change - mean as f32).collect::<Vec<_>>());
        *last = Some(Probed { step, bias: bias.clone() });
        Ok(bias)
    }
}

/// The mean of the logits over the fixed text, its first position left out, `[vocab]`.
///
/// * `shift`: what is added to the residual stream, `[hidden_size]`
fn mean_logits(agent: &Agent, shift: Option<Vec<f32>>) -> Result<Vec<f32>, MemoryLoopError> {
    let tokens = calibration::tokens(agent, PROBED)?;
    let (mut state, mut sum) = (agent.new_state(), Vec::new());
    let mut tap = HiddenTap::new(agent.tap_layer()).shifted(shift);
    for (index, tokens) in tokens.chunks(AT_ONCE).enumerate() {
        let (state, logits) = (&mut state, LogitsFor::All);
        let found = agent.forward(&mut [Run { state, tokens, logits, taps: Some(&mut tap) }])?;
        sum.resize(found[0].vocab, 0.0_f64);
        for row in usize::from(index == 0)..found[0].rows {
            for (sum, &logit) in sum.iter_mut().zip(found[0].row(row)) {
                *sum += f64::from(logit);
            }
        }
    }
    let count = (tokens.len() - 1).max(1) as f64;
    Ok(sum.into_iter().map(|sum| (sum / count) as f32).collect())
}

/// What the budget leaves of a step.
pub(crate) struct Steered {
    /// `[vocab]`.
    pub(crate) logits: Vec<f32>,
    /// Divergence from the logits without the goal, in nats.
    pub(crate) kl: f64,
    /// How much of the way was gone, 0 to 1.
    pub(crate) share: f64,
}

/// As far from `plain` towards `steered` as the budget allows, to within a ten-thousandth of a nat.
///
/// * `steered`, `plain`: `[vocab]`
fn within(steered: &[f32], plain: &[f32], max_kl: f64) -> Steered {
    let whole = distribution::kl(steered, plain);
    if whole <= max_kl {
        return Steered { logits: steered.to_vec(), kl: whole, share: 1.0 };
    }
    let at = |share: f64| -> Vec<f32> {
        let towards = |(&to, &from): (&f32, &f32)| (share as f32).mul_add(to - from, from);
        steered.iter().zip(plain).map(towards).collect()
    };
    // The divergence grows with the share, about as its square: it is a path of exponential tilts of
    // `plain`.
    let (mut least, mut most) = ((0.0, 0.0), (1.0, whole));
    let mut best = (plain.to_vec(), 0.0, 0.0);
    for _ in 0..STEPS {
        let (low, high) = (f64::sqrt(least.1), f64::sqrt(most.1));
        let share = least.0 + (most.0 - least.0) * (max_kl.sqrt() - low) / (high - low);
        let logits = at(share);
        let kl = distribution::kl(&logits, plain);
        if kl > max_kl {
            most = (share, kl);
            continue;
        }
        least = (share, kl);
        best = (logits, kl, share);
        if kl >= max_kl - NEAR {
            break;
        }
    }
    let (logits, kl, share) = best;
    Steered { logits, kl, share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_and_used() {
        let (plain, steered) = ([0.0, 1.0, 2.0], [4.0, 1.0, -2.0]);
        let free = within(&steered, &plain, 100.0);
        assert_eq!((free.logits.as_slice(), free.share), (&steered[..], 1.0));
        for max_kl in [0.0, 0.1, 0.5] {
            let found = within(&steered, &plain, max_kl);
            assert!(found.kl <= max_kl + 1e-9, "{} {max_kl}", found.kl);
            assert!(found.kl > max_kl - 1e-3 && found.share < 1.0);
        }
    }
}
