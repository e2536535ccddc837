//! Two loaded cartridges on the same prompts: how far apart their answers are.

use cart_nn::decoder::{Run, State};
use cart_nn::{ForwardError, Logits, LogitsFor};
use serde::Serialize;
use thiserror::Error;

use crate::agent::Agent;
use crate::distribution;
use crate::tokenizer::{ShowSpecial, TokenizerError};

/// Tokens whose distributions are kept at once, of each side.
const CHUNK: usize = 32;

/// Why two cartridges can't be compared by what they answer.
#[derive(Debug, Error)]
pub enum BehaviourError {
    /// There is no prompt.
    #[error("there are no prompts to compare answers to; give at least one")]
    NoPrompts,
    /// There is no tokenizer.
    #[error("{side} has no tokenizer, so it can't read prompts; pack the model with its tokenizer")]
    NoTokenizer {
        /// `A` or `B`.
        side: char,
    },
    /// A tokenizer fails on a prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Distributions are over other tokens.
    #[error(
        "the vocabularies have {a} and {b} tokens; distributions can be compared only over the same tokens"
    )]
    Vocabulary {
        /// Tokens of A.
        a: u64,
        /// Tokens of B.
        b: u64,
    },
    /// The prompt has other tokens.
    #[error(
        "the prompt {prompt:?} has other tokens in A than in B; answers can be compared only where the tokenizers agree"
    )]
    OtherTokens {
        /// The prompt.
        prompt: String,
    },
    /// There is nothing to continue, or too much.
    #[error(
        "the prompt {prompt:?} has {found} tokens; with {steps} to be generated, allowed are 1 to {most}"
    )]
    Length {
        /// The prompt.
        prompt: String,
        /// Its tokens.
        found: usize,
        /// Tokens to be generated.
        steps: usize,
        /// What the smaller context has room for.
        most: usize,
    },
    /// A model fails.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A model computed something that is not a number.
    #[error(
        "the logits of {side} after {prompt:?} are not finite; its weights or the arithmetic are damaged"
    )]
    NotFinite {
        /// `A` or `B`.
        side: char,
        /// The prompt.
        prompt: String,
    },
    /// Somebody asked to stop.
    #[error("cancelled; nothing was changed")]
    Cancelled,
}

/// How far apart two cartridges are on one prompt. Distributions are those of the bare models, without memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptBehaviour {
    /// The prompt.
    pub prompt: String,
    /// Its tokens; after each of them both predict the next.
    pub tokens: usize,
    /// Mean over these of KL(A‖B) = `Σ p_A · (ln p_A − ln p_B)`, in nats.
    pub kl: f64,
    /// Mean of KL(B‖A).
    pub kl_reverse: f64,
    /// The largest KL(A‖B).
    pub kl_max: f64,
    /// Of these predictions, those whose best token is the same.
    pub top1_agrees: usize,
    /// Sum of −ln p of A over the prompt's tokens but the first, in nats.
    pub nats_a: f64,
    /// The same of B.
    pub nats_b: f64,
    /// Tokens that each side generated, best token first.
    pub steps: usize,
    /// The first of them that differs, from 0; none where all agree.
    pub diverges_at: Option<usize>,
    /// What A generates.
    pub text_a: String,
    /// What B generates.
    pub text_b: String,
}

/// How far apart two cartridges are on all prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BehaviourReport {
    /// Predictions that were compared.
    pub predictions: usize,
    /// Mean over them of KL(A‖B), in nats.
    pub kl: f64,
    /// Mean over them of KL(B‖A), in nats.
    pub kl_reverse: f64,
    /// The largest KL(A‖B).
    pub kl_max: f64,
    /// The share of them whose best token is the same.
    pub top1: f64,
    /// Tokens of prompts that were scored.
    pub scored: usize,
    /// `exp` of the mean of −ln p over these, of A; none where nothing was scored.
    pub perplexity_a: Option<f64>,
    /// The same of B.
    pub perplexity_b: Option<f64>,
    /// Prompts whose generated texts are the same.
    pub same_texts: usize,
    /// The median of where the others part, in generated tokens from 0.
    pub median_divergence: Option<f64>,
    /// Prompt by prompt.
    pub prompts: Vec<PromptBehaviour>,
}

