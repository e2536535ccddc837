//! AdamW over the variables of a graph (Loshchilov and Hutter, 2019).

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use thiserror::Error;

use super::fused::{Floats, Sums, add_scaled, gathering};
use crate::kernel::vector::vectorized;
use crate::kernel::{KernelLevel, Kernels};
use crate::threads::lock;

/// Numbers that a task works on. Part of what is computed: a norm is the sum of such blocks.
const BLOCK: usize = 4096;

/// What does not change while training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// How much of the mean gradient a step keeps.
    pub beta1: f64,
    /// How much of the mean squared gradient a step keeps.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// What a step takes off weights that decay, as a factor on the learning rate.
    pub weight_decay: f64,
    /// The norm that all gradients together are scaled down to; `∞` for none.
    pub clip: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// Why a step was not made. No variable has changed.
#[derive(Debug, Error)]
pub enum StepError {
    /// A gradient is infinite or not a number.
    #[error("the gradient of `{name}` has numbers that are not finite")]
    NotFinite {
        /// The variable.
        name: String,
    },
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

/// A variable with its moments.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// The variable's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
    /// The mean of its gradients.
    pub first: Vec<f32>,
    /// The mean of their squares.
    pub second: Vec<f32>,
}

/// Variables, their moments, and the gradients that were gathered for the next step.
#[derive(Debug)]
pub struct AdamW {
    options: AdamWOptions,
    steps: u64,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    variable: Var,
    decays: bool,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// What is the same for all numbers of a step.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    /// On gradients.
    scale: f32,
    beta1: f32,
    beta2: f32,
    /// The learning rate over the bias correction of the first moment.
    rate: f32,
    /// One over the root of the bias correction of the second moment.
    correction: f32,
    eps: f32,
    /// What is left of a weight that decays.
    kept: f32,
}

