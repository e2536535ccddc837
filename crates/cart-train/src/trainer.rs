//! The steps of a run, whatever it learns.

use std::path::Path;

use cart_nn::graph::{AdamW, AdamWOptions, AdamWState, Products, Tensor, Var};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::schedule::Schedule;

/// What is learned from.
pub trait Objective {
    /// The loss of one part of a step. It depends on `step`, which counts from 0, and `part`, and on
    /// nothing that was drawn before.
    ///
    /// # Errors
    /// The pass failed.
    fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError>;
}

/// A loss with what it is of.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The sum over what is predicted, in nats, one number.
    pub sum: Tensor,
    /// How many predictions.
    pub count: usize,
    /// Tokens that were read.
    pub tokens: usize,
}

/// How a run learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrainOptions {
    /// Learning rates.
    pub schedule: Schedule,
    /// What a step takes off matrices.
    pub weight_decay: f64,
    /// The norm that gradients are scaled down to.
    pub clip: f64,
    /// Parts whose gradients make a step.
    pub accumulate: u64,
    /// What chance follows from.
    pub seed: u64,
    /// In what steps multiply; all else of them, and what they move, is `f32`.
    #[serde(rename = "precision", serialize_with = "by_name")]
    pub products: Products,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn by_name<S: Serializer>(products: &Products, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(products.name())
}

