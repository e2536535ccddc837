//! The settings of a memory.

mod rules;
mod vectors;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use rules::{
    AddressingRules, BiasRules, BufferRules, ContradictionPolicy, ContradictionRules,
    DiagnosticRules, GraphRules, MergeRule, Part, SearchRule, StoreRules,
};
pub(crate) use vectors::{check_centres, with_parts};

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
    pub found: SettingValue,
    /// What it may be.
    pub allowed: Allowed,
}

/// The value of a setting. Whole numbers are kept whole: over 2⁵³ a double would show another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SettingValue {
    /// A count, a number of ticks or a seed.
    Whole(u64),
    /// A rate, a threshold or a weight.
    Real(f64),
}

impl SettingValue {
    fn within(self, least: f64, most: f64) -> bool {
        match self {
            // Bounds of whole numbers are whole and at most 2⁵³.
            Self::Whole(found) => (least as u64..=most as u64).contains(&found),
            // Rates are given as f32, so a bound is met as f32 too.
            Self::Real(found) => found.is_finite() && found as f32 >= least as f32 && found <= most,
        }
    }
}

impl From<f32> for SettingValue {
    fn from(found: f32) -> Self {
        Self::Real(f64::from(found))
    }
}

impl From<u32> for SettingValue {
    fn from(found: u32) -> Self {
        Self::Whole(u64::from(found))
    }
}

impl From<u64> for SettingValue {
    fn from(found: u64) -> Self {
        Self::Whole(found)
    }
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(found) => write!(f, "{found}"),
            Self::Real(found) => write!(f, "{found}"),
        }
    }
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
    /// How a large long-term memory is searched.
    #[serde(skip_serializing_if = "is_default")]
    pub search: SearchRule,
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
            search: SearchRule::Quick,
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
            if !found.within(least, most) {
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
        vec![
            ("stm_slots", self.stm_slots.into(), count),
            ("ltm_slots", self.ltm_slots.into(), count),
            ("max_span_tokens", self.max_span_tokens.into(), (1.0, f64::from(MAX_SPAN_TOKENS))),
            ("merge_threshold", self.merge_threshold.into(), (-1.0, 1.0)),
            ("stm_ema_alpha", self.stm_ema_alpha.into(), rate),
            ("ltm_ema_alpha", self.ltm_ema_alpha.into(), rate),
            ("age_beta", self.age_beta.into(), (0.0, f64::INFINITY)),
            ("novelty_threshold", self.novelty_threshold.into(), (-1.0, 1.0)),
            ("consolidate_threshold", self.consolidate_threshold.into(), unit),
            ("consolidate_most", self.consolidate_most.into(), count),
            ("material_change", self.material_change.into(), rate),
            ("observer_interval", self.observer_interval.into(), interval),
            ("prune_interval", self.prune_interval.into(), interval),
            ("prune_age", self.prune_age.into(), interval),
            ("goal_rate", self.goal_rate.into(), unit),
            ("goal_cap", self.goal_cap.into(), unit),
            ("surprise_alpha", self.surprise_alpha.into(), rate),
            ("surprise_prior_mean", self.surprise_prior_mean.into(), nats),
            ("surprise_prior_deviation", self.surprise_prior_deviation.into(), (1e-6, 1e6)),
            ("goal_prompt_blend", self.goal_prompt_blend.into(), unit),
            ("goal_vectors", self.goal_vectors.into(), (0.0, f64::from(MAX_GOAL_VECTORS))),
        ]
    }

    fn rule_numbers(&self) -> Vec<Setting> {
        let unit = (0.0, 1.0);
        let cosine = (-1.0, 1.0);
        let large = (0.0, 1e6);
        let mut all: Vec<Setting> = Vec::new();
        if let Some(rules) = &self.buffer {
            all.push(("buffer.retention", rules.retention.into(), unit));
            all.push(("buffer.floor", rules.floor.into(), unit));
        }
        if let Some(rules) = &self.store {
            all.push(("store.z_threshold", rules.z_threshold.into(), large));
            all.push(("store.capacity_pressure", rules.capacity_pressure.into(), large));
            all.push(("store.retention", rules.retention.into(), unit));
            all.push(("store.floor", rules.floor.into(), unit));
        }
        if let Some(rules) = &self.diagnostic {
            let samples = (1.0, f64::from(MAX_SAMPLES));
            all.push(("diagnostic.seed", rules.seed.into(), (0.0, (1_u64 << 53) as f64)));
            all.push(("diagnostic.samples", rules.samples.into(), samples));
            all.push(("diagnostic.sigma", rules.sigma.into(), (0.0, 100.0)));
            all.push(("diagnostic.floor", rules.floor.into(), unit));
        }
        if let Some(rules) = &self.graph {
            all.push(("graph.rate", rules.rate.into(), unit));
            all.push(("graph.decay", rules.decay.into(), unit));
            all.push(("graph.window", rules.window.into(), (1.0, (1_u64 << 53) as f64)));
            all.push(("graph.depression", rules.depression.into(), unit));
            all.push(("graph.read_activity", rules.read_activity.into(), unit));
            all.push(("graph.out_degree", rules.out_degree.into(), (1.0, f64::from(MAX_SLOTS))));
            all.push(("graph.alpha", rules.alpha.into(), unit));
            all.push(("graph.focus", rules.focus.into(), (1e-3, 100.0)));
            all.push(("graph.floor", rules.floor.into(), unit));
        }
        if let Some(rules) = &self.addressing {
            let both = |name, number: f32| (name, number.into(), (-100.0, 100.0));
            all.extend(rules.bias.map(|number| both("addressing.bias", number)));
            all.extend(rules.slope.map(|number| both("addressing.slope", number)));
        }
        if let Some(rules) = &self.contradictions {
            all.push(("contradictions.cosine", rules.cosine.into(), cosine));
        }
        if let Some(rules) = &self.bias {
            all.push(("bias.cosine", rules.cosine.into(), cosine));
            all.push(("bias.keep", rules.keep.into(), unit));
        }
        for part in &self.parts {
            all.push(("parts.dim", part.dim.into(), (1.0, f64::from(MAX_SLOTS))));
            all.push(("parts.weight", part.weight.into(), (1e-6, 1e6)));
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
            search: plain.search,
            ..self.clone()
        };
        before != *self
    }
}

