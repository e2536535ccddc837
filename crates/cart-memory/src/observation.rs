//! What a memory is told, and what it refuses.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::MergeRule;
use crate::vector::{self, VectorError};
use crate::{MemoryConfig, Normalization, SlotRef, Tick, TokenKeys};

/// A moment, counted by the caller. Ticks never run backwards; the largest is 2⁵³ − 1, so that
/// every JSON reader gets them exactly.
pub const MAX_TICK: Tick = (1 << 53) - 1;

/// Most cycles of one call.
pub const MAX_CYCLES: u32 = 1_000_000;

/// Something that a model saw or wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// Raw hidden state that stands for the whole, `[dim]`.
    pub key: Vec<f32>,
    /// Raw hidden state at each token, `[tokens, dim]`, flat; or empty.
    pub token_keys: Vec<f32>,
    /// The tokens, `[tokens]`.
    pub token_ids: Vec<u32>,
    /// The text of the tokens.
    pub text: String,
    /// −ln p of each token in nats, `[tokens]`; or one mean; or empty where it was not measured.
    pub surprise: Vec<f32>,
    /// How much it matters, 0 to 1 (see [`crate::UnifiedMemory::energy_from_surprise`]).
    pub energy: f32,
    /// Where it comes from, such as `prompt` or `answer`.
    pub source: String,
}

/// Why an observation or a question was refused. The memory is as it was before.
#[derive(Debug, Error, PartialEq)]
pub enum MemoryError {
    /// A vector can't be used.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// Energy is a share.
    #[error("energy is {found}; allowed: 0 to 1")]
    Energy {
        /// The value.
        found: f32,
    },
    /// A gate is any finite number.
    #[error("gate is {found}; every finite number is allowed")]
    Gate {
        /// The value.
        found: f32,
    },
    /// Token keys come as whole rows, one for each token.
    #[error("{found} values of token keys for {tokens} tokens of dimension {dim}; give {} or none", tokens * dim)]
    TokenKeys {
        /// Values found.
        found: usize,
        /// Tokens of the observation.
        tokens: usize,
        /// Values of a key.
        dim: usize,
    },
    /// One surprise for each token.
    #[error("{found} surprises for {tokens} tokens; give one for each, one mean, or none")]
    SurpriseLength {
        /// Surprises found.
        found: usize,
        /// Tokens of the observation.
        tokens: usize,
    },
    /// Surprise is −ln p, so it is finite and not negative.
    #[error("surprise is {found} at index {index}; allowed: 0 or more, in nats")]
    Surprise {
        /// Where.
        index: usize,
        /// The value.
        found: f32,
    },
    /// There would be nothing to recall.
    #[error(
        "the observation has neither tokens nor text; give what is to be remembered, or set `merge` to `nearest`, where keys alone are enough"
    )]
    NoValue,
    /// The span does not fit a slot.
    #[error(
        "the observation has {found} tokens; allowed: {allowed} (`max_span_tokens`); cut it into spans"
    )]
    SpanTooLong {
        /// Tokens found.
        found: usize,
        /// Most tokens.
        allowed: u32,
    },
    /// Ticks never run backwards.
    #[error("tick {found} lies before tick {now}, which the memory has seen; count on from there")]
    TimeRanBack {
        /// The tick given.
        found: Tick,
        /// The memory's tick.
        now: Tick,
    },
    /// Ticks over 2⁵³ − 1 lose digits in JSON.
    #[error("tick {found} is over the largest, {MAX_TICK}")]
    TickTooLarge {
        /// The tick given.
        found: Tick,
    },
    /// A slot that is not there (any more).
    #[error("there is no slot {slot}; it was evicted, pruned or never made")]
    NoSuchSlot {
        /// The slot.
        slot: SlotRef,
    },
    /// A slot can't take its own place.
    #[error("slot {slot} can't supersede itself")]
    SupersedesItself {
        /// The slot.
        slot: SlotRef,
    },
    /// What was asked for works only under a rule that this memory does not have.
    #[error("the setting `{rule}` is not set, so this would change nothing; set it first")]
    RuleNotSet {
        /// The setting.
        rule: &'static str,
    },
    /// Cycles are counted from 1.
    #[error("{found} cycles; allowed: 1 to {MAX_CYCLES}")]
    Cycles {
        /// The number found.
        found: u32,
    },
    /// A perturbation that makes no sense.
    #[error("`{name}` is {found}; allowed: {least} to {most}")]
    Perturbation {
        /// The field.
        name: &'static str,
        /// Its value.
        found: f64,
        /// The smallest.
        least: f64,
        /// The largest.
        most: f64,
    },
    /// Values can only be exchanged between slots that differ.
    #[error("the memory holds {distinct} different values; at least 2 are needed to shuffle them")]
    NothingToShuffle {
        /// Values that differ.
        distinct: usize,
    },
}

