//! Golden probes: does a loaded cartridge still answer as it did when they were recorded?

use cart_format::{Probe, ProbeStep};
use cart_nn::decoder::Run;
use cart_nn::{ForwardError, LogitsFor};
use serde::Serialize;
use thiserror::Error;

use crate::agent::Agent;
use crate::distribution;
use crate::tokenizer::{ParseSpecial, TokenizerError};

/// How far a log-probability may move before a probe fails, in nats, where nothing else is said:
/// more than the kernels of different machines differ, less than a damaged layer does.
pub const TOLERANCE: f64 = 0.25;

/// Texts for [`finite_check`], where a commit has no probes.
const CHECKS: [&str; 3] = ["The capital of France is", "def main():\n", "1, 2, 3, 4,"];

/// Why a probe can't be recorded or checked.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no tokenizer.
    #[error(
        "the cartridge has no tokenizer, so it can't be probed with texts; pack the model with its tokenizer"
    )]
    NoTokenizer,
    /// The tokenizer fails on the prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing would be recorded.
    #[error(
        "a probe of {steps} steps with {top} tokens each records nothing; give at least 1 of both"
    )]
    Nothing {
        /// Steps asked for.
        steps: usize,
        /// Tokens asked for at each.
        top: usize,
    },
    /// There is nothing to continue.
    #[error("the probe's prompt has no tokens")]
    EmptyPrompt,
    /// The model fails.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The model computed something that is not a number.
    #[error(
        "the logits at step {step} of the probe {prompt:?} are not finite; the weights or the arithmetic are damaged"
    )]
    NotFinite {
        /// The probe's prompt.
        prompt: String,
        /// The step, from 0.
        step: usize,
    },
}

/// What a probe has shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeOutcome {
    /// The prompt.
    pub prompt: String,
    /// Whether everything was within the tolerance.
    pub passed: bool,
    /// Log-probabilities compared.
    pub compared: usize,
    /// The largest distance found, in nats.
    pub largest: f64,
    /// The tolerance, in nats.
    pub tolerance: f64,
    /// Why it failed, if it did.
    pub failure: Option<ProbeFailure>,
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProbeFailure {
    /// The prompt has other tokens now.
    OtherTokens {
        /// Tokens recorded.
        expected: Vec<u32>,
        /// Tokens now.
        found: Vec<u32>,
    },
    /// A token of the probe is not in the vocabulary.
    UnknownToken {
        /// The step, from 0.
        step: usize,
        /// The token.
        token: u32,
    },
    /// A log-probability is too far off.
    Moved {
        /// The step, from 0.
        step: usize,
        /// The token.
        token: u32,
        /// ln p recorded.
        expected: f64,
        /// ln p now.
        found: f64,
    },
}

/// What [`finite_check`] has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FiniteReport {
    /// Texts read.
    pub prompts: usize,
    /// Logits that are finite numbers.
    pub logits: usize,
}

/// Why a model must not be used.
#[derive(Debug, Error)]
pub enum FiniteError {
    /// The check itself failed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// All tokens are equally likely.
    #[error("after {prompt:?} every token has the same logit; the weights have collapsed")]
    Collapsed {
        /// The text.
        prompt: String,
    },
}

/// Records what the bare model answers: greedily, step by step.
///
/// # Errors
/// The prompt has no tokens, or the model fails.
pub fn record_probe(
    agent: &Agent,
    prompt: &str,
    steps: usize,
    top: usize,
) -> Result<Probe, ProbeError> {
    if steps == 0 || top == 0 {
        return Err(ProbeError::Nothing { steps, top });
    }
    let token_ids = encode(agent, prompt)?;
    let mut recorded = Vec::with_capacity(steps);
    walk(agent, prompt, &token_ids, |logits| {
        let top = distribution::top_logprobs(logits, top);
        let best = top[0].token;
        recorded.push(ProbeStep { top });
        (recorded.len() < steps).then_some(best)
    })?;
    Ok(Probe { prompt: prompt.to_owned(), token_ids, steps: recorded, tolerance: TOLERANCE })
}

