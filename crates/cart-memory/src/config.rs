//! The settings of a memory.

mod rules;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use rules::{
    AddressingRules, BiasRules, BufferRules, ContradictionPolicy, ContradictionRules,
    DiagnosticRules, GraphRules, MergeRule, Part, StoreRules,
};

/// Most slots of a store, which keeps positions and sizes well inside 32 bits.
pub const MAX_SLOTS: u32 = 1 << 20;
/// Longest span of one slot, in tokens.
pub const MAX_SPAN_TOKENS: u32 = 1 << 12;
/// Most goal vectors of one slot.
pub const MAX_GOAL_VECTORS: u32 = 64;
/// Most perturbed queries of one counterfactual score.
pub const MAX_SAMPLES: u32 = 1 << 16;

/// Why settings can't be used.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("memory setting `{name}` is {found}; allowed: {allowed}")]
pub struct ConfigError {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub found: f64,
    /// What it may be.
    pub allowed: Allowed,
}

/// A range of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// The smallest.
    pub least: f64,
    /// The largest; infinity where there is no limit.
    pub most: f64,
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.most.is_infinite() {
            write!(f, "a number, {} or more", self.least)
        } else {
            write!(f, "{} to {}", self.least, self.most)
        }
    }
}

/// The settings of a memory. A tick is one observation, unless the caller counts otherwise.
///
/// Defaults are those of the dual-memory engine and of SEAM, where they give them; thresholds on
/// energy are on the gated scale (see [`crate::gate`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Slots of the short-term ring.
    pub stm_slots: u32,
    /// Slots of the long-term codebook.
    pub ltm_slots: u32,
    /// Most tokens of one observation; also the rows that a slot's token keys take when stored.
    pub max_span_tokens: u32,
    /// Cosine from which an observation of the same value is blended into a short-term slot.
    pub merge_threshold: f32,
    /// Rate of the blend in short-term memory.
    pub stm_ema_alpha: f32,
    /// Rate of the blend in long-term memory.
    pub ltm_ema_alpha: f32,
    /// Loss of a short-term slot's score per tick since it was refreshed: `exp(−β · age)`.
    pub age_beta: f32,
    /// Cosine from which an entry of the same value is not novel, and is merged into the codebook.
    pub novelty_threshold: f32,
    /// Gated energy from which a short-term slot is consolidated.
    pub consolidate_threshold: f32,
    /// Most slots that one run of the observer consolidates.
    pub consolidate_most: u32,
    /// How much the energy of a consolidated slot must rise before it is consolidated again.
    pub material_change: f32,
    /// Ticks between two runs of the observer.
    pub observer_interval: u64,
    /// Ticks between two prunings of long-term memory.
    pub prune_interval: u64,
    /// Ticks without a write or a read after which a long-term slot is pruned.
    pub prune_age: u64,
    /// First rate of the goal; at step `n` it is `goal_rate · exp(−n / 1000)`.
    pub goal_rate: f32,
    /// Longest that the goal vector may become; 1 would mean that every entry agreed.
    pub goal_cap: f32,
    /// Rate of the running surprise statistics.
    pub surprise_alpha: f32,
    /// Mean surprise expected before anything was seen, in nats.
    pub surprise_prior_mean: f32,
    /// Deviation of surprise expected before anything was seen, in nats.
    pub surprise_prior_deviation: f32,
    /// Which slot takes an observation.
    #[serde(skip_serializing_if = "is_default")]
    pub merge: MergeRule,
    /// Share of the goal that the prompt's direction replaces before each step.
    #[serde(skip_serializing_if = "is_default")]
    pub goal_prompt_blend: f32,
    /// Goal vectors that a slot may carry.
    #[serde(skip_serializing_if = "is_default")]
    pub goal_vectors: u32,
    /// Short-term memory decays in cycles.
    #[serde(skip_serializing_if = "is_default")]
    pub buffer: Option<BufferRules>,
    /// Long-term memory takes what surprises.
    #[serde(skip_serializing_if = "is_default")]
    pub store: Option<StoreRules>,
    /// Confidence sets the goal's rate.
    #[serde(skip_serializing_if = "is_default")]
    pub diagnostic: Option<DiagnosticRules>,
    /// What comes one after the other is linked.
    #[serde(skip_serializing_if = "is_default")]
    pub graph: Option<GraphRules>,
    /// How reads are mixed; absent, as [`AddressingRules::default`] says.
    #[serde(skip_serializing_if = "is_default")]
    pub addressing: Option<AddressingRules>,
    /// Values under one key end each other.
    #[serde(skip_serializing_if = "is_default")]
    pub contradictions: Option<ContradictionRules>,
    /// What is filtered before consolidation.
    #[serde(skip_serializing_if = "is_default")]
    pub bias: Option<BiasRules>,
    /// Parts of a key, in order; none where a key is one whole.
    #[serde(skip_serializing_if = "is_default")]
    pub parts: Vec<Part>,
}