/// Surprises a little under 0 come from rounding.
const LEAST_SURPRISE: f32 = -1e-3;

/// An observation that was checked: nothing that follows can fail.
pub(crate) struct Checked<'o> {
    pub(crate) seen: &'o Observation,
    pub(crate) unit: Vec<f32>,
    pub(crate) token_keys: TokenKeys,
    pub(crate) energy: f32,
}

impl<'o> Checked<'o> {
    pub(crate) fn new(
        seen: &'o Observation,
        normalization: &Normalization,
        config: &MemoryConfig,
    ) -> Result<Self, MemoryError> {
        let max_span_tokens = config.max_span_tokens;
        let tokens = seen.token_ids.len();
        if tokens == 0 && seen.text.is_empty() && config.merge == MergeRule::SameValue {
            return Err(MemoryError::NoValue);
        }
        if tokens > max_span_tokens as usize {
            return Err(MemoryError::SpanTooLong { found: tokens, allowed: max_span_tokens });
        }
        check_energy(seen.energy)?;
        check_surprise(&seen.surprise, tokens)?;
        let unit = normalization.unit("key", &seen.key)?;
        let token_keys = token_keys(seen, normalization)?;
        // −0 and 0 are the same energy, but not the same bits; JSON keeps only 0.
        Ok(Self { seen, unit, token_keys, energy: seen.energy + 0.0 })
    }
}

pub(crate) fn check_tick(at: Tick, now: Tick) -> Result<(), MemoryError> {
    if at > MAX_TICK {
        return Err(MemoryError::TickTooLarge { found: at });
    }
    if at < now {
        return Err(MemoryError::TimeRanBack { found: at, now });
    }
    Ok(())
}

fn check_energy(energy: f32) -> Result<(), MemoryError> {
    if (0.0..=1.0).contains(&energy) {
        return Ok(());
    }
    Err(MemoryError::Energy { found: energy })
}

fn check_surprise(surprise: &[f32], tokens: usize) -> Result<(), MemoryError> {
    if surprise.len() > 1 && surprise.len() != tokens {
        return Err(MemoryError::SurpriseLength { found: surprise.len(), tokens });
    }
    match surprise.iter().position(|&nats| !(nats.is_finite() && nats >= LEAST_SURPRISE)) {
        Some(index) => Err(MemoryError::Surprise { index, found: surprise[index] }),
        None => Ok(()),
    }
}

fn token_keys(seen: &Observation, normalization: &Normalization) -> Result<TokenKeys, MemoryError> {
    let (tokens, dim) = (seen.token_ids.len(), normalization.dim());
    if seen.token_keys.is_empty() {
        return Ok(TokenKeys::empty(dim));
    }
    if seen.token_keys.len() != tokens * dim {
        return Err(MemoryError::TokenKeys { found: seen.token_keys.len(), tokens, dim });
    }
    vector::check("token keys", &seen.token_keys, tokens * dim)?;
    Ok(TokenKeys::normalized(&seen.token_keys, normalization)?)
}
