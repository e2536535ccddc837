//! How well a model predicts a text.

use std::time::{Duration, Instant};

use cart_nn::decoder::Run;
use cart_nn::{ForwardError, LogitsFor};
use thiserror::Error;

use crate::agent::Agent;
use crate::distribution;
use crate::tokenizer::{ParseSpecial, TokenizerError};

/// Why perplexity can't be measured.
#[derive(Debug, Error)]
pub enum PerplexityError {
    /// There is no tokenizer.
    #[error(
        "the cartridge has no tokenizer, so a text has no tokens; pack the model with its tokenizer"
    )]
    NoTokenizer,
    /// The tokenizer fails on the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A chunk has no second half, or more tokens than the model can read.
    #[error("chunks of {found} tokens; allowed: 4 to the context of {context}")]
    Chunk {
        /// Tokens asked for.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// The text does not fill a chunk.
    #[error(
        "the text has {found} tokens; at least one chunk of {chunk} is needed: give a longer text or shorter chunks"
    )]
    TooShort {
        /// Tokens of the text.
        found: usize,
        /// Tokens of a chunk.
        chunk: usize,
    },
    /// The model fails.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The model computed something that is not a number.
    #[error(
        "the logits at token {position} are not finite; the weights or the arithmetic are damaged"
    )]
    NotFinite {
        /// Where in the text.
        position: usize,
    },
}

/// A measured perplexity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerplexityReport {
    /// `exp` of the mean of −ln p over the scored tokens.
    pub perplexity: f64,
    /// Standard error of that mean, times the perplexity.
    pub standard_error: f64,
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Whole chunks.
    pub chunks: usize,
    /// Tokens that were scored.
    pub scored: usize,
    /// How long it took.
    pub took: Duration,
}

/// Perplexity as `perplexity()` of llama.cpp's tools measures it, with the windows of the plain
/// text: its tokens, without a begin-of-text token, are cut into chunks of `chunk`; each is read by
/// itself, its first token replaced by the begin-of-text token where the cartridge puts one before
/// prompts; and the tokens from `chunk / 2 + 1` on are scored, each given all before it in its
/// chunk. What does not fill a chunk is left out. The tool itself tokenizes the text with a
/// begin-of-text token, so that with models that have one its windows begin a token earlier, and
/// its figure is another.
///
/// # Errors
/// The text is shorter than a chunk, the chunk does not fit the context, or the model fails.
pub fn perplexity(
    agent: &Agent,
    text: &str,
    chunk: usize,
) -> Result<PerplexityReport, PerplexityError> {
    let began = Instant::now();
    let context = agent.context_length();
    if !(4..=context).contains(&chunk) {
        return Err(PerplexityError::Chunk { found: chunk, context });
    }
    let tokenizer = agent.tokenizer().ok_or(PerplexityError::NoTokenizer)?;
    let tokens = tokenizer.encode(text, ParseSpecial::No)?;
    let mut scores = Vec::new();
    for (index, tokens) in tokens.chunks_exact(chunk).enumerate() {
        let mut tokens = tokens.to_vec();
        if let Some(bos) = tokenizer.special().bos.filter(|_| tokenizer.special().add_bos) {
            tokens[0] = bos;
        }
        scores.extend(score(agent, &tokens, index * chunk)?);
    }
    if scores.is_empty() {
        return Err(PerplexityError::TooShort { found: tokens.len(), chunk });
    }
    Ok(report(&scores, tokens.len(), chunk, began.elapsed()))
}

/// −ln p of each token after the middle of a chunk.
fn score(agent: &Agent, tokens: &[u32], at: usize) -> Result<Vec<f64>, PerplexityError> {
    let (first, second) = tokens.split_at(tokens.len() / 2);
    let mut state = agent.new_state();
    agent.forward(&mut [Run {
        state: &mut state,
        tokens: first,
        logits: LogitsFor::None,
        taps: None,
    }])?;
    let known = &second[..second.len() - 1];
    let logits = agent.forward(&mut [Run {
        state: &mut state,
        tokens: known,
        logits: LogitsFor::All,
        taps: None,
    }])?;
    let mut scores = Vec::with_capacity(known.len());
    for (row, &next) in second[1..].iter().enumerate() {
        let row_logits = logits[0].row(row);
        if !cart_nn::logits::all_finite(row_logits) {
            return Err(PerplexityError::NotFinite { position: at + first.len() + row });
        }
        scores.push(-distribution::logprob(row_logits, next));
    }
    Ok(scores)
}

fn report(scores: &[f64], tokens: usize, chunk: usize, took: Duration) -> PerplexityReport {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
    let perplexity = mean.exp();
    PerplexityReport {
        perplexity,
        standard_error: perplexity * (variance / (count - 1.0).max(1.0)).sqrt(),
        tokens,
        chunk,
        chunks: tokens / chunk,
        scored: scores.len(),
        took,
    }
}
