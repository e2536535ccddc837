//! What a generation says while it runs, and when it is done.

use std::time::Duration;

use cart_format::TokenLogprob;
use serde::{Deserialize, Serialize};

use cart_memory::SlotRef;

use crate::long_term::LongTermUse;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop string came.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The model ended the text.
    Eos,
}

/// What one step of a session did.
#[derive(Clone, Debug, PartialEq)]
pub enum StepEvent {
    /// Part of the prompt was read.
    Prefilled {
        /// Tokens of the prompt read so far.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was generated.
    Generated(GenerateEvent),
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateEvent {
    /// The token.
    pub token: u32,
    /// Text that is certain now. It may be empty, and it may hold text of earlier tokens: half a
    /// character and the possible beginning of a stop string are held back. The deltas of a whole
    /// generation, joined, are its text.
    pub text_delta: String,
    /// ln p of the token in nats, before any filter, with memory mixed in.
    pub logprob: f64,
    /// The best tokens, best first; as many as were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
    /// Set on the last event.
    pub finished: Option<FinishReason>,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new text, without a stop string.
    pub text: String,
    /// The prompt's tokens.
    pub prompt_ids: Vec<u32>,
    /// The new tokens, an end-of-text token included.
    pub token_ids: Vec<u32>,
    /// ln p of each new token.
    pub logprobs: Vec<f64>,
    /// The best tokens at each step, if they were asked for.
    pub top_logprobs: Vec<Vec<TokenLogprob>>,
    /// Why it ended.
    pub finish: FinishReason,
    /// How long it took.
    pub timings: Timings,
    /// What memory did; none where it took no part.
    pub memory: Option<MemoryUse>,
}

/// How long the parts of a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Recall and the encoding of recalled spans.
    pub recall: Duration,
    /// Reading the prompt.
    pub prefill: Duration,
    /// Generating.
    pub decode: Duration,
    /// Of these, looking up and mixing in neighbours, and writing to memory.
    pub memory: Duration,
}

/// What memory did in one generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Slots in the memory when the generation began, or when a swap gave it another one.
    pub slots: usize,
    /// Recalled spans, best first.
    pub read: Vec<SlotRead>,
    /// Tokens that the prefix put before the prompt.
    pub prefix_tokens: usize,
    /// Tokens of memory that the memory layers attended to.
    #[serde(default)]
    pub layer_tokens: usize,
    /// Steps at which neighbours changed the distribution.
    pub knn_steps: usize,
    /// Mean λ over these steps.
    pub knn_lambda: f64,
    /// Steps that the goal steered.
    pub goal_steps: usize,
    /// Mean KL divergence of these steps from those without the goal, in nats.
    pub goal_kl: f64,
    /// Mean share that the budget left of the way to the steered logits.
    pub goal_share: f64,
    /// Observations written.
    pub written: usize,
    /// Short-term slots that are new.
    pub slots_added: usize,
    /// Slots consolidated into long-term memory.
    pub slots_consolidated: usize,
    /// Mean of ln p with memory − ln p of the bare model over the generated tokens, in nats. None
    /// where the bare model did not run beside: with a prefix it does so if asked for, and not while the
    /// goal steers.
    pub delta_logprob: Option<f64>,
    /// Mean KL divergence of the distribution with memory from the bare model's, in nats.
    pub kl: Option<f64>,
    /// Microseconds that memory took for each generated token, recall included.
    pub micros_per_token: f64,
    /// The long-term memory that is shared with others; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_term: Option<LongTermUse>,
}

/// A recalled span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotRead {
    /// The slot.
    pub slot: SlotRef,
    /// Its text.
    pub text: String,
    /// Where it comes from.
    pub source: String,
    /// Late-interaction score with the query, −1 to 1.
    pub score: f32,
    /// The bias on its attention scores.
    pub bias: f32,
}
