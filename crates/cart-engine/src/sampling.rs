//! From logits to a token.
//!
//! The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, then one draw.
//! The draw depends on the seed and the token's position alone, so it is the same whatever else
//! runs beside. Of equal logits the lower id comes first.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why sampling options can't be used.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[error("sampling option `{name}` is {found}; allowed: {allowed}")]
pub struct SamplingError {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub found: f64,
    /// What it may be.
    pub allowed: &'static str,
}

/// How a token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the best token.
    pub temperature: f32,
    /// Tokens kept, the best ones; 0 for all.
    pub top_k: usize,
    /// Tokens kept: the fewest whose probabilities reach this.
    pub top_p: f32,
    /// Tokens kept: those with at least this share of the best one's probability.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen lately; 1 for none.
    pub repetition_penalty: f32,
    /// How many of the last tokens, prompt included, count as seen lately.
    pub repetition_window: usize,
    /// Which draws.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option that is out of its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let refuse = |name, found: f32, allowed| {
            Err(SamplingError { name, found: f64::from(found), allowed })
        };
        if !(self.temperature.is_finite() && (0.0..=100.0).contains(&self.temperature)) {
            return refuse("temperature", self.temperature, "0 to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "over 0, up to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0) {
            return refuse("repetition_penalty", self.repetition_penalty, "over 0, up to 100");
        }
        Ok(())
    }
}
