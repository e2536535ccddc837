//! One memory: where it points, what it says, what it is worth.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vector::{self, VectorError};
use crate::{MemoryConfig, Normalization, gate};

/// A moment, counted by the caller.
pub type Tick = u64;

/// Names a slot for as long as the memory lives. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub(crate) u64);

impl SlotId {
    /// The number, counted from 0 over both stores.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// The short-term ring.
    Stm,
    /// The long-term codebook.
    Ltm,
}

/// A slot and the store it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRef {
    /// Its store.
    pub store: StoreKind,
    /// Its id.
    pub id: SlotId,
}

impl fmt::Display for SlotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.store {
            StoreKind::Stm => write!(f, "stm:{}", self.id),
            StoreKind::Ltm => write!(f, "ltm:{}", self.id),
        }
    }
}

/// What a slot says. Two slots say the same where both fields are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotValue {
    /// The tokens.
    pub token_ids: Vec<u32>,
    /// Their text.
    pub text: String,
}

impl SlotValue {
    /// Whether it says nothing: a slot of which only the key counts.
    pub fn is_empty(&self) -> bool {
        self.token_ids.is_empty() && self.text.is_empty()
    }
}

/// When what a slot says holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// From this tick.
    pub from: Tick,
    /// Up to this tick, which is not part of it.
    pub until: Option<Tick>,
    /// The slot that took its place.
    pub superseded_by: Option<SlotId>,
}

impl Validity {
    /// Whether it holds at a tick. Whatever comes before `from` is not asked about.
    pub fn holds(&self, at: Tick) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

/// Sums of the observations in a key. An EMA depends on the order of its inputs; these do not, so
/// they are what a merge of two memories adds up.
///
/// Consolidation moves the sums with the slot: the sums of a short-term slot cover what has come
/// since it was last consolidated, so no observation is counted in two places.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyStatistics {
    /// `Σ w · key` over raw keys, `[dim]`, with an observation's energy as its weight `w`.
    pub weighted_sum: Vec<f64>,
    /// `Σ w`.
    pub weight: f64,
    /// Observations.
    pub count: u64,
}

impl KeyStatistics {
    pub(crate) fn of(key: &[f32], weight: f32) -> Self {
        let mut statistics = Self::zero(key.len());
        statistics.add(key, weight);
        statistics
    }

    pub(crate) fn zero(dim: usize) -> Self {
        Self { weighted_sum: vec![0.0; dim], weight: 0.0, count: 0 }
    }

    pub(crate) fn add(&mut self, key: &[f32], weight: f32) {
        for (sum, &value) in self.weighted_sum.iter_mut().zip(key) {
            *sum += f64::from(weight) * f64::from(value);
        }
        self.weight += f64::from(weight);
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sum, &value) in self.weighted_sum.iter_mut().zip(&other.weighted_sum) {
            *sum += value;
        }
        self.weight += other.weight;
        self.count += other.count;
    }
}

/// The hidden state at each token of a span, as unit directions in half precision and the lengths
/// that they had.
///
/// Half precision bounds what a span costs; unit directions always fit its range, which raw
/// hidden states do not. In memory the values are f32, each one that half precision can hold, so
/// that a scan needs no conversion and storing loses nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenKeys {
    dim: usize,
    rows: Vec<f32>,
    norms: Vec<f32>,
}

impl TokenKeys {
    /// Numbers in it.
    fn floats(&self) -> usize {
        self.rows.len() + self.norms.len()
    }

    /// No rows.
    pub(crate) fn empty(dim: usize) -> Self {
        Self { dim, rows: Vec::new(), norms: Vec::new() }
    }

    /// * `raw`: `[tokens, dim]`, checked
    pub(crate) fn normalized(
        raw: &[f32],
        normalization: &Normalization,
    ) -> Result<Self, VectorError> {
        let mut keys = Self::empty(normalization.dim());
        keys.rows.reserve_exact(raw.len());
        for (row, raw) in raw.chunks_exact(keys.dim).enumerate() {
            let (unit, norm) = normalization.unit_and_norm("token keys", row, raw)?;
            keys.rows.extend(unit.into_iter().map(vector::round_to_half));
            keys.norms.push(norm);
        }
        Ok(keys)
    }