/// Fields at their defaults are not written, so that a memory without further rules has the bytes
/// that it had in version 1.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            stm_slots: 32,
            ltm_slots: 128,
            max_span_tokens: 64,
            merge_threshold: 0.95,
            stm_ema_alpha: 0.1,
            ltm_ema_alpha: 0.2,
            age_beta: 0.001,
            novelty_threshold: 0.6,
            consolidate_threshold: 0.3,
            consolidate_most: 4,
            material_change: 0.1,
            observer_interval: 4,
            prune_interval: 50,
            prune_age: 1000,
            goal_rate: 0.05,
            goal_cap: 0.5,
            surprise_alpha: 0.1,
            surprise_prior_mean: 3.0,
            surprise_prior_deviation: 1.5,
            merge: MergeRule::SameValue,
            goal_prompt_blend: 0.0,
            goal_vectors: 0,
            buffer: None,
            store: None,
            diagnostic: None,
            graph: None,
            addressing: None,
            contradictions: None,
            bias: None,
            parts: Vec::new(),
        }
    }
}

impl MemoryConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range, or not a number.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, found, (least, most)) in self.numbers().into_iter().chain(self.rule_numbers()) {
            // Rates are given as f32, so a bound is met as f32 too.
            if !(found.is_finite() && found as f32 >= least as f32 && found <= most) {
                return Err(ConfigError { name, found, allowed: Allowed { least, most } });
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<Setting> {
        let unit = (0.0, 1.0);
        let rate = (1e-6, 1.0);
        let count = (1.0, f64::from(MAX_SLOTS));
        let interval = (1.0, (1_u64 << 53) as f64);
        let nats = (0.0, 1e6);
        let f = f64::from;
        vec![
            ("stm_slots", f64::from(self.stm_slots), count),
            ("ltm_slots", f64::from(self.ltm_slots), count),
            ("max_span_tokens", f64::from(self.max_span_tokens), (1.0, f64::from(MAX_SPAN_TOKENS))),
            ("merge_threshold", f(self.merge_threshold), (-1.0, 1.0)),
            ("stm_ema_alpha", f(self.stm_ema_alpha), rate),
            ("ltm_ema_alpha", f(self.ltm_ema_alpha), rate),
            ("age_beta", f(self.age_beta), (0.0, f64::INFINITY)),
            ("novelty_threshold", f(self.novelty_threshold), (-1.0, 1.0)),
            ("consolidate_threshold", f(self.consolidate_threshold), unit),
            ("consolidate_most", f64::from(self.consolidate_most), count),
            ("material_change", f(self.material_change), rate),
            ("observer_interval", self.observer_interval as f64, interval),
            ("prune_interval", self.prune_interval as f64, interval),
            ("prune_age", self.prune_age as f64, interval),
            ("goal_rate", f(self.goal_rate), unit),
            ("goal_cap", f(self.goal_cap), unit),
            ("surprise_alpha", f(self.surprise_alpha), rate),
            ("surprise_prior_mean", f(self.surprise_prior_mean), nats),
            ("surprise_prior_deviation", f(self.surprise_prior_deviation), (1e-6, 1e6)),
            ("goal_prompt_blend", f(self.goal_prompt_blend), unit),
            ("goal_vectors", f64::from(self.goal_vectors), (0.0, f64::from(MAX_GOAL_VECTORS))),
        ]
    }

    fn rule_numbers(&self) -> Vec<Setting> {
        let unit = (0.0, 1.0);
        let cosine = (-1.0, 1.0);
        let large = (0.0, 1e6);
        let f = f64::from;
        let mut all: Vec<Setting> = Vec::new();
        if let Some(rules) = &self.buffer {
            all.push(("buffer.retention", f(rules.retention), unit));
            all.push(("buffer.floor", f(rules.floor), unit));
        }
        if let Some(rules) = &self.store {
            all.push(("store.z_threshold", f(rules.z_threshold), large));
            all.push(("store.capacity_pressure", f(rules.capacity_pressure), large));
            all.push(("store.retention", f(rules.retention), unit));
            all.push(("store.floor", f(rules.floor), unit));
        }
        if let Some(rules) = &self.diagnostic {
            let samples = (1.0, f64::from(MAX_SAMPLES));
            all.push(("diagnostic.seed", rules.seed as f64, (0.0, (1_u64 << 53) as f64)));
            all.push(("diagnostic.samples", f64::from(rules.samples), samples));
            all.push(("diagnostic.sigma", f(rules.sigma), (0.0, 100.0)));
            all.push(("diagnostic.floor", f(rules.floor), unit));
        }
        if let Some(rules) = &self.graph {
            all.push(("graph.rate", f(rules.rate), unit));
            all.push(("graph.decay", f(rules.decay), unit));
            all.push(("graph.window", rules.window as f64, (1.0, (1_u64 << 53) as f64)));
            all.push(("graph.depression", f(rules.depression), unit));
            all.push(("graph.read_activity", f(rules.read_activity), unit));
            all.push((
                "graph.out_degree",
                f64::from(rules.out_degree),
                (1.0, f64::from(MAX_SLOTS)),
            ));
            all.push(("graph.alpha", f(rules.alpha), unit));
            all.push(("graph.floor", f(rules.floor), unit));
        }
        if let Some(rules) = &self.addressing {
            let both = |name, number: f32| (name, f(number), (-100.0, 100.0));
            all.extend(rules.bias.map(|number| both("addressing.bias", number)));
            all.extend(rules.slope.map(|number| both("addressing.slope", number)));
        }
        if let Some(rules) = &self.contradictions {
            all.push(("contradictions.cosine", f(rules.cosine), cosine));
        }
        if let Some(rules) = &self.bias {
            all.push(("bias.cosine", f(rules.cosine), cosine));
            all.push(("bias.keep", f(rules.keep), unit));
        }
        for part in &self.parts {
            all.push(("parts.dim", f64::from(part.dim), (1.0, f64::from(MAX_SLOTS))));
            all.push(("parts.weight", f(part.weight), (1e-6, 1e6)));
        }
        all
    }

    /// Whether a rule is set that version 1 of the state did not know.
    pub(crate) fn has_later_rules(&self) -> bool {
        let plain = Self::default();
        let before = Self {
            merge: plain.merge,
            goal_prompt_blend: plain.goal_prompt_blend,
            goal_vectors: plain.goal_vectors,
            buffer: None,
            store: None,
            diagnostic: None,
            graph: None,
            addressing: None,
            contradictions: None,
            bias: None,
            parts: Vec::new(),
            ..self.clone()
        };
        before != *self
    }
}

/// A setting's name, its value, and its least and most.
type Setting = (&'static str, f64, (f64, f64));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_survive_json() {
        let config = MemoryConfig::default();
        assert_eq!(config.check(), Ok(()));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MemoryConfig>(&text).unwrap(), config);
    }

    #[test]
    fn each_setting_out_of_range_is_named() {
        let base = MemoryConfig::default();
        let cases: [(&str, MemoryConfig); 8] = [
            ("stm_slots", MemoryConfig { stm_slots: 0, ..base.clone() }),
            ("ltm_slots", MemoryConfig { ltm_slots: 0, ..base.clone() }),
            ("ltm_slots", MemoryConfig { ltm_slots: MAX_SLOTS + 1, ..base.clone() }),
            ("merge_threshold", MemoryConfig { merge_threshold: 1.5, ..base.clone() }),
            ("age_beta", MemoryConfig { age_beta: f32::NAN, ..base.clone() }),
            ("age_beta", MemoryConfig { age_beta: f32::INFINITY, ..base.clone() }),
            ("observer_interval", MemoryConfig { observer_interval: 0, ..base.clone() }),
            ("goal_rate", MemoryConfig { goal_rate: -0.1, ..base.clone() }),
        ];
        for (name, config) in cases {
            assert_eq!(config.check().unwrap_err().name, name);
        }
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(serde_json::from_str::<MemoryConfig>(r#"{"stm_slot": 3}"#).is_err());
    }
}