impl AdamW {
    /// An optimizer before its first step.
    ///
    /// * `variables`: name, `f32` variable, and whether its weights decay
    pub fn new(
        options: AdamWOptions,
        variables: impl IntoIterator<Item = (String, Var, bool)>,
    ) -> Self {
        let slot = |(name, variable, decays): (String, Var, bool)| {
            let zeros = || vec![0.0; variable.elem_count()];
            Slot { name, gradient: zeros(), first: zeros(), second: zeros(), variable, decays }
        };
        Self { options, steps: 0, slots: variables.into_iter().map(slot).collect() }
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Numbers in all variables.
    pub fn parameters(&self) -> usize {
        self.slots.iter().map(|slot| slot.gradient.len()).sum()
    }

    /// Goes backward from a loss, and adds its gradients, each times `share`, to those of the next step.
    ///
    /// * `loss`: one number
    ///
    /// # Errors
    /// The tensor library failed; what was gathered is lost then.
    pub fn gather(&mut self, loss: &Tensor, share: f32) -> Result<()> {
        let loss = loss.affine(f64::from(share), 0.0)?;
        let take = |slot: &mut Slot| (slot.variable.id(), std::mem::take(&mut slot.gradient));
        let sums: Sums = self.slots.iter_mut().map(take).collect();
        let (rest, mut sums) = gathering(sums, || loss.backward());
        for slot in &mut self.slots {
            slot.gradient = sums.remove(&slot.variable.id()).unwrap_or_default();
        }
        let added = rest.and_then(|rest| {
            self.slots.iter_mut().try_for_each(|slot| match rest.get(&slot.variable) {
                Some(part) => {
                    add_scaled(&mut slot.gradient, &Floats::of(&part.contiguous()?)?, 1.0);
                    Ok(())
                }
                None => Ok(()),
            })
        });
        if added.is_err() {
            self.slots.iter_mut().for_each(|slot| slot.gradient.fill(0.0));
        }
        added
    }

    /// The norm of the gradient that was gathered for each variable.
    pub fn gradient_norms(&self) -> Vec<(&str, f64)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), squares(&slot.gradient).sqrt())).collect()
    }

    /// Moves the variables along the gathered gradients, and begins to gather anew. Returns the norm
    /// of all gradients before they were clipped.
    ///
    /// # Errors
    /// A gradient is not finite, or the tensor library failed.
    pub fn step(&mut self, learning_rate: f64) -> std::result::Result<f64, StepError> {
        let norms: Vec<f64> = self.slots.iter().map(|slot| squares(&slot.gradient)).collect();
        if let Some(at) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(StepError::NotFinite { name: self.slots[at].name.clone() });
        }
        let norm = norms.iter().sum::<f64>().sqrt();
        self.steps += 1;
        let update = self.update(learning_rate, norm);
        let kernels = Kernels::detect();
        for slot in &mut self.slots {
            let update = Update { kept: if slot.decays { update.kept } else { 1.0 }, ..update };
            slot.step(kernels, update)?;
        }
        Ok(norm)
    }

    fn update(&self, learning_rate: f64, norm: f64) -> Update {
        let AdamWOptions { beta1, beta2, eps, weight_decay, clip } = self.options;
        let steps = self.steps as f64;
        Update {
            scale: if norm > clip { (clip / norm) as f32 } else { 1.0 },
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            rate: (learning_rate / (1.0 - beta1.powf(steps))) as f32,
            correction: (1.0 - beta2.powf(steps)).sqrt().recip() as f32,
            eps: eps as f32,
            kept: (1.0 - learning_rate * weight_decay) as f32,
        }
    }

    /// Everything that the next step depends on, but for [`AdamW::steps`] and what was gathered.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn state(&self) -> Result<Vec<AdamWState>> {
        let state = |slot: &Slot| {
            Ok(AdamWState {
                name: slot.name.clone(),
                shape: slot.variable.dims().to_vec(),
                values: Floats::of(&slot.variable)?.to_vec(),
                first: slot.first.clone(),
                second: slot.second.clone(),
            })
        };
        self.slots.iter().map(state).collect()
    }

    /// Puts variables and moments where they were after `steps` steps. False, and nothing has
    /// changed, where `states` are not of these variables in this order.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn restore(&mut self, steps: u64, states: Vec<AdamWState>) -> Result<bool> {
        let fits = |(slot, state): (&Slot, &AdamWState)| {
            let count = slot.gradient.len();
            let moments = state.first.len() == count && state.second.len() == count;
            slot.name == state.name && slot.variable.dims() == state.shape && moments
        };
        if states.len() != self.slots.len() || !self.slots.iter().zip(&states).all(fits) {
            return Ok(false);
        }
        for (slot, state) in self.slots.iter_mut().zip(states) {
            slot.set(state.values)?;
            (slot.first, slot.second) = (state.first, state.second);
            slot.gradient.fill(0.0);
        }
        self.steps = steps;
        Ok(true)
    }
}

impl Slot {
    fn set(&self, values: Vec<f32>) -> Result<()> {
        let device = self.variable.device();
        self.variable.set(&Tensor::from_vec(values, self.variable.dims(), device)?)
    }

    fn step(&mut self, kernels: Kernels, update: Update) -> Result<()> {
        let Self { variable, gradient, first, second, .. } = self;
        let moments = Mutex::new(Moments { gradient, first, second });
        variable.inplace_op1(&Step { kernels, update, moments })
    }
}

/// What a step reads and changes beside the variable.
struct Moments<'a> {
    gradient: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

/// A step of a variable, where its numbers are.
struct Step<'a> {
    kernels: Kernels,
    update: Update,
    moments: Mutex<Moments<'a>>,
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adamw-step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("a variable is contiguous and f32")
        };
        let Moments { gradient, first, second } = &mut *lock(&self.moments);
        let parts = values[start..end].par_chunks_mut(BLOCK).zip(gradient.par_chunks_mut(BLOCK));
        let moments = first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK));
        parts.zip(moments).for_each(|((values, gradient), (first, second))| {
            update_block(self.kernels, self.update, values, gradient, first, second);
            gradient.fill(0.0);
        });
        Ok(())
    }
}

vectorized! {
    /// One step of a block.
    fn update_block(
        of: Update,
        values: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let moments = first.iter_mut().zip(second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * of.scale;
            *first = of.beta1 * *first + (1.0 - of.beta1) * gradient;
            *second = of.beta2 * *second + (1.0 - of.beta2) * gradient * gradient;
            *value = of.kept * *value - of.rate * *first / (second.sqrt() * of.correction + of.eps);
        }
    }
}

