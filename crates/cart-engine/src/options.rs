//! What a generation is asked to do.

use std::time::Duration;

use cart_nn::Counted;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::constraint::Constraint;
use crate::sampling::{SamplingError, SamplingOptions};

/// Most alternatives that an event can carry.
pub const MAX_TOP_LOGPROBS: usize = 100;
/// Most stop strings of one generation.
pub const MAX_STOPS: usize = 64;

/// Longest name of a conversation, in bytes.
pub const MAX_SESSION_NAME: usize = 256;

/// What the model is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text to be continued as it stands. Special tokens in it are recognized.
    Raw(String),
    /// A conversation, which the cartridge's chat template turns into text.
    Chat(Vec<Message>),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what the template knows besides.
    pub role: String,
    /// What is said.
    pub content: String,
    /// The tools that an assistant calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What whoever speaks is called: of a tool, its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// By which its answer names it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// What it is given: an object.
    pub arguments: Value,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }
}

/// How one generation runs.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Most tokens to generate; none for what the context has room for. With 0 the prompt is only
    /// read, which tells it to a memory that is written.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation. They are never part of the output.
    pub stop: Vec<String>,
    /// Alternatives to report with each token, best first.
    pub top_logprobs: usize,
    /// Whether the end-of-text tokens are treated like any other token.
    pub ignore_eos: bool,
    /// What the answer has to be; anything where there is none.
    pub constraint: Option<Constraint>,
    /// Tools that the chat template tells the model about, as OpenAI writes them.
    pub tools: Vec<Value>,
    /// How memory takes part.
    pub memory: MemoryOptions,
    /// The time that a chat template may ask for, since 1970-01-01 UTC.
    pub now: Duration,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingOptions::default(),
            max_tokens: None,
            stop: Vec::new(),
            top_logprobs: 0,
            ignore_eos: false,
            constraint: None,
            tools: Vec::new(),
            memory: MemoryOptions::default(),
            now: Duration::ZERO,
        }
    }
}

/// How memory takes part in a generation. By default it does not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    /// Recalled spans in front of the prompt, as keys and values of attention; where the model has
    /// recurrent layers, as tokens that are read, without a bias.
    pub prefix: Option<PrefixOptions>,
    /// Nearest neighbours among remembered tokens, mixed in at the sampler.
    pub knn: Option<KnnOptions>,
    /// The goal, pulling at the residual stream.
    pub goal: Option<GoalOptions>,
    /// The cartridge's memory layers, which attend to what memory says; where it has none, nothing
    /// changes.
    pub layers: Option<LayersOptions>,
    /// Whether prompt and answer are written to memory.
    pub write: bool,
    /// What of the vocabulary the surprise of a prompt's tokens is measured over, where they are written. Of generated
    /// tokens it is always all of it.
    #[serde(skip_serializing_if = "Counted::is_all")]
    pub surprise: Counted,
    /// Whether the bare model runs beside, so that the prefix's effect is measured too. It doubles
    /// the work of a generation that has a prefix.
    pub compare: bool,
    /// The memory itself, or the control of an experiment.
    pub control: MemoryControl,
    /// The conversation whose memory it is: a short-term memory of its own over the long-term memory that all
    /// conversations share. None for the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl MemoryOptions {
    /// Reading in every way but the goal, with the defaults, and writing.
    pub fn on() -> Self {
        Self { write: true, ..Self::read_only() }
    }

    /// Reading in every way but the goal, with the defaults.
    pub fn read_only() -> Self {
        Self {
            prefix: Some(PrefixOptions::default()),
            knn: Some(KnnOptions::default()),
            layers: Some(LayersOptions::default()),
            ..Self::default()
        }
    }

    /// Writing alone.
    pub fn write_only() -> Self {
        Self { write: true, ..Self::default() }
    }

    /// Without recalled spans in front of the prompt, where memory layers say what those would.
    ///
    /// * `layers`: whether the cartridge has memory layers
    pub(crate) fn beside(&self, layers: bool) -> Self {
        let replaced = layers && self.layers.is_some();
        let prefix = self.prefix.clone().filter(|prefix| prefix.beside_layers || !replaced);
        Self { prefix, ..self.clone() }
    }

    /// Whether memory is asked what the prompt is about.
    pub(crate) fn recalls(&self) -> bool {
        self.prefix.is_some() || self.knn.is_some()
    }

    /// Whether memory can reach the output.
    pub fn reads(&self) -> bool {
        self.recalls() || self.goal.is_some() || self.layers.is_some()
    }
}

