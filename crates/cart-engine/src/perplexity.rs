//! How well a model predicts a text.

use std::time::{Duration, Instant};

use cart_nn::decoder::{Run, State};
use cart_nn::{ForwardError, Logits, LogitsFor};
use thiserror::Error;

use crate::agent::Agent;
use crate::distribution;
use crate::event::MemoryUse;
use crate::memory_loop::{MemoryLoop, MemoryLoopError};
use crate::options::{MemoryOptions, OptionsError};
use crate::prompt_text::PromptText;
use crate::tokenizer::{ParseSpecial, Tokenizer, TokenizerError};

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
        /// Tokens asked for, with those that are read before each chunk.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// Recalled spans go in front of a text, and there is one already.
    #[error(
        "recalled spans go into an empty context, but a text is read before each chunk; leave out the text, or the prefix"
    )]
    BeforeAndPrefix,
    /// An option of the memory.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Memory fails.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
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

/// A text that is scored, and what the model is given for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored<'t> {
    /// The text.
    pub text: &'t str,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// A text that is read before each chunk; it may be empty.
    pub before: &'t str,
    /// How memory takes part: each chunk is read as a prompt would be, and its first half asks for
    /// what is recalled. Nothing is written.
    pub memory: MemoryOptions,
}

/// A measured perplexity.
#[derive(Clone, Debug, PartialEq)]
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
    /// What memory did in each chunk; none where it took no part.
    pub memory: Vec<MemoryUse>,
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
    perplexity_of(agent, &Scored { text, chunk, ..Scored::default() })
}

/// As [`perplexity`], with memory, or with a text before each chunk. Where there is one, the
/// begin-of-text token goes before it, and the chunk keeps its first token.
///
/// # Errors
/// The text is shorter than a chunk, a chunk with what is read before it does not fit the context, an
/// option is out of its range, or the model or memory fails.
pub fn perplexity_of(
    agent: &Agent,
    scored: &Scored<'_>,
) -> Result<PerplexityReport, PerplexityError> {
    let began = Instant::now();
    let chunk = scored.chunk;
    scored.memory.check()?;
    let tokenizer = agent.tokenizer().ok_or(PerplexityError::NoTokenizer)?;
    let mut scorer = Scorer::new(agent, tokenizer, scored)?;
    let tokens = tokenizer.encode(scored.text, ParseSpecial::No)?;
    for (index, tokens) in tokens.chunks_exact(chunk).enumerate() {
        scorer.chunk(tokens, index * chunk)?;
    }
    if scorer.scores.is_empty() {
        return Err(PerplexityError::TooShort { found: tokens.len(), chunk });
    }
    let (perplexity, standard_error) = summary(&scorer.scores);
    Ok(PerplexityReport {
        perplexity,
        standard_error,
        tokens: tokens.len(),
        chunk,
        chunks: tokens.len() / chunk,
        scored: scorer.scores.len(),
        memory: scorer.memory,
        took: began.elapsed(),
    })
}

/// Scores one chunk after the other.
struct Scorer<'a> {
    agent: &'a Agent,
    /// What stands in place of a chunk's first token.
    bos: Option<u32>,
    /// What was read before each chunk.
    before: State,
    options: MemoryOptions,
    /// −ln p of each scored token.
    scores: Vec<f64>,
    memory: Vec<MemoryUse>,
}

impl<'a> Scorer<'a> {
    fn new(
        agent: &'a Agent,
        tokenizer: &Tokenizer,
        scored: &Scored<'_>,
    ) -> Result<Self, PerplexityError> {
        let bos = tokenizer.special().bos.filter(|_| tokenizer.special().add_bos);
        let read = match scored.before {
            "" => Vec::new(),
            text => tokenizer.encode_prompt(text)?,
        };
        if !read.is_empty() && scored.memory.prefix.is_some() {
            return Err(PerplexityError::BeforeAndPrefix);
        }
        let (context, found) = (agent.context_length(), scored.chunk + read.len());
        if scored.chunk < 4 || found > context {
            return Err(PerplexityError::Chunk { found, context });
        }
        let mut before = agent.new_state();
        if !read.is_empty() {
            let (state, logits) = (&mut before, LogitsFor::None);
            agent.forward(&mut [Run { state, tokens: &read, logits, taps: None }])?;
        }
        let bos = bos.filter(|_| read.is_empty());
        let options = MemoryOptions { write: false, ..scored.memory.clone() };
        Ok(Self { agent, bos, before, options, scores: Vec::new(), memory: Vec::new() })
    }

    /// Reads a chunk, and scores the tokens after its middle.
    ///
    /// * `at`: where it begins in the text
    fn chunk(&mut self, tokens: &[u32], at: usize) -> Result<(), PerplexityError> {
        let mut tokens = tokens.to_vec();
        if let Some(bos) = self.bos {
            tokens[0] = bos;
        }
        let (first, second) = tokens.split_at(tokens.len() / 2);
        let mut state = self.before.clone();
        let asked = PromptText::plain(tokens[..first.len()].to_vec());
        let room = tokens.len() - first.len() + self.before.len();
        let mut memory = MemoryLoop::start(self.agent, &asked, room, &self.options, &mut state)?;
        let mut bare = match &memory {
            Some(memory) if memory.steers() => Some(state.clone()),
            Some(memory) if self.options.compare && memory.changes_states() => {
                Some(self.before.clone())
            }
            _ => None,
        };
        self.read((first, LogitsFor::None), &mut state, bare.as_mut(), memory.as_mut())?;
        let known = &second[..second.len() - 1];
        let logits =
            self.read((known, LogitsFor::All), &mut state, bare.as_mut(), memory.as_mut())?;
        for (row, &next) in second[1..].iter().enumerate() {
            let given = logits[0].row(row);
            if !cart_nn::logits::all_finite(given) {
                return Err(PerplexityError::NotFinite { position: at + first.len() + row });
            }
            let bare = logits.get(1).map(|bare| bare.row(row));
            let changed = match &mut memory {
                Some(memory) => {
                    let read = &tokens[..=first.len() + row];
                    let changed = memory.change(self.agent, (given, bare), read, Some(row))?;
                    memory.after_choice(next, given, changed.as_deref(), bare);
                    changed
                }
                None => None,
            };
            let scored = changed.as_deref().unwrap_or(given);
            self.scores.push(-distribution::logprob(scored, next));
        }
        let used = memory.map(|memory| memory.finish(self.agent)).transpose()?;
        self.memory.extend(used);
        Ok(())
    }

    /// Reads tokens, and beside it the bare model does where there is one.
    fn read(
        &self,
        (tokens, logits): (&[u32], LogitsFor),
        state: &mut State,
        bare: Option<&mut State>,
        memory: Option<&mut MemoryLoop>,
    ) -> Result<Vec<Logits>, ForwardError> {
        let (taps, beside) = memory.map(MemoryLoop::taps).unwrap_or_default();
        let mut runs = vec![Run { state, tokens, logits, taps }];
        runs.extend(bare.map(|state| Run { state, tokens, logits, taps: beside }));
        self.agent.forward(&mut runs)
    }
}

/// `exp` of the mean of −ln p, and its standard error.
fn summary(scores: &[f64]) -> (f64, f64) {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
    let perplexity = mean.exp();
    (perplexity, perplexity * (variance / (count - 1.0).max(1.0)).sqrt())
}
