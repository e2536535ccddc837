//! How a student learns from a teacher.

use cart_format::ArchSpec;
use cart_nn::graph::Divergence;
use serde_json::{Value, json};

use super::HiddenOptions;
use crate::error::TrainError;

/// How a student learns from a teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct DistillOptions {
    /// How far the student's distribution is from the teacher's.
    pub divergence: Divergence,
    /// What both sides' logits are divided by.
    pub temperature: f64,
    /// The share of the loss that is −ln p of the tokens that do follow, 0 to 1; at 1 the teacher is
    /// not asked.
    pub hard: f64,
    /// The best tokens of the teacher that are known one by one.
    pub best: usize,
    /// Hidden states that are compared too.
    pub hidden: Option<HiddenOptions>,
    /// The share of sequences that the student goes on from itself, 0 to 1.
    pub on_policy: f64,
    /// Tokens of the data that it goes on from.
    pub prompt: usize,
}

impl DistillOptions {
    /// Refuses numbers that nothing can be learned with.
    ///
    /// * `context`: tokens of a sequence
    ///
    /// # Errors
    /// The first of them.
    pub fn check(
        &self,
        student: &ArchSpec,
        teacher: &ArchSpec,
        context: usize,
    ) -> Result<(), TrainError> {
        let refused =
            |option, found: String, allowed| Err(TrainError::Option { option, found, allowed });
        if let Divergence::JensenShannon { beta } = self.divergence
            && !(beta > 0.0 && beta < 1.0)
        {
            return refused("beta", beta.to_string(), "between 0 and 1");
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return refused("the temperature", self.temperature.to_string(), "above 0");
        }
        if !(0.0..=1.0).contains(&self.hard) {
            return refused("the share of hard labels", self.hard.to_string(), "0 to 1");
        }
        if !(0.0..=1.0).contains(&self.on_policy) {
            return refused("the on-policy share", self.on_policy.to_string(), "0 to 1");
        }
        if self.hard == 1.0 && (self.on_policy > 0.0 || self.hidden.is_some()) {
            let allowed = "under 1 where the teacher is asked for hidden states or on-policy";
            return refused("the share of hard labels", self.hard.to_string(), allowed);
        }
        if self.best == 0 || self.best as u64 > teacher.vocab_size {
            return refused("top-k", self.best.to_string(), "1 to the size of the vocabulary");
        }
        if self.on_policy > 0.0 && !(1..=context).contains(&self.prompt) {
            return refused("the prompt", self.prompt.to_string(), "1 to the context");
        }
        let Some(hidden) = &self.hidden else { return Ok(()) };
        if !(hidden.weight.is_finite() && hidden.weight > 0.0) {
            return refused("the weight of hidden states", hidden.weight.to_string(), "above 0");
        }
        if hidden.map.is_empty() {
            return refused("the map of layers", "empty".to_owned(), "one pair or more");
        }
        Ok(hidden.check(student.layers.len(), teacher.layers.len())?)
    }

    /// Refuses what has no meaning where teacher and student have other tokens.
    ///
    /// * `most`: groups that can be named one by one
    pub(super) fn check_aligned(&self, most: usize) -> Result<(), TrainError> {
        let refused =
            |option, found: String, allowed| Err(TrainError::Option { option, found, allowed });
        if self.temperature != 1.0 {
            let allowed = "1 where tokens are aligned: what several say together has no logit";
            return refused("the temperature", self.temperature.to_string(), allowed);
        }
        if let Some(hidden) = &self.hidden {
            let allowed = "none where tokens are aligned: positions are other ones";
            return refused("the weight of hidden states", hidden.weight.to_string(), allowed);
        }
        if self.on_policy > 0.0 {
            let allowed = "0 where tokens are aligned";
            return refused("the on-policy share", self.on_policy.to_string(), allowed);
        }
        if self.best > most {
            let allowed = "1 to the number of groups of aligned tokens";
            return refused("top-k", self.best.to_string(), allowed);
        }
        Ok(())
    }

    /// All of them, for a recipe.
    pub fn to_value(&self) -> Value {
        let divergence = match self.divergence {
            Divergence::ForwardKl => json!({ "kind": "forward" }),
            Divergence::ReverseKl => json!({ "kind": "reverse" }),
            Divergence::JensenShannon { beta } => json!({ "kind": "js", "beta": beta }),
        };
        json!({
            "divergence": divergence,
            "temperature": self.temperature,
            "hard": self.hard,
            "best": self.best,
            "hidden": self.hidden,
            "on_policy": self.on_policy,
            "prompt": self.prompt,
        })
    }

    /// Whether the teacher's predictions for the data are learned from.
    pub(super) fn asks_teacher(&self) -> bool {
        self.hard < 1.0
    }
}