/// Recalled spans in front of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixOptions {
    /// Most spans.
    pub top_k: usize,
    /// Spans whose match with the query ([`cart_memory::UnifiedMemory::peek_tokens`]) is lower are left out.
    pub min_score: f32,
    /// Added to the attention scores of a recalled span's keys, for a slot of usual weight
    /// (σ(A) = ½, energy ½). Others get more or less, by their own bias.
    pub attention_bias: f32,
    /// Most further spans: what came after those in the association graph, where the memory has one.
    pub linked: usize,
    /// Whether they are there too where memory layers read the same memory. Layers that learned
    /// without them answer worse with both than by themselves.
    pub beside_layers: bool,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        Self { top_k: 1, min_score: 0.42, attention_bias: 2.5, linked: 0, beside_layers: false }
    }
}

/// Memory layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayersOptions {
    /// Most tokens of memory that they attend to: those of the slots that weigh most.
    pub max_tokens: usize,
}

impl Default for LayersOptions {
    fn default() -> Self {
        Self { max_tokens: 1024 }
    }
}

/// Nearest neighbours at the sampler: `p = (1 − λ) · p_model + λ · p_neighbours`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnnOptions {
    /// Neighbours of each position.
    pub k: usize,
    /// Largest λ, from `full_cosine` on.
    pub lambda_max: f32,
    /// Divides the neighbours' scores before their softmax.
    pub temperature: f32,
    /// Score ([`cart_memory::Neighbour::score`]) of the best neighbour up to which λ is 0.
    pub min_cosine: f32,
    /// Score of the best neighbour from which λ is largest.
    pub full_cosine: f32,
    /// Share of the model's own judgement in what a neighbour weighs: its weight is multiplied by the
    /// probability that the model gives its token, to this power. 0 for none.
    pub plausibility: f32,
    /// How λ is found.
    pub trust: KnnTrust,
    /// Whose tokens are searched.
    pub scope: KnnScope,
}

/// How λ is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnnTrust {
    /// From the best neighbour's score: from 0 at `min_cosine` to `lambda_max` at `full_cosine`.
    #[default]
    Cosine,
    /// From that, from how well the neighbours' tokens agree with what the model expects, and from how sure the
    /// model is: `λ = lambda_max · σ(a + b · score + c · ln agreement − d · ln p_best)`. Agreement is the
    /// neighbours' mean of the model's probability to the power `plausibility`, `p_best` that of the model's best
    /// token. Where neighbours are many and far, it tells those that fit from those that do not.
    Agreement,
}

impl Default for KnnOptions {
    fn default() -> Self {
        Self {
            k: 8,
            lambda_max: 0.9,
            temperature: 0.05,
            min_cosine: 0.5,
            full_cosine: 0.7,
            plausibility: 0.0,
            trust: KnnTrust::Cosine,
            scope: KnnScope::Recalled,
        }
    }
}

impl KnnOptions {
    /// Settings for all spans of a memory: many neighbours, which need not be near, each counted as far as
    /// the model finds it plausible.
    pub fn of_all() -> Self {
        Self {
            k: 1024,
            lambda_max: 1.0,
            temperature: 0.074,
            plausibility: 0.28,
            trust: KnnTrust::Agreement,
            scope: KnnScope::All,
            ..Self::default()
        }
    }
}

/// Steering by the goal. `strength · b` is added to the logits, where `b` is by how much they change on
/// the average over positions of a fixed text for a small step of the residual stream towards the goal,
/// after the layer where memory listens: the mean of its Jacobian, times `√hidden_size · goal`. With
/// `residual`, `residual · √hidden_size · goal` is added to the residual stream too, and another pass
/// without it runs beside. Each step keeps within the budget: `logits = plain + s · (steered − plain)` with
/// the largest s up to 1 for which the Kullback–Leibler divergence from plain is at most `max_kl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoalOptions {
    /// How strongly the goal weighs on the logits; below 0 away from it.
    pub strength: f32,
    /// How strongly it pulls at the residual stream; 0 for not at all.
    pub residual: f32,
    /// Most divergence of a step, in nats.
    pub max_kl: f32,
}