/// Checks that the model's log-probabilities are still those of the probe. Each step continues with
/// the token that was the best when it was recorded, so that one close call does not change all
/// that follows.
///
/// # Errors
/// The probe can't be run at all. That an answer has changed is an outcome and no error.
pub fn check_probe(agent: &Agent, probe: &Probe) -> Result<ProbeOutcome, ProbeError> {
    let mut outcome = ProbeOutcome {
        prompt: probe.prompt.clone(),
        passed: true,
        compared: 0,
        largest: 0.0,
        tolerance: probe.tolerance,
        failure: None,
    };
    let found = encode(agent, &probe.prompt)?;
    if found != probe.token_ids {
        outcome.fail(ProbeFailure::OtherTokens { expected: probe.token_ids.clone(), found });
        return Ok(outcome);
    }
    let mut steps = probe.steps.iter().enumerate();
    walk(agent, &probe.prompt, &probe.token_ids, |logits| {
        let (step, recorded) = steps.next()?;
        outcome.compare(step, recorded, logits);
        let best = recorded.top.first()?.token;
        let more = steps.len() > 0 && (best as usize) < logits.len();
        more.then_some(best)
    })?;
    Ok(outcome)
}

/// Reads a few texts and checks that the model's answers are numbers and not all the same.
///
/// # Errors
/// They are not.
pub fn finite_check(agent: &Agent) -> Result<FiniteReport, FiniteError> {
    let mut report = FiniteReport { prompts: 0, logits: 0 };
    for prompt in CHECKS {
        let vocab = agent.model().spec().vocab_size;
        let tokens = match agent.tokenizer() {
            Some(tokenizer) => {
                tokenizer.encode(prompt, ParseSpecial::No).map_err(ProbeError::from)?
            }
            None => prompt.bytes().map(|byte| (u64::from(byte) % vocab) as u32).collect(),
        };
        let mut collapsed = false;
        walk(agent, prompt, &tokens, |logits| {
            collapsed = logits.len() > 1 && logits.iter().all(|&logit| logit == logits[0]);
            report.logits += logits.len();
            None
        })?;
        if collapsed {
            return Err(FiniteError::Collapsed { prompt: prompt.to_owned() });
        }
        report.prompts += 1;
    }
    Ok(report)
}

impl ProbeOutcome {
    fn compare(&mut self, step: usize, recorded: &ProbeStep, logits: &[f32]) {
        let norm = distribution::log_sum_exp(logits);
        for expected in &recorded.top {
            let token = expected.token;
            let Some(&logit) = logits.get(token as usize) else {
                self.fail(ProbeFailure::UnknownToken { step, token });
                continue;
            };
            let found = f64::from(logit) - norm;
            let distance = (found - expected.logprob).abs();
            self.compared += 1;
            self.largest = self.largest.max(distance);
            // A distance or a tolerance that is no number passes nothing.
            let within = distance <= self.tolerance;
            if !within {
                let expected = expected.logprob;
                self.fail(ProbeFailure::Moved { step, token, expected, found });
            }
        }
    }

    /// Keeps the first failure.
    fn fail(&mut self, failure: ProbeFailure) {
        self.passed = false;
        self.failure.get_or_insert(failure);
    }
}

fn encode(agent: &Agent, prompt: &str) -> Result<Vec<u32>, ProbeError> {
    let tokenizer = agent.tokenizer().ok_or(ProbeError::NoTokenizer)?;
    Ok(tokenizer.encode_prompt(prompt)?)
}

/// Reads tokens, shows the logits of the last to `next`, and goes on with the token that it gives.
fn walk(
    agent: &Agent,
    prompt: &str,
    tokens: &[u32],
    mut next: impl FnMut(&[f32]) -> Option<u32>,
) -> Result<(), ProbeError> {
    if tokens.is_empty() {
        return Err(ProbeError::EmptyPrompt);
    }
    let mut state = agent.new_state();
    let mut tokens = tokens.to_vec();
    for step in 0.. {
        let run = Run { state: &mut state, tokens: &tokens, logits: LogitsFor::Last, taps: None };
        let logits = agent.forward(&mut [run])?;
        let row = logits[0].last().unwrap_or_default();
        if !cart_nn::logits::all_finite(row) {
            return Err(ProbeError::NotFinite { prompt: prompt.to_owned(), step });
        }
        match next(row) {
            Some(token) => tokens = vec![token],
            None => break,
        }
    }
    Ok(())
}