/// Lets both read each prompt and go on greedily.
///
/// * `steps`: tokens that are generated
/// * `cancelled`: is asked between pieces of work
///
/// # Errors
/// The tokens of the two are not the same, a prompt has none or too many, or a model fails.
pub fn compare_behaviour(
    [a, b]: [&Agent; 2],
    prompts: &[String],
    steps: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<BehaviourReport, BehaviourError> {
    if prompts.is_empty() {
        return Err(BehaviourError::NoPrompts);
    }
    let sizes = [a, b].map(|agent| agent.model().spec().vocab_size);
    if sizes[0] != sizes[1] {
        return Err(BehaviourError::Vocabulary { a: sizes[0], b: sizes[1] });
    }
    let mut compared = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let tokens = encode([a, b], prompt, steps)?;
        let mut reading = Reading::new([a, b], prompt, &tokens);
        reading.read(cancelled)?;
        compared.push(reading.finish(steps, cancelled)?);
    }
    Ok(summary(compared))
}

fn encode(agents: [&Agent; 2], prompt: &str, steps: usize) -> Result<Vec<u32>, BehaviourError> {
    let [a, b] = [('A', agents[0]), ('B', agents[1])].map(|(side, agent)| {
        let tokenizer = agent.tokenizer().ok_or(BehaviourError::NoTokenizer { side })?;
        Ok::<_, BehaviourError>(tokenizer.encode_prompt(prompt)?)
    });
    let tokens = a?;
    if tokens != b? {
        return Err(BehaviourError::OtherTokens { prompt: prompt.to_owned() });
    }
    let context = agents.map(Agent::context_length).into_iter().min().unwrap_or(0);
    let (found, most) = (tokens.len(), context.saturating_sub(steps));
    if found == 0 || found > most {
        return Err(BehaviourError::Length { prompt: prompt.to_owned(), found, steps, most });
    }
    Ok(tokens)
}

/// Both models reading one prompt.
struct Reading<'a> {
    agents: [&'a Agent; 2],
    prompt: &'a str,
    tokens: &'a [u32],
    states: [State; 2],
    /// KL(A‖B) and KL(B‖A) after each token.
    divergences: Vec<[f64; 2]>,
    top1_agrees: usize,
    nats: [f64; 2],
    /// The best tokens after the prompt.
    next: [u32; 2],
}