/// A setting's name, its value, and its least and most.
type Setting = (&'static str, SettingValue, (f64, f64));

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
        let large = (1 << 53) + 1;
        let diagnostic = Some(DiagnosticRules { seed: large, ..DiagnosticRules::default() });
        let graph = Some(GraphRules { window: u64::MAX, ..GraphRules::default() });
        let cases: [(&str, MemoryConfig); 13] = [
            ("stm_slots", MemoryConfig { stm_slots: 0, ..base.clone() }),
            ("ltm_slots", MemoryConfig { ltm_slots: 0, ..base.clone() }),
            ("ltm_slots", MemoryConfig { ltm_slots: MAX_SLOTS + 1, ..base.clone() }),
            ("merge_threshold", MemoryConfig { merge_threshold: 1.5, ..base.clone() }),
            ("age_beta", MemoryConfig { age_beta: f32::NAN, ..base.clone() }),
            ("age_beta", MemoryConfig { age_beta: f32::INFINITY, ..base.clone() }),
            ("observer_interval", MemoryConfig { observer_interval: 0, ..base.clone() }),
            ("goal_rate", MemoryConfig { goal_rate: -0.1, ..base.clone() }),
            ("observer_interval", MemoryConfig { observer_interval: large, ..base.clone() }),
            ("prune_interval", MemoryConfig { prune_interval: large, ..base.clone() }),
            ("prune_age", MemoryConfig { prune_age: u64::MAX, ..base.clone() }),
            ("diagnostic.seed", MemoryConfig { diagnostic, ..base.clone() }),
            ("graph.window", MemoryConfig { graph, ..base.clone() }),
        ];
        for (name, config) in cases {
            assert_eq!(config.check().unwrap_err().name, name);
        }
        let largest = MemoryConfig { prune_age: 1 << 53, ..base.clone() };
        assert_eq!(largest.check(), Ok(()));
        let over = MemoryConfig { prune_age: large, ..base };
        let said = over.check().unwrap_err().to_string();
        assert!(said.contains("9007199254740993; allowed: 1 to 9007199254740992"), "{said}");
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(serde_json::from_str::<MemoryConfig>(r#"{"stm_slot": 3}"#).is_err());
    }
}
