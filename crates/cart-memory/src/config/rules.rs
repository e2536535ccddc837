//! Rules that a memory may be given beside those that always hold. Each group is absent by default;
//! without any, a memory is what version 1 of the state describes.

use serde::{Deserialize, Serialize};

/// Which slot an observation is blended into, and a consolidated slot merged into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeRule {
    /// The nearest that says the same: a merge never loses a text.
    #[default]
    SameValue,
    /// The nearest, whatever it says; it says what was said last. Keys alone are enough here.
    Nearest,
}

/// How a long-term memory is searched that is too large to look at every bit of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchRule {
    /// From 65,536 positions on, among those that look near in one bit a value: at least 0.95 of the ten
    /// best are found. What is found depends on what the memory holds, and on nothing else.
    #[default]
    Quick,
    /// As if everything were looked at, whatever the size.
    Exact,
}

/// What becomes of a slot when another value comes under nearly the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContradictionPolicy {
    /// Both hold; the contradiction is reported.
    KeepBoth,
    /// What was said last holds; what was said before ends.
    Newest,
    /// What is worth more (gated energy) holds; of equals, what was said last.
    HighestEnergy,
}

/// When two values contradict each other, and which of them holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContradictionRules {
    /// Which holds.
    pub policy: ContradictionPolicy,
    /// Cosine of the two keys from which different values contradict each other.
    pub cosine: f32,
}

/// Short-term memory as a decaying buffer (SEAM): what a cycle leaves of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferRules {
    /// Share of its energy that a slot keeps in a cycle.
    pub retention: f32,
    /// A slot with less energy than this leaves at the end of a cycle.
    pub floor: f32,
}

impl Default for BufferRules {
    fn default() -> Self {
        Self { retention: 0.95, floor: 0.0 }
    }
}

/// Long-term memory as a surprise-gated store (SEAM).
///
/// What comes with a surprise of `z` deviations over the running mean is offered to long-term
/// memory at once where `z > z_threshold · (1 + capacity_pressure · fullness)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreRules {
    /// Deviations that an empty store asks for.
    pub z_threshold: f32,
    /// By which share a full store asks for more.
    pub capacity_pressure: f32,
    /// Share of its energy that a slot keeps in a cycle.
    pub retention: f32,
    /// A slot with less energy than this leaves at the end of a cycle.
    pub floor: f32,
}

impl Default for StoreRules {
    fn default() -> Self {
        Self { z_threshold: 1.0, capacity_pressure: 0.5, retention: 1.0, floor: 0.0 }
    }
}

/// The self-diagnostic: how sure the memory is of what it consolidates sets how far the goal moves.
///
/// The confidence is the counterfactual score of the entry's key against long-term memory as it was
/// before, kept in 0 to 1 (0 where it was empty); the goal's rate is multiplied by
/// `floor + (1 − floor) · confidence`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosticRules {
    /// Seed of the noise; the seed at step `n` of the goal is `seed + n`.
    pub seed: u64,
    /// Perturbed queries.
    pub samples: u32,
    /// Expected length of the noise, where the query's is 1.
    pub sigma: f32,
    /// Share of the rate that is left without any confidence.
    pub floor: f32,
}

impl Default for DiagnosticRules {
    fn default() -> Self {
        Self { seed: 0, samples: 8, sigma: 0.1, floor: 0.25 }
    }
}

/// The association graph: what was active one after the other is linked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphRules {
    /// What a link gains when both its ends are fully active, one after the other: η.
    pub rate: f32,
    /// Share of its strength that a link loses in a tick.
    pub decay: f32,
    /// Ticks between two activities that are still linked; 1 is the tick before.
    pub window: u64,
    /// Share of `rate` that the link in the other direction loses.
    pub depression: f32,
    /// How active a slot is that was read, as a multiple of its share of the scores; one that was
    /// written is fully active.
    pub read_activity: f32,
    /// Most links that leave a slot; the weakest goes.
    pub out_degree: u32,
    /// Share of the read weights that spreads along links: α.
    pub alpha: f32,
    /// Power to which scores are raised before they become read weights: over 1, what matches best passes
    /// on the most.
    #[serde(skip_serializing_if = "is_one")]
    pub focus: f32,
    /// A link that is weaker than this goes.
    pub floor: f32,
}

impl Default for GraphRules {
    fn default() -> Self {
        Self {
            rate: 0.2,
            decay: 0.001,
            window: 1,
            depression: 0.0,
            read_activity: 0.0,
            out_degree: 8,
            alpha: 0.3,
            focus: 1.0,
            floor: 0.001,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it may skip by reference")]
fn is_one(value: &f32) -> bool {
    *value == 1.0
}

/// The meta-policy: how much reads are precise, spread out, or chance.
///
/// With `u` the uncertainty of a read (0 to 1), the shares of top-k, uniform and random reads are
/// `softmax(bias + slope · u)`. The six numbers may be learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressingRules {
    /// Of top-k, uniform and random reads.
    pub bias: [f32; 3],
    /// Of top-k, uniform and random reads.
    pub slope: [f32; 3],
}

impl Default for AddressingRules {
    fn default() -> Self {
        Self { bias: [3.0, 0.0, -1.0], slope: [-2.0, 1.0, 1.0] }
    }
}

/// What is kept from long-term memory, or goes into it with less energy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BiasRules {
    /// Words, or phrases of words, that flag a text; case does not count.
    pub words: Vec<String>,
    /// Raw vectors, `[dim]` each, whose neighbourhood flags a key.
    pub centres: Vec<Vec<f32>>,
    /// Cosine with a centre from which a key is flagged.
    pub cosine: f32,
    /// What is left of a flagged entry's energy; with 0 it is dropped.
    pub keep: f32,
}

/// One part of a key that is put together from several: text, audio, …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Values in it.
    pub dim: u32,
    /// How much its cosine counts.
    pub weight: f32,
}