/// The sum of squares.
fn squares(values: &[f32]) -> f64 {
    let blocks = values
        .par_chunks(BLOCK)
        .map(|block| block.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>());
    let blocks: Vec<f64> = blocks.collect();
    blocks.iter().sum()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn variable(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    fn values(variable: &Var) -> Vec<f32> {
        variable.to_vec1().unwrap()
    }

    /// Of `torch.optim.AdamW(lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)`, twice, on the
    /// gradients 2·x of x = (1, −2).
    #[test]
    fn steps_are_those_of_torch() {
        let x = variable(&[1.0, -2.0]);
        let options = AdamWOptions { clip: f64::INFINITY, ..AdamWOptions::default() };
        let mut adamw = AdamW::new(options, [("x".to_owned(), x.clone(), true)]);
        for expected in [[0.89, -1.88], [0.781_426_4, -1.761_331_3]] {
            adamw.gather(&x.sqr().unwrap().sum_all().unwrap(), 1.0).unwrap();
            adamw.step(0.1).unwrap();
            for (found, expected) in values(&x).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_clipped_together_and_gathered_in_parts() {
        let step = |clip: f64, shares: &[f32]| {
            let (x, y) = (variable(&[3.0]), variable(&[4.0]));
            let options = AdamWOptions { clip, eps: 1.0, ..AdamWOptions::default() };
            let all = [("x".to_owned(), x.clone(), false), ("y".to_owned(), y.clone(), false)];
            let mut adamw = AdamW::new(options, all);
            for &share in shares {
                let loss = (x.sqr().unwrap() + y.sqr().unwrap()).unwrap();
                adamw.gather(&loss.sum_all().unwrap(), share).unwrap();
            }
            let norms: Vec<f64> = adamw.gradient_norms().iter().map(|(_, norm)| *norm).collect();
            assert_eq!(norms, [6.0, 8.0]);
            assert_eq!(adamw.step(1.0).unwrap(), 10.0);
            [values(&x)[0], values(&y)[0]]
        };
        // A gradient g moves by g / (|g| + 1).
        let moved = |g: f32| g / (g + 1.0);
        for shares in [&[1.0][..], &[0.5, 0.5]] {
            for (clip, by) in [(f64::INFINITY, 1.0), (10.0, 1.0), (1.0, 0.1)] {
                let expected = [3.0 - moved(6.0 * by), 4.0 - moved(8.0 * by)];
                for (found, expected) in step(clip, shares).iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-5, "{clip}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_is_named_and_changes_nothing() {
        let (x, y) = (variable(&[1.0]), variable(&[-1.0]));
        let all = [("x".to_owned(), x.clone(), true), ("y".to_owned(), y.clone(), true)];
        let mut adamw = AdamW::new(AdamWOptions::default(), all);
        let loss = (x.sqr().unwrap() + y.log().unwrap()).unwrap().sum_all().unwrap();
        adamw.gather(&(loss * f64::NAN).unwrap(), 1.0).unwrap();
        let refused = adamw.step(0.1).unwrap_err();
        assert!(matches!(refused, StepError::NotFinite { name } if name == "x"));
        assert_eq!((values(&x), values(&y), adamw.steps()), (vec![1.0], vec![-1.0], 0));
    }

    #[test]
    fn what_is_restored_goes_on_bit_for_bit() {
        let run = |cut: bool| {
            let x = variable(&[1.0, -2.0, 0.5]);
            let mut adamw =
                AdamW::new(AdamWOptions::default(), [("x".to_owned(), x.clone(), true)]);
            let mut current = x;
            for step in 0..6 {
                if cut && step == 3 {
                    let (steps, state) = (adamw.steps(), adamw.state().unwrap());
                    current = variable(&[0.0; 3]);
                    let all = [("x".to_owned(), current.clone(), true)];
                    adamw = AdamW::new(AdamWOptions::default(), all);
                    assert!(adamw.restore(steps, state).unwrap());
                }
                adamw.gather(&current.sqr().unwrap().sum_all().unwrap(), 1.0).unwrap();
                adamw.step(0.05).unwrap();
            }
            values(&current)
        };
        assert_eq!(run(false), run(true));
        let mut adamw =
            AdamW::new(AdamWOptions::default(), [("x".to_owned(), variable(&[1.0]), true)]);
        assert!(!adamw.restore(1, Vec::new()).unwrap());
    }
}
