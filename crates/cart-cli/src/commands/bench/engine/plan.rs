//! What every engine is given: the same tokens, and how many of them each measure takes.

use cart_engine::{ParseSpecial, ShowSpecial, Tokenizer};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Tokens of the measures. The drivers of the rivals read it as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// As many as `long_prefill`.
    pub(crate) ids: Vec<u32>,
    /// The same for engines that take text only.
    pub(crate) text: PlanText,
    /// Tokens of a short prompt.
    pub(crate) prompt: usize,
    /// Tokens of a long prompt.
    pub(crate) prefill: usize,
    /// Tokens generated after the short prompt.
    pub(crate) decode: usize,
    /// Tokens read before decoding at a long context.
    pub(crate) long_prefill: usize,
    /// Tokens generated there.
    pub(crate) long_decode: usize,
    /// Sessions decoded together.
    pub(crate) sessions: usize,
    /// Tokens that each of them generates.
    pub(crate) many_decode: usize,
}

/// The first tokens as text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlanText {
    /// The short prompt.
    pub(crate) prompt: String,
    /// The long one.
    pub(crate) prefill: String,
}

/// What one process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Reading a long prompt; generating after a short one; peak memory of both
    Short,
    /// From the start of the process to its first token
    First,
    /// Sessions decoded together
    Many,
    /// Generating at a long context
    Long,
}

impl Job {
    /// The word that drivers know it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::First => "first",
            Self::Many => "many",
            Self::Long => "long",
        }
    }
}

impl Plan {
    /// * `context`: positions that the model has
    pub(crate) fn new(tokenizer: &Tokenizer, context: usize) -> Result<Self, Failure> {
        let text = tokenizer.encode(super::super::TEXT, ParseSpecial::No);
        let text = text.map_err(Failure::refused)?;
        let long_decode = 32;
        let long_prefill = 8_000.min(context.saturating_sub(long_decode + 2));
        let prefill = 512.min(long_prefill);
        let prompt = 16.min(prefill);
        let ids: Vec<u32> = text.iter().copied().cycle().take(long_prefill).collect();
        let shown = |tokens: usize| tokenizer.decode(&ids[..tokens], ShowSpecial::No);
        let text = PlanText {
            prompt: shown(prompt).map_err(Failure::refused)?,
            prefill: shown(prefill).map_err(Failure::refused)?,
        };
        let decode = 128.min(context.saturating_sub(prompt + 2));
        let (sessions, many_decode) = (16, 32);
        let plan = Self {
            ids,
            text,
            prompt,
            prefill,
            decode,
            long_prefill,
            long_decode,
            sessions,
            many_decode,
        };
        Ok(plan)
    }

    /// Tokens of the prompt of one of the sessions that are decoded together.
    pub(crate) fn session_prompt(&self, session: usize) -> &[u32] {
        &self.ids[session * 8..session * 8 + self.prompt]
    }
}
