//! Texts that are only read, for their embeddings: as the memory keys them.

use std::sync::Arc;

use cart_memory::{Normalization, VectorError};
use cart_nn::decoder::{Run, State};
use cart_nn::{ForwardError, LogitsFor};
use thiserror::Error;

use super::SubmitError;
use super::resident::Resident;
use super::shared::{Place, Ticket};
use crate::Agent;
use crate::calibration::CalibrationError;
use crate::hidden_tap::HiddenTap;
use crate::session::PREFILL_CHUNK;
use crate::tokenizer::{ParseSpecial, TokenizerError};

/// A text to be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Embeddable {
    /// As people write it; special tokens in it are ordinary text.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// Embeddings, in the order of their texts.
#[derive(Debug)]
pub struct Embeddings {
    /// The generation that read them.
    pub resident: Arc<Resident>,
    /// Of each text: `[hidden_size]`, of length 1.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that were read, begin-of-text tokens included.
    pub tokens: usize,
}

/// Where embeddings go. The token loop calls it between two steps, so it must not wait.
pub trait EmbeddingSink: Send {
    /// Takes them.
    fn deliver(self: Box<Self>, outcome: Result<Embeddings, EmbedError>);

    /// Whether nobody listens any more. The rest is not read then.
    fn is_closed(&self) -> bool;
}

/// Why texts can't be embedded.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The runtime takes no more, or has been stopped.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// There is no tokenizer.
    #[error("the cartridge has no tokenizer; give token ids, or pack the model with its tokenizer")]
    NoTokenizer,
    /// The tokenizer fails on a text.
    #[error("text {index}: {source}")]
    Tokenizer {
        /// Which, from 0.
        index: usize,
        /// What it said.
        source: TokenizerError,
    },
    /// A text has no tokens.
    #[error("text {index} has no tokens; give at least a character")]
    Empty {
        /// Which, from 0.
        index: usize,
    },
    /// A token that the model does not have.
    #[error("text {index} has the token {token}; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Which, from 0.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// A text does not fit into the context.
    #[error("text {index} has {found} tokens; the context has room for {allowed}")]
    TooLong {
        /// Which, from 0.
        index: usize,
        /// Its tokens.
        found: usize,
        /// Most tokens.
        allowed: usize,
    },
    /// The centre of the model's space can't be found.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The model fails.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// What the model computed has no direction.
    #[error("text {index} has no embedding: {source}")]
    Vector {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        source: VectorError,
    },
    /// The runtime is being shut down.
    #[error("the server is shutting down; this request was cut off")]
    ShuttingDown,
}

/// A text in tokens.
struct Text {
    tokens: Vec<u32>,
    /// Positions at its beginning that say where it is and not what was said.
    skipped: usize,
}

/// The text that is being read.
struct Open {
    state: State,
    read: usize,
    /// Sum of the hidden states that count, `[hidden_size]`.
    sum: Vec<f64>,
}

/// Texts that are being read. A turn reads [`PREFILL_CHUNK`] tokens of them, and each is cut at multiples of
/// that, whoever else is there, so that its embedding does not depend on them.
pub(super) struct Reading {
    pub(super) resident: Arc<Resident>,
    normalization: Normalization,
    texts: Vec<Text>,
    vectors: Vec<Vec<f32>>,
    /// The first one that is not embedded, if a part of it was read.
    open: Option<Open>,
    sink: Box<dyn EmbeddingSink>,
    /// Given back when reading begins.
    place: Option<Place>,
    _ticket: Ticket,
}

impl Reading {
    /// Turns texts into tokens and finds the centre of the model's space, on this thread.
    ///
    /// # Errors
    /// A text has no tokens, too many, or unknown ones, or the model can't read its calibration text.
    pub(super) fn new(
        resident: Arc<Resident>,
        texts: &[Embeddable],
        sink: Box<dyn EmbeddingSink>,
        (place, ticket): (Place, Ticket),
    ) -> Result<Self, EmbedError> {
        let agent = resident.agent();
        let texts = texts.iter().enumerate().map(|(index, text)| tokens_of(agent, index, text));
        let texts: Vec<Text> = texts.collect::<Result<_, _>>()?;
        let normalization = agent.normalization()?;
        let vectors = Vec::with_capacity(texts.len());
        let open = None;
        Ok(Self {
            resident,
            normalization,
            texts,
            vectors,
            open,
            sink,
            place: Some(place),
            _ticket: ticket,
        })
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sink.is_closed()
    }