impl<'a> Reading<'a> {
    fn new(agents: [&'a Agent; 2], prompt: &'a str, tokens: &'a [u32]) -> Self {
        Self {
            agents,
            prompt,
            tokens,
            states: agents.map(Agent::new_state),
            divergences: Vec::new(),
            top1_agrees: 0,
            nats: [0.0; 2],
            next: [0; 2],
        }
    }

    fn read(&mut self, cancelled: &dyn Fn() -> bool) -> Result<(), BehaviourError> {
        for (index, chunk) in self.tokens.chunks(CHUNK).enumerate() {
            if cancelled() {
                return Err(BehaviourError::Cancelled);
            }
            let a = self.forward(0, chunk, LogitsFor::All)?;
            let b = self.forward(1, chunk, LogitsFor::All)?;
            for row in 0..chunk.len() {
                self.compare([a.row(row), b.row(row)], index * CHUNK + row)?;
            }
        }
        Ok(())
    }

    fn forward(
        &mut self,
        side: usize,
        tokens: &[u32],
        logits: LogitsFor,
    ) -> Result<Logits, BehaviourError> {
        let run = Run { state: &mut self.states[side], tokens, logits, taps: None };
        let mut made = self.agents[side].forward(&mut [run])?;
        Ok(made.swap_remove(0))
    }

    /// * `at`: the token after which these are the predictions
    fn compare(&mut self, rows: [&[f32]; 2], at: usize) -> Result<(), BehaviourError> {
        for (side, row) in ['A', 'B'].into_iter().zip(rows) {
            if !cart_nn::logits::all_finite(row) {
                let prompt = self.prompt.to_owned();
                return Err(BehaviourError::NotFinite { side, prompt });
            }
        }
        let [a, b] = rows;
        self.divergences.push([distribution::kl(a, b), distribution::kl(b, a)]);
        self.next = rows.map(|row| distribution::best(row, 1)[0]);
        self.top1_agrees += usize::from(self.next[0] == self.next[1]);
        if let Some(&token) = self.tokens.get(at + 1) {
            for (nats, row) in self.nats.iter_mut().zip(rows) {
                *nats -= distribution::logprob(row, token);
            }
        }
        Ok(())
    }

    /// Goes on with each side's best tokens.
    fn finish(
        mut self,
        steps: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<PromptBehaviour, BehaviourError> {
        let [a, b] = [self.generate(0, steps, cancelled)?, self.generate(1, steps, cancelled)?];
        let text = |side: usize, tokens: &[u32]| {
            let tokenizer = self.agents[side].tokenizer();
            let decoded = tokenizer.map(|tokenizer| tokenizer.decode(tokens, ShowSpecial::Yes));
            Ok::<_, BehaviourError>(decoded.transpose()?.unwrap_or_default())
        };
        let parted = a.iter().zip(&b).position(|(a, b)| a != b);
        let parted = parted.or((a.len() != b.len()).then_some(a.len().min(b.len())));
        let mean = |which: usize| {
            let sum: f64 = self.divergences.iter().map(|both| both[which]).sum();
            sum / self.divergences.len() as f64
        };
        Ok(PromptBehaviour {
            prompt: self.prompt.to_owned(),
            tokens: self.tokens.len(),
            kl: mean(0),
            kl_reverse: mean(1),
            kl_max: self.divergences.iter().map(|both| both[0]).fold(0.0, f64::max),
            top1_agrees: self.top1_agrees,
            nats_a: self.nats[0],
            nats_b: self.nats[1],
            steps: a.len().max(b.len()),
            diverges_at: parted,
            text_a: text(0, &a)?,
            text_b: text(1, &b)?,
        })
    }

    /// Up to `steps` tokens, the last of which may be one that ends a text.
    fn generate(
        &mut self,
        side: usize,
        steps: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, BehaviourError> {
        let ends = self.agents[side].tokenizer().map(|tokenizer| tokenizer.special().eos.clone());
        let ends = ends.unwrap_or_default();
        let mut tokens = Vec::with_capacity(steps);
        let mut next = self.next[side];
        while tokens.len() < steps {
            tokens.push(next);
            if ends.contains(&next) || tokens.len() == steps {
                break;
            }
            if cancelled() {
                return Err(BehaviourError::Cancelled);
            }
            let logits = self.forward(side, &[next], LogitsFor::Last)?;
            let row = logits.last().unwrap_or_default();
            if row.is_empty() || !cart_nn::logits::all_finite(row) {
                let side = ['A', 'B'][side];
                return Err(BehaviourError::NotFinite { side, prompt: self.prompt.to_owned() });
            }
            next = distribution::best(row, 1)[0];
        }
        Ok(tokens)
    }
}

fn summary(prompts: Vec<PromptBehaviour>) -> BehaviourReport {
    let predictions: usize = prompts.iter().map(|one| one.tokens).sum();
    let scored: usize = prompts.iter().map(|one| one.tokens - 1).sum();
    let weighted = |of: &dyn Fn(&PromptBehaviour) -> f64| {
        prompts.iter().map(|one| of(one) * one.tokens as f64).sum::<f64>() / predictions as f64
    };
    let perplexity = |of: &dyn Fn(&PromptBehaviour) -> f64| {
        let nats: f64 = prompts.iter().map(of).sum();
        (scored > 0).then(|| (nats / scored as f64).exp())
    };
    let mut parted: Vec<usize> = prompts.iter().filter_map(|one| one.diverges_at).collect();
    parted.sort_unstable();
    let middle = |parted: &[usize]| {
        let (low, high) = (parted[(parted.len() - 1) / 2], parted[parted.len() / 2]);
        f64::midpoint(low as f64, high as f64)
    };
    BehaviourReport {
        predictions,
        kl: weighted(&|one| one.kl),
        kl_reverse: weighted(&|one| one.kl_reverse),
        kl_max: prompts.iter().map(|one| one.kl_max).fold(0.0, f64::max),
        top1: prompts.iter().map(|one| one.top1_agrees).sum::<usize>() as f64 / predictions as f64,
        scored,
        perplexity_a: perplexity(&|one| one.nats_a),
        perplexity_b: perplexity(&|one| one.nats_b),
        same_texts: prompts.len() - parted.len(),
        median_divergence: (!parted.is_empty()).then(|| middle(&parted)),
        prompts,
    }
}