impl TrainOptions {
    /// Refuses numbers that nothing can be learned with.
    ///
    /// # Errors
    /// The first of them.
    pub fn check(&self) -> Result<(), TrainError> {
        let refused = |option, found: f64, allowed| {
            Err(TrainError::Option { option, found: found.to_string(), allowed })
        };
        let Schedule { peak, steps, floor, .. } = self.schedule;
        if !(peak.is_finite() && peak > 0.0) {
            return refused("the learning rate", peak, "above 0");
        }
        if steps == 0 {
            return refused("the number of steps", 0.0, "1 or more");
        }
        if !(0.0..=1.0).contains(&floor) {
            return refused("the last learning rate's share of the first", floor, "0 to 1");
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return refused("the weight decay", self.weight_decay, "0 or more");
        }
        if self.clip.is_nan() || self.clip <= 0.0 {
            return refused("the norm of gradients", self.clip, "above 0");
        }
        if self.accumulate == 0 {
            return refused("the number of parts of a step", 0.0, "1 or more");
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Counts from 1.
    pub step: u64,
    /// Mean of the predictions, in nats.
    pub loss: f64,
    /// The norm of all gradients before they were clipped.
    pub gradient_norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Tokens that were read.
    pub tokens: usize,
    /// The first step of a run only: the norm of each tensor's gradient, none of which is 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub norms: Vec<(String, f64)>,
}

/// A run between two steps.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    optimizer: AdamW,
    /// Whether a step was made since this was made: the first looks at every gradient.
    looked: bool,
}

impl Trainer {
    /// A run before its first step.
    ///
    /// * `variables`: those to train, by name; matrices decay, but for those that `keep` names
    ///
    /// # Errors
    /// There is nothing to train, or an option is out of range.
    pub fn new(
        options: TrainOptions,
        variables: impl IntoIterator<Item = (String, Var)>,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Self, TrainError> {
        options.check()?;
        let TrainOptions { weight_decay, clip, .. } = options;
        let settings = AdamWOptions { weight_decay, clip, ..AdamWOptions::default() };
        let variables = variables.into_iter().map(|(name, variable)| {
            let decays = variable.rank() > 1 && !keep(&name);
            (name, variable, decays)
        });
        let optimizer = AdamW::new(settings, variables);
        if optimizer.parameters() == 0 {
            return Err(TrainError::Frozen);
        }
        Ok(Self { options, optimizer, looked: false })
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Steps that are to be made.
    pub fn planned(&self) -> u64 {
        self.options.schedule.steps
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.optimizer.parameters()
    }

    /// Whether all steps were made.
    pub fn is_done(&self) -> bool {
        self.steps() >= self.options.schedule.steps
    }

    /// Makes a step.
    ///
    /// # Errors
    /// The pass failed, a number is not finite, or, in the first step, a tensor has no gradient. No
    /// variable has changed then.
    pub fn step(&mut self, objective: &dyn Objective) -> Result<StepReport, TrainError> {
        let at = self.steps();
        let parts = self.options.accumulate;
        let (mut loss, mut tokens) = (0.0, 0);
        for part in 0..parts {
            let found = self.options.products.during(|| objective.loss(at, part))?;
            let share = 1.0 / (parts as f64 * found.count.max(1) as f64);
            loss += share * f64::from(found.sum.to_scalar::<f32>()?);
            tokens += found.tokens;
            self.optimizer.gather(&found.sum, share as f32)?;
        }
        if !loss.is_finite() {
            return Err(self.not_finite(at + 1));
        }
        let norms = if self.looked { Vec::new() } else { self.look()? };
        let rate = self.options.schedule.rate(at);
        let stepped = self.optimizer.step(rate);
        let gradient_norm = stepped.map_err(|error| TrainError::of_step(at + 1, error))?;
        Ok(StepReport { step: at + 1, loss, gradient_norm, rate, tokens, norms })
    }

    /// Every trained tensor must have a gradient.
    fn look(&mut self) -> Result<Vec<(String, f64)>, TrainError> {
        let norms = self.optimizer.gradient_norms();
        if let Some((name, _)) = norms.iter().find(|(_, norm)| *norm == 0.0) {
            return Err(TrainError::NoGradient { name: (*name).to_owned() });
        }
        let norms = norms.into_iter().map(|(name, norm)| (name.to_owned(), norm)).collect();
        self.looked = true;
        Ok(norms)
    }

    fn not_finite(&self, step: u64) -> TrainError {
        let norms = self.optimizer.gradient_norms();
        let first = norms.iter().find(|(_, norm)| !norm.is_finite());
        let seen = match first {
            Some((name, _)) => format!("the loss, and the gradient of `{name}`"),
            None => "the loss".to_owned(),
        };
        TrainError::NotFinite { step, seen }
    }

    /// Where the run is.
    ///
    /// # Errors
    /// A number is not finite, so that nobody could go on from it; or the tensor library failed.
    pub fn checkpoint(&self, recipe: &Value) -> Result<Checkpoint, TrainError> {
        let variables = self.optimizer.state()?;
        let step = self.steps();
        let broken = |variable: &&AdamWState| !variable.values.iter().all(|x| x.is_finite());
        if let Some(variable) = variables.iter().find(broken) {
            return Err(TrainError::NotFinite { step, seen: format!("`{}`", variable.name) });
        }
        Ok(Checkpoint { recipe: recipe.clone(), steps: step, variables, notes: Value::Null })
    }

    /// Writes where the run is to its folder.
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`] and [`Checkpoint::write`].
    pub fn save(&self, folder: &Path, recipe: &Value) -> Result<(), TrainError> {
        self.checkpoint(recipe)?.write(folder)
    }

    /// Goes where a checkpoint was, bit for bit.
    ///
    /// # Errors
    /// It is of another recipe, or its variables are not those of this run.
    pub fn restore(
        &mut self,
        folder: &Path,
        checkpoint: Checkpoint,
        recipe: &Value,
    ) -> Result<(), TrainError> {
        checkpoint.check(folder, recipe)?;
        if self.optimizer.restore(checkpoint.steps, checkpoint.variables)? {
            return Ok(());
        }
        let reason = "its tensors are not those of its recipe".to_owned();
        Err(TrainError::Checkpoint { path: Checkpoint::path(folder), reason })
    }
}

#[cfg(test)]
mod tests {
    use cart_nn::graph::Device;
    use serde_json::json;

    use super::*;

    /// `Σ (x − 1)² · factor`, of the variables that it knows.
    struct Parabola {
        variables: Vec<Var>,
        /// The step from which the loss is no number.
        broken_at: u64,
    }

    impl Objective for Parabola {
        fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError> {
            let factor = if step >= self.broken_at { f64::NAN } else { 1.0 + part as f64 };
            let mut sum = Tensor::zeros((), cart_nn::graph::DType::F32, &Device::Cpu)?;
            for variable in &self.variables {
                let square = variable.affine(1.0, -1.0)?.sqr()?.sum_all()?;
                sum = (sum + square.affine(factor, 0.0)?)?;
            }
            Ok(Loss { sum, count: 2, tokens: 3 })
        }
    }

    fn options() -> TrainOptions {
        let schedule = Schedule { peak: 0.1, warmup: 2, steps: 40, floor: 0.1 };
        let products = Products::F32;
        TrainOptions { schedule, weight_decay: 0.0, clip: 1.0, accumulate: 2, seed: 0, products }
    }

    fn variable(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    fn trainer(variables: &[Var]) -> Trainer {
        let named = variables.iter().enumerate().map(|(at, var)| (format!("v{at}"), var.clone()));
        Trainer::new(options(), named, |_| false).unwrap()
    }

    #[test]
    fn a_run_that_is_cut_at_any_step_ends_where_a_whole_one_ends() {
        let recipe = json!({ "what": "parabola" });
        let run = |cut: Option<u64>| {
            let mut variables = vec![variable(&[3.0, -1.0]), variable(&[0.5])];
            let mut trainer_now = trainer(&variables);
            while !trainer_now.is_done() {
                if Some(trainer_now.steps()) == cut {
                    let saved = trainer_now.checkpoint(&recipe).unwrap();
                    variables = vec![variable(&[0.0, 0.0]), variable(&[0.0])];
                    trainer_now = trainer(&variables);
                    trainer_now.restore(Path::new("run"), saved, &recipe).unwrap();
                }
                let objective = Parabola { variables: variables.clone(), broken_at: u64::MAX };
                let report = trainer_now.step(&objective).unwrap();
                assert_eq!((report.step, report.tokens), (trainer_now.steps(), 6));
            }
            let values = |var: &Var| var.to_vec1::<f32>().unwrap();
            variables.iter().flat_map(values).map(f32::to_bits).collect::<Vec<u32>>()
        };
        let whole = run(None);
        (0..40).for_each(|cut| assert_eq!(run(Some(cut)), whole, "cut at {cut}"));
    }

    #[test]
    fn the_first_step_names_what_has_no_gradient() {
        let variables = [variable(&[3.0]), variable(&[4.0])];
        let objective = Parabola { variables: variables[..1].to_vec(), broken_at: u64::MAX };
        let refused = trainer(&variables).step(&objective).unwrap_err();
        assert!(matches!(&refused, TrainError::NoGradient { name } if name == "v1"), "{refused}");
        let mut whole = trainer(&variables[..1]);
        assert_eq!(whole.step(&objective).unwrap().norms.len(), 1);
        assert!(whole.step(&objective).unwrap().norms.is_empty());
    }

    #[test]
    fn a_loss_that_is_no_number_stops_before_anything_changes() {
        let variables = [variable(&[3.0])];
        let objective = Parabola { variables: variables.to_vec(), broken_at: 2 };
        let mut trainer = trainer(&variables);
        trainer.step(&objective).unwrap();
        trainer.step(&objective).unwrap();
        let before = variables[0].to_vec1::<f32>().unwrap();
        let refused = trainer.step(&objective).unwrap_err().to_string();
        assert!(refused.contains("at step 3") && refused.contains("`v0`"), "{refused}");
        assert_eq!((variables[0].to_vec1::<f32>().unwrap(), trainer.steps()), (before, 2));
    }

    #[test]
    fn what_teaches_nothing_is_refused() {
        let with = |change: fn(&mut TrainOptions)| {
            let mut options = options();
            change(&mut options);
            let one = [("v".to_owned(), variable(&[1.0]))];
            Trainer::new(options, one, |_| false).unwrap_err().to_string()
        };
        assert!(with(|of| of.schedule.peak = 0.0).contains("the learning rate is 0"));
        assert!(with(|of| of.schedule.peak = f64::NAN).contains("the learning rate is NaN"));
        assert!(with(|of| of.schedule.steps = 0).contains("the number of steps is 0"));
        assert!(with(|of| of.schedule.floor = 1.5).contains("1.5"));
        assert!(with(|of| of.weight_decay = -1.0).contains("the weight decay is -1"));
        assert!(with(|of| of.clip = 0.0).contains("the norm of gradients is 0"));
        assert!(with(|of| of.accumulate = 0).contains("parts of a step is 0"));
        let refused = Trainer::new(options(), [], |_| false).unwrap_err();
        assert!(matches!(refused, TrainError::Frozen));
    }
}