impl Default for GoalOptions {
    fn default() -> Self {
        Self { strength: 0.5, residual: 0.0, max_kl: 0.5 }
    }
}

/// Whose tokens a search for neighbours covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnnScope {
    /// Those of the spans that were recalled for the prompt.
    #[default]
    Recalled,
    /// Those of all spans.
    All,
}

/// Which memory answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "seed", rename_all = "snake_case")]
pub enum MemoryControl {
    /// The agent's own.
    #[default]
    Real,
    /// A copy in which the slots' values are exchanged, by this seed.
    Shuffled(u64),
}

/// Why options can't be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum OptionsError {
    /// A sampling option.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A number is out of its range.
    #[error("`{name}` is {found}; allowed: {least} to {most}")]
    Range {
        /// The option.
        name: &'static str,
        /// Its value.
        found: f64,
        /// The smallest allowed.
        least: f64,
        /// The largest allowed.
        most: f64,
    },
    /// A conversation's name can't be used.
    #[error(
        "`memory.session` has {found}; allowed: 1 to {MAX_SESSION_NAME} bytes without control characters"
    )]
    Session {
        /// What is wrong with it.
        found: String,
    },
    /// An empty stop string would stop everything.
    #[error("stop string {index} is empty; give at least one character, or leave it out")]
    EmptyStop {
        /// Which.
        index: usize,
    },
}

impl GenerateOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option that is out of its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        self.sampling.check()?;
        range("top_logprobs", self.top_logprobs as f64, 0.0, MAX_TOP_LOGPROBS as f64)?;
        range("number of stop strings", self.stop.len() as f64, 0.0, MAX_STOPS as f64)?;
        if let Some(index) = self.stop.iter().position(String::is_empty) {
            return Err(OptionsError::EmptyStop { index });
        }
        self.memory.check()
    }
}

impl MemoryOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option that is out of its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        if let Some(prefix) = &self.prefix {
            range("prefix.top_k", prefix.top_k as f64, 1.0, 64.0)?;
            range("prefix.min_score", f64::from(prefix.min_score), -1.0, 1.0)?;
            range("prefix.linked", prefix.linked as f64, 0.0, 64.0)?;
            range("prefix.attention_bias", f64::from(prefix.attention_bias), -20.0, 20.0)?;
        }
        if let Some(knn) = &self.knn {
            range("knn.k", knn.k as f64, 1.0, 1024.0)?;
            range("knn.lambda_max", f64::from(knn.lambda_max), 0.0, 1.0)?;
            range("knn.temperature", f64::from(knn.temperature), 1e-4, 1e4)?;
            range("knn.plausibility", f64::from(knn.plausibility), 0.0, 1.0)?;
            range("knn.min_cosine", f64::from(knn.min_cosine), -1.0, 0.999)?;
            let least = f64::from(knn.min_cosine) + 0.001;
            range("knn.full_cosine", f64::from(knn.full_cosine), least, 1.0)?;
        }
        if let Some(layers) = &self.layers {
            range("layers.max_tokens", layers.max_tokens as f64, 1.0, 65_536.0)?;
        }
        if let Some(goal) = &self.goal {
            range("goal.strength", f64::from(goal.strength), -100.0, 100.0)?;
            range("goal.residual", f64::from(goal.residual), -100.0, 100.0)?;
            range("goal.max_kl", f64::from(goal.max_kl), 0.0, 100.0)?;
        }
        self.check_session()
    }

    fn check_session(&self) -> Result<(), OptionsError> {
        let Some(name) = &self.session else { return Ok(()) };
        let found = if !(1..=MAX_SESSION_NAME).contains(&name.len()) {
            format!("{} bytes", name.len())
        } else if name.chars().any(char::is_control) {
            "a control character".to_owned()
        } else {
            return Ok(());
        };
        Err(OptionsError::Session { found })
    }
}

fn range(name: &'static str, found: f64, least: f64, most: f64) -> Result<(), OptionsError> {
    // Bounds such as 1e-4 are met as f32, which lies a little off.
    if found as f32 >= least as f32 && found as f32 <= most as f32 {
        return Ok(());
    }
    Err(OptionsError::Range { name, found, least, most })
}