    /// Reads on, one batch. Gives itself back as long as there is more to read.
    pub(super) fn step(mut self) -> Option<Self> {
        self.place = None;
        if let Err(error) = self.read() {
            self.sink.deliver(Err(error));
            return None;
        }
        if self.vectors.len() < self.texts.len() {
            return Some(self);
        }
        let tokens = self.texts.iter().map(|text| text.tokens.len()).sum();
        let Self { resident, vectors, sink, .. } = self;
        sink.deliver(Ok(Embeddings { resident, vectors, tokens }));
        None
    }

    /// Ends it from outside.
    pub(super) fn cut_off(self) {
        self.sink.deliver(Err(EmbedError::ShuttingDown));
    }

    fn read(&mut self) -> Result<(), EmbedError> {
        let agent = self.resident.agent();
        let dim = agent.model().spec().hidden_size as usize;
        let first = self.vectors.len();
        let mut room = PREFILL_CHUNK;
        let mut batch: Vec<(Open, HiddenTap, &[u32])> = Vec::new();
        for text in &self.texts[first..] {
            let open = self.open.take().unwrap_or_else(|| Open {
                state: agent.new_state(),
                read: 0,
                sum: vec![0.0; dim],
            });
            let piece = (text.tokens.len() - open.read).min(PREFILL_CHUNK);
            let Some(left) = room.checked_sub(piece) else { break };
            room = left;
            let tokens = &text.tokens[open.read..open.read + piece];
            let tap = HiddenTap::new(agent.tap_layer());
            let ends = open.read + piece == text.tokens.len();
            batch.push((open, if ends { tap.ending() } else { tap }, tokens));
        }
        let mut runs: Vec<Run<'_>> = batch
            .iter_mut()
            .map(|(open, tap, tokens)| Run {
                state: &mut open.state,
                tokens,
                logits: LogitsFor::None,
                taps: Some(tap),
            })
            .collect();
        agent.forward(&mut runs)?;
        drop(runs);
        for (index, (mut open, tap, tokens)) in (first..).zip(batch) {
            let text = &self.texts[index];
            let skipped = text.skipped.saturating_sub(open.read).min(tokens.len());
            for row in tap.rows().chunks_exact(dim).skip(skipped) {
                open.sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            open.read += tokens.len();
            // What is not whole took all the room there was, so it is the only one of the batch.
            if open.read < text.tokens.len() {
                self.open = Some(open);
                break;
            }
            let count = (text.tokens.len() - text.skipped) as f64;
            let mean: Vec<f32> = open.sum.iter().map(|sum| (sum / count) as f32).collect();
            let unit = self.normalization.unit("embedding", &mean);
            self.vectors.push(unit.map_err(|source| EmbedError::Vector { index, source })?);
        }
        Ok(())
    }
}

/// A text as memory is told it at the beginning of a context: after the begin-of-text token where the
/// cartridge has one, whose position does not count; else its own first one does not, if there are others.
fn tokens_of(agent: &Agent, index: usize, text: &Embeddable) -> Result<Text, EmbedError> {
    let tokens = match text {
        Embeddable::Tokens(tokens) => tokens.clone(),
        Embeddable::Text(text) => {
            let tokenizer = agent.tokenizer().ok_or(EmbedError::NoTokenizer)?;
            tokenizer
                .encode(text, ParseSpecial::No)
                .map_err(|source| EmbedError::Tokenizer { index, source })?
        }
    };
    if tokens.is_empty() {
        return Err(EmbedError::Empty { index });
    }
    let vocab = agent.model().spec().vocab_size;
    if let Some(&token) = tokens.iter().find(|&&token| u64::from(token) >= vocab) {
        return Err(EmbedError::TokenOutOfRange { index, token, vocab });
    }
    let special = agent.tokenizer().map(crate::Tokenizer::special);
    let bos = special.and_then(|special| special.bos.filter(|_| special.add_bos));
    let bos = bos.filter(|bos| tokens.first() != Some(bos));
    let tokens: Vec<u32> = bos.into_iter().chain(tokens).collect();
    let (found, allowed) = (tokens.len(), agent.context_length());
    if found > allowed {
        return Err(EmbedError::TooLong { index, found, allowed });
    }
    let skipped = usize::from(tokens.len() > 1);
    Ok(Text { tokens, skipped })
}