    /// Rows that were stored; the caller has checked that they are whole.
    pub(crate) fn from_parts(dim: usize, rows: Vec<f32>, norms: Vec<f32>) -> Self {
        Self { dim, rows, norms }
    }

    /// Number of rows: the number of tokens, or 0.
    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.norms.is_empty()
    }

    /// Unit directions, `[tokens, dim]`, flat.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Lengths after centring and scaling, `[tokens]`.
    pub fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// The same rows over and over, or the first ones, until there are `len`.
    pub(crate) fn cycled(&self, len: usize) -> Self {
        if self.is_empty() {
            return self.clone();
        }
        let rows = self.rows.chunks_exact(self.dim).cycle().take(len).flatten().copied().collect();
        let norms = self.norms.iter().cycle().take(len).copied().collect();
        Self { dim: self.dim, rows, norms }
    }
}

/// That a short-term slot was offered to long-term memory, so that it is not offered again unless
/// its energy has risen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consolidation {
    /// When.
    pub at: Tick,
    /// The long-term slot, or none where every long-term slot was worth more.
    pub into: Option<SlotId>,
    /// The energy that the slot had.
    pub energy: f32,
}

/// One memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its name.
    pub id: SlotId,
    /// Raw key, `[dim]`: the running average of the observations in it.
    pub key: Vec<f32>,
    /// What it says.
    pub value: SlotValue,
    /// The hidden state at each token; as many as `value.token_ids`, or none.
    pub token_keys: TokenKeys,
    /// How much it matters, 0 to 1.
    pub energy: f32,
    /// The gate `A`; 0 at birth.
    pub gate: f32,
    /// When it was made.
    pub made: Tick,
    /// When an observation was last blended into it.
    pub refreshed: Tick,
    /// When it was last recalled; when it was made, at first.
    pub read: Tick,
    /// Observations in it.
    pub count: u64,
    /// Where its value comes from.
    pub source: String,
    /// When it holds.
    pub validity: Validity,
    /// Sums of what is in its key.
    pub statistics: KeyStatistics,
    /// For a short-term slot: whether it has been offered to long-term memory.
    pub consolidation: Option<Consolidation>,
    /// What was wanted when it was made or used, oldest first: `[dim]` each, at most `goal_vectors`.
    pub goals: Vec<Vec<f32>>,
}

impl Slot {
    /// `σ(A) · energy`.
    pub fn gated_energy(&self) -> f32 {
        gate::gated_energy(self.gate, self.energy)
    }

    /// Bytes that its vectors, tokens and text take.
    pub fn bytes(&self) -> usize {
        let floats = self.key.len()
            + self.token_keys.floats()
            + self.goals.iter().map(Vec::len).sum::<usize>();
        let text = self.value.text.len() + self.source.len();
        size_of::<f32>() * floats
            + size_of::<f64>() * self.statistics.weighted_sum.len()
            + size_of::<u32>() * self.value.token_ids.len()
            + text
    }

    /// The last tick at which it was written or read.
    pub fn accessed(&self) -> Tick {
        self.made.max(self.refreshed).max(self.read)
    }

    /// How much of it age has left: `exp(−β · (at − refreshed))` in short-term memory, 1 in
    /// long-term memory, where age works through pruning.
    pub fn decay(&self, store: StoreKind, at: Tick, config: &MemoryConfig) -> f32 {
        match store {
            StoreKind::Stm => gate::decay(config.age_beta, at.saturating_sub(self.refreshed)),
            StoreKind::Ltm => 1.0,
        }
    }

    /// `ln(σ(A) · energy · decay + ε)`.
    pub fn bias(&self, store: StoreKind, at: Tick, config: &MemoryConfig) -> f32 {
        gate::bias(self.gate, self.energy, self.decay(store, at, config))
    }
}
